#!/bin/sh
# Makes the secrets of the compose stack: a random one each, in .secrets/, once. One that is there stays as it is.
# The folder is its owner's alone. The files can be read by all, for in the containers others than the owner read them.
set -eu
folder="${1:-.secrets}"
umask 077
mkdir -p "$folder"
for name in airflow_password grafana_password hash_key marquez_db_password page_token redshift_owner_password \
  redshift_password salesforce_secret snowflake_password; do
  if [ ! -s "$folder/$name" ]; then
    od -An -N 24 -tx1 /dev/urandom | tr -d ' \n' > "$folder/$name.part"
    chmod 0444 "$folder/$name.part"
    mv "$folder/$name.part" "$folder/$name"
    echo "made $folder/$name"
  fi
done
