# The operator's work. Each part is a command that can run alone, and repeatedly:
#   up                  unseals, sets up what is missing, gives the service a new credential
#   new-ca              makes another root and intermediate; PostgreSQL then trusts both
#   use-ca              makes the newest CA the issuer
#   server-certificate  gives PostgreSQL a new certificate
#   only-ca             PostgreSQL then trusts the newest CA alone
#   revoke SERIAL       revokes a certificate and writes PostgreSQL's list
# PostgreSQL reads the new files only after a reload.
set -eu
umask 077
vault=$(command -v bao || command -v vault)
kept=/operator/init
# Users of the images postgres:17 and distroless.
POSTGRES_GROUP=999
SERVICE=65532

up() {
  unseal
  # This is set up last: if it exists, everything does.
  "$vault" read auth/approle/role/app/role-id >/dev/null 2>&1 || set_up
  crls
  hand_over role_id "$("$vault" read -field=role_id auth/approle/role/app/role-id)"
  # For one use within five minutes: a copy that is read later is worthless.
  hand_over wrapped_secret_id "$("$vault" write -f -wrap-ttl=5m -field=wrapping_token auth/approle/role/app/secret-id)"
}

unseal() {
  if [ ! -s "$kept" ]; then
    "$vault" operator init -key-shares=1 -key-threshold=1 >"$kept.new"
    mv "$kept.new" "$kept"
  fi
  log_in
  sed -n 's/^Unseal Key 1: //p' "$kept" | tr -d '\n' | "$vault" write sys/unseal key=- >/dev/null
  tries=0
  until "$vault" token lookup >/dev/null 2>&1; do
    tries=$((tries + 1))
    [ "$tries" -lt 300 ] || { echo "OpenBao is not active a minute after it was unsealed" >&2; exit 1; }
    sleep 0.2
  done
}

log_in() {
  VAULT_TOKEN=$(sed -n 's/^Initial Root Token: //p' "$kept")
  export VAULT_TOKEN
}

set_up() {
  for mount in pki pki_int; do
    "$vault" secrets list | grep -q "^$mount/" || "$vault" secrets enable -path=$mount -max-lease-ttl=87600h pki
    "$vault" write $mount/config/crl expiry=8760h >/dev/null
  done
  : >/tls/clients.pem
  new_ca
  use_ca
  # Certificates are stored, so that each can be revoked by its serial number.
  "$vault" write pki_int/roles/app key_type=ec key_bits=256 client_flag=true server_flag=false \
    allowed_domains=app allow_bare_domains=true enforce_hostnames=false \
    no_store=false generate_lease=false max_ttl=24h >/dev/null
  "$vault" write pki_int/roles/postgres key_type=ec key_bits=256 client_flag=false server_flag=true \
    allowed_domains=postgres allow_bare_domains=true generate_lease=false max_ttl=8760h >/dev/null
  server_certificate
  "$vault" auth list | grep -q '^approle/' || "$vault" auth enable approle
  "$vault" policy write app - <<'POLICY'
path "pki_int/sign/app" { capabilities = ["update"] }
POLICY
  "$vault" write auth/approle/role/app token_policies=app token_ttl=1h token_max_ttl=24h >/dev/null
}

new_ca() {
  name=$(date -u +%Y-%m-%dT%H:%M:%SZ)
  root=$("$vault" write -field=issuer_id pki/root/generate/internal \
    common_name="Demo root $name" ttl=87600h key_type=ec key_bits=256)
  csr=$("$vault" write -field=csr pki_int/intermediate/generate/internal \
    common_name="Demo intermediate $name" key_type=ec key_bits=256)
  # With the root, so that each answer includes it.
  chain=$("$vault" write -field=certificate "pki/issuer/$root/sign-intermediate" \
    csr="$csr" format=pem_bundle ttl=43800h)
  imported=$("$vault" write -field=imported_issuers pki_int/intermediate/set-signed certificate="$chain")
  for issuer in $(echo "$imported" | tr -d '[],"'); do
    # The mount has the root without its key.
    [ -z "$("$vault" read -field=key_id "pki_int/issuer/$issuer")" ] || echo "$issuer" >/operator/newest
  done
  "$vault" read -field=certificate "pki/issuer/$root" >/tls/newest.pem
  { cat /tls/newest.pem; echo; cat /tls/clients.pem; } >/tls/clients.new
  chmod 644 /tls/clients.new
  mv /tls/clients.new /tls/clients.pem
  crls
}

use_ca() { "$vault" write pki_int/config/issuers default="$(cat /operator/newest)" >/dev/null; }

server_certificate() {
  "$vault" write -field=certificate pki_int/issue/postgres \
    common_name=postgres ttl=8760h format=pem_bundle >/tls/server.new
  # PostgreSQL accepts a key that root owns and its own group may read.
  chown "0:$POSTGRES_GROUP" /tls/server.new
  chmod 640 /tls/server.new
  mv /tls/server.new /tls/server.pem
}

only_ca() {
  install_public /tls/newest.pem /tls/clients.pem
  crls
}

# One list for each CA: PostgreSQL refuses every client of a CA whose list is missing.
crls() {
  for mount in pki pki_int; do
    "$vault" read $mount/crl/rotate >/dev/null
    for issuer in $("$vault" list $mount/issuers | tail -n +3); do
      [ -z "$("$vault" read -field=key_id "$mount/issuer/$issuer")" ] ||
        "$vault" read -field=crl "$mount/issuer/$issuer/crl"
      echo
    done
  done >/tmp/crl
  install_public /tmp/crl /tls/crl.pem
}

revoke() {
  "$vault" write pki_int/revoke serial_number="$1" >/dev/null
  crls
}

install_public() {
  cp "$1" "$2.new"
  chmod 644 "$2.new"
  mv "$2.new" "$2"
}

hand_over() {
  printf %s "$2" >"/credential/$1.new"
  chown "$SERVICE" "/credential/$1.new"
  chmod 400 "/credential/$1.new"
  mv "/credential/$1.new" "/credential/$1"
}

case "$1" in
  up) up ;;
  new-ca) log_in; new_ca ;;
  use-ca) log_in; use_ca ;;
  server-certificate) log_in; server_certificate ;;
  only-ca) log_in; only_ca ;;
  revoke) log_in; revoke "$2" ;;
  *) sed -n '2,7s/^# *//p' "$0" >&2; exit 2 ;;
esac
