# Starts the server. A temporary server in memory makes its certificate, since no other CA exists yet.
set -eu
vault=$(command -v bao || command -v vault)
mkdir -p /data/raft
if [ ! -s /data/listener.pem ]; then
  (
    umask 077
    unset VAULT_CACERT
    VAULT_ADDR=http://127.0.0.1:8300 VAULT_TOKEN=$(cat /proc/sys/kernel/random/uuid)
    export VAULT_ADDR VAULT_TOKEN
    "$vault" server -dev -dev-no-store-token -dev-root-token-id="$VAULT_TOKEN" \
      -dev-listen-address=127.0.0.1:8300 >/dev/null 2>&1 &
    until "$vault" token lookup >/dev/null 2>&1; do sleep 0.2; done
    "$vault" secrets enable -max-lease-ttl=87600h pki
    "$vault" write -field=certificate pki/root/generate/internal \
      common_name="The demo's OpenBao" ttl=87600h key_type=ec key_bits=256 >/public/openbao.pem
    chmod 644 /public/openbao.pem
    "$vault" write pki/roles/listener \
      allow_any_name=true enforce_hostnames=false key_type=ec key_bits=256 max_ttl=87600h
    # Key, certificate and chain, in one file.
    "$vault" write -field=certificate pki/issue/listener common_name=openbao alt_names=localhost \
      ip_sans=127.0.0.1 ttl=80000h format=pem_bundle >/data/listener.new
    kill $!
    wait
    mv /data/listener.new /data/listener.pem
  )
fi
exec "$vault" server -config=/demo/openbao.hcl
