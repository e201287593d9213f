#!/usr/bin/env bash
# Writes a small database through the extension and reads it back.
#
# Needs an S3-compatible server: http://localhost:9000 unless LIBSQL_BOTTOMLESS_ENDPOINT names another.
# INITIAL_REPLICATION (error, force or skip) says what happens to a test.db that is there already; here the default
# is force: it becomes the next transaction.
set -euo pipefail
cd "$(dirname "$0")"
source ./common.sh

: "${INITIAL_REPLICATION:=${LIBSQL_BOTTOMLESS_INITIAL_REPLICATION:-force}}"
find_build
configure
ensure_bucket

found=$(run_sql <<SQL
DROP TABLE IF EXISTS test;
CREATE TABLE test(v);
INSERT INTO test VALUES (42);
INSERT INTO test VALUES (zeroblob(8193));
INSERT INTO test VALUES ('hey');
$rows
SQL
) || fail "sqlite3 failed"
echo "$found"
expect "$found" "$expected_rows"

# Every COMMIT is in the bucket: what another machine would restore now is this file, byte for byte.
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
"$cli" restore --database "${LIBSQL_BOTTOMLESS_DATABASE_ID:-test.db}" --output "$copy/test.db" >/dev/null ||
    fail "the bucket does not give test.db back"
cmp test.db "$copy/test.db" >&2 || fail "the bucket holds another state than test.db"
echo "smoke test passed"
