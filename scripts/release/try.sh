#!/bin/sh
# Installs packed packages from a folder, as npm would from its registry, and runs the checks of smoke.cjs on them.
set -eu
packages=$(cd "$1" && pwd)
smoke=$(cd "$(dirname "$0")" && pwd)/smoke.cjs
folder=$(mktemp -d)
cd "$folder"
echo '{ "private": true }' > package.json

# npm takes from a folder only what fits this system if it is told what that is.
platform=$(node -p '
  const libc = process.report.getReport().header.glibcVersionRuntime ? "gnu" : "musl";
  const linux = `-${libc}${process.arch === "arm" ? "eabihf" : ""}`;
  const flavour = { linux, win32: "-msvc" }[process.platform] ?? "";
  `${process.platform}-${process.arch}${flavour}`')
npm install --ignore-scripts --omit=optional --no-audit --no-fund "$packages"/session-write-lock-[0-9]*.tgz
npm install --ignore-scripts --omit=optional --no-audit --no-fund "$packages"/session-write-lock-"$platform"-*.tgz
cp "$smoke" .
node smoke.cjs
npx --no-install session-write-lock --version
