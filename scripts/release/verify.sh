#!/bin/sh
# Compares what the registry serves with the packages in a folder, and asks npm to verify signatures and origin.
set -eu
packages=$(cd "$1" && pwd)
folder=$(mktemp -d)
cd "$folder"
echo '{ "private": true }' > package.json
for package in "$packages"/*.tgz; do
  tar -xOf "$package" package/package.json > manifest.json
  name=$(node -p 'const { name, version } = JSON.parse(fs.readFileSync("manifest.json")); `${name}@${version}`')
  # A new version may take a minute to be served.
  tries=0
  until npm pack --silent "$name" > file-name; do
    tries=$((tries + 1))
    [ "$tries" -lt 30 ] || exit 1
    sleep 10
  done
  cmp "$package" "$(cat file-name)"
  echo "$name: as it was built"
done
main=$(node -p 'const fs = require("fs"); const file = fs.readdirSync(process.argv[1]).find((name) => /^session-write-lock-[0-9]/.test(name)); file.replace(/^session-write-lock-|\.tgz$/g, "")' "$packages")
npm install --ignore-scripts --no-audit --no-fund "session-write-lock@$main"
npm audit signatures
