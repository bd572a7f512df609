# Starts PostgreSQL; the first start creates the user and the database `app`.
set -euo pipefail
data=/var/lib/postgresql/data/cluster
if [ ! -d "$data" ]; then
  rm -rf "$data.new"
  # `trust` applies to initdb only: the server uses our pg_hba.conf.
  initdb --pgdata="$data.new" --username=postgres --auth=trust --encoding=UTF8 --no-locale
  postgres --single -D "$data.new" postgres <<'SQL'
create role app login
create database app owner app
SQL
  mv "$data.new" "$data"
fi
exec postgres -D "$data" -c config_file=/demo/postgresql.conf
