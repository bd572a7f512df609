# Starts PostgreSQL, with a user and a database `app` from the first start on.
set -euo pipefail
data=/var/lib/postgresql/data/cluster
if [ ! -d "$data" ]; then
  rm -rf "$data.new"
  # `trust` is for initdb alone: pg_hba.conf is ours.
  initdb --pgdata="$data.new" --username=postgres --auth=trust --encoding=UTF8 --no-locale
  postgres --single -D "$data.new" postgres <<'SQL'
create role app login
create database app owner app
SQL
  mv "$data.new" "$data"
fi
exec postgres -D "$data" -c config_file=/demo/postgresql.conf
