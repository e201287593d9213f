#!/usr/bin/env bash
# Deletes the database that smoke_test.sh wrote, opens it again, and gets the same rows back from the bucket.
set -euo pipefail
cd "$(dirname "$0")"
source ./common.sh

find_build
configure

rm -f test.db test.db-wal test.db-shm test.db-journal test.db-bottomless
found=$(run_sql <<SQL
$rows
PRAGMA integrity_check;
SQL
) || fail "sqlite3 failed; the restore test needs what smoke_test.sh has written"
echo "$found"
expect "$found" "$expected_rows
ok"
[[ -s test.db ]] || fail "test.db is empty"
echo "restore test passed"
