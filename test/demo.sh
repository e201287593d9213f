#!/usr/bin/env bash
# The first session: write through the extension, look into the bucket, lose the file, get it back.
#
# Uses the S3 server on localhost:9000. If none listens there, the development server of this workspace does for the
# time of the demo, with a folder of its own that is removed at the end.
set -euo pipefail
cd "$(dirname "$0")"
source ./common.sh

say() {
    if [[ -t 1 ]]; then
        printf '\n\033[1m%s\033[0m\n' "$*"
    else
        printf '\n%s\n' "$*"
    fi
}

need_sqlite3() {
    command -v sqlite3 >/dev/null && return
    if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
        fail "the sqlite3 shell is missing: install it (on Debian: sudo apt-get install sqlite3) and run this again"
    fi
    say "Installing the sqlite3 shell"
    apt-get install -y -qq sqlite3 >/dev/null 2>&1 ||
        { apt-get update -qq >/dev/null && apt-get install -y -qq sqlite3 >/dev/null; } ||
        fail "apt-get could not install sqlite3"
}

# The server stops when the pipe that is its standard input closes: also when this script is killed.
start_server() {
    local server=$build/bottomless-devserver url
    [[ -x $server ]] || server=../target/debug/bottomless-devserver
    [[ -x $server ]] || fail "bottomless-devserver is missing: run make demo in the folder above"
    coproc SERVER { exec "$server" --create-bucket libsql --until-stdin-closes; }
    server_pid=$SERVER_PID
    read -r url <&"${SERVER[0]}" || fail "the development server did not start"
    say "Started a development S3 server on $url"
    # It takes any credentials; these spare the AWS chain a search that may fail.
    export AWS_ACCESS_KEY_ID=minioadmin AWS_SECRET_ACCESS_KEY=minioadmin
    unset AWS_SESSION_TOKEN
}

clean_up() {
    rm -f test.db test.db-wal test.db-shm test.db-journal test.db-bottomless
    if [[ -n ${server_pid-} ]]; then
        kill "$server_pid" 2>/dev/null || true
        wait "$server_pid" 2>/dev/null || true
    fi
}

# The demo writes to localhost, whatever store the user's variables name.
for variable in "${!LIBSQL_BOTTOMLESS_@}" AWS_ENDPOINT_URL AWS_ENDPOINT_URL_S3 INITIAL_REPLICATION; do
    unset "$variable"
done
export LIBSQL_BOTTOMLESS_ENDPOINT=http://localhost:9000

find_build
need_sqlite3
trap clean_up EXIT
if (exec 3<>/dev/tcp/localhost/9000) 2>/dev/null; then
    say "Using the S3 server that listens on localhost:9000"
else
    start_server
fi

say "Writing through file:test.db?vfs=bottomless: each COMMIT is an object in the bucket before it returns"
./smoke_test.sh

say "The bucket now holds the history of test.db (bottomless-cli ls -d test.db)"
configure
"$cli" ls -d test.db

say "Deleting test.db and opening it again: it is filled from the bucket"
./restore_test.sh
