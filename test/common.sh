# Sourced by the scripts beside it: where the build is, which store to use, how to run the stock sqlite3 shell.
# shellcheck shell=bash

fail() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

# Of the release and the debug build, the newer.
find_build() {
    local debug=../target/debug release=../target/release
    if [[ -e $release/bottomless.so && ! $debug/bottomless.so -nt $release/bottomless.so ]]; then
        build=$release
    elif [[ -e $debug/bottomless.so ]]; then
        build=$debug
    else
        fail "no bottomless.so in $release or $debug: run make in the folder above first"
    fi
    cli=$build/bottomless-cli
    [[ -x $cli ]] || fail "$cli is missing: run make in the folder above first"
}

# The store is what the variables of bottomless say. A store on this machine with nothing said about credentials
# gets those that development servers come with.
configure() {
    local endpoint=${LIBSQL_BOTTOMLESS_ENDPOINT:-${AWS_ENDPOINT_URL_S3:-${AWS_ENDPOINT_URL:-http://localhost:9000}}}
    local said="${AWS_ACCESS_KEY_ID-}${AWS_PROFILE-}${AWS_WEB_IDENTITY_TOKEN_FILE-}"
    said+="${AWS_CONTAINER_CREDENTIALS_RELATIVE_URI-}${AWS_CONTAINER_CREDENTIALS_FULL_URI-}"
    if [[ -z $said && ! -e ${AWS_SHARED_CREDENTIALS_FILE:-${HOME-}/.aws/credentials} ]] &&
        [[ $endpoint =~ ^https?://(localhost|127\.0\.0\.1|\[::1\])(:|/|$) ]]; then
        export AWS_ACCESS_KEY_ID=minioadmin AWS_SECRET_ACCESS_KEY=minioadmin
    fi
    # The name that the first description of the system has for it.
    if [[ -n ${INITIAL_REPLICATION-} ]]; then
        export LIBSQL_BOTTOMLESS_INITIAL_REPLICATION=$INITIAL_REPLICATION
    fi
}

# With a database named, ls would fail for want of the database too.
ensure_bucket() {
    env -u LIBSQL_BOTTOMLESS_DATABASE_ID "$cli" ls >/dev/null 2>&1 || "$cli" create-bucket >/dev/null ||
        fail "there is no bucket to write to"
}

# Runs the SQL of standard input on test.db through bottomless. When .open fails, the shell goes on with an empty
# database in memory and would pass any test: so the first statement fails if the database has no file.
run_sql() {
    command -v sqlite3 >/dev/null || fail "the sqlite3 shell is missing: install it (on Debian: apt-get install sqlite3)"
    {
        printf '.load %s\n' "$build/bottomless"
        printf '.open file:test.db?vfs=bottomless\n'
        printf 'CREATE TEMP TABLE opened(file CONSTRAINT "test.db is open" CHECK (file <> %s));\n' "''"
        printf 'INSERT INTO temp.opened SELECT file FROM pragma_database_list WHERE name = %s;\n' "'main'"
        cat
    } | sqlite3 -batch -bail :memory:
}

# Fails unless the first two arguments are equal texts.
expect() {
    if [[ $1 != "$2" ]]; then
        diff <(echo "$2") <(echo "$1") >&2 || true
        fail "the rows are not those that were inserted (<: expected, >: found)"
    fi
}

rows="SELECT typeof(v), length(v), iif(typeof(v) = 'blob', v = zeroblob(8193), v) FROM test ORDER BY rowid;"
expected_rows='integer|2|42
blob|8193|1
text|3|hey'
