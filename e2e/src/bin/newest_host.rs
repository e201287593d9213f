//! A process with the newest SQLite that executes what it is told: one JSON line in, one JSON line out.

#[path = "newest_host/crowd.rs"]
mod crowd;

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::{Connection, OpenFlags, ffi, types::ValueRef};
use serde_json::{Value, json};

fn main() {
    let mut connections = HashMap::new();
    let busy = Busy::default();
    for line in std::io::stdin().lock().lines() {
        let command: Value = serde_json::from_str(&line.expect("a line")).expect("a command");
        let answer = match execute(&mut connections, &busy, &command) {
            Ok(rows) => json!({ "rows": rows }),
            Err(e) => error(&e),
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{answer}").and_then(|()| out.flush()).expect("answer");
    }
}

fn error(e: &rusqlite::Error) -> Value {
    let code = e.sqlite_error().map_or(1, |f| f.extended_code);
    let message = match e {
        rusqlite::Error::SqliteFailure(_, Some(text)) => text.clone(),
        other => other.to_string(),
    };
    json!({"error": {"code": code, "message": message}})
}

/// Statements that run on threads of their own.
type Busy = RefCell<HashMap<u64, JoinHandle<(Connection, rusqlite::Result<Vec<Value>>)>>>;

fn execute(connections: &mut HashMap<u64, Connection>, busy: &Busy, command: &Value) -> rusqlite::Result<Vec<Value>> {
    let text = |name: &str| command[name].as_str().unwrap_or_default();
    let number = |name: &str| command[name].as_u64().unwrap_or_default();
    match text("op") {
        "load" => {
            let loader = Connection::open_in_memory()?;
            load(&loader, text("path"))?;
        }
        "open" => {
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_URI;
            let connection = Connection::open_with_flags(text("name"), flags)?;
            connection.busy_timeout(Duration::from_secs(60))?;
            connections.insert(number("conn"), connection);
        }
        "exec" => return query(connection(connections, number("conn"))?, text("sql")),
        // On a thread of its own; "finish" takes the answer.
        "start" => {
            let connection = connections.remove(&number("conn")).ok_or_else(unknown)?;
            let sql = text("sql").to_owned();
            let run = std::thread::spawn(move || {
                let result = query(&connection, &sql);
                (connection, result)
            });
            busy.borrow_mut().insert(number("conn"), run);
        }
        "finish" => {
            let run = busy.borrow_mut().remove(&number("conn")).ok_or_else(unknown)?;
            let (connection, result) = run.join().expect("the thread");
            connections.insert(number("conn"), connection);
            return result;
        }
        "crowd" => {
            crowd::run(text("name"), text("log"), number("seed"), number("process"), number("threads"), number("steps"))
        }
        "exec_all" => return exec_all(connections, command),
        "close" => {
            if let Some(connection) = connections.remove(&number("conn")) {
                connection.close().map_err(|(_, e)| e)?;
            }
        }
        "backup" => {
            let mut to = connections.remove(&number("to")).ok_or_else(unknown)?;
            let result = connection(connections, number("from")).and_then(|from| {
                let backup = rusqlite::backup::Backup::new(from, &mut to)?;
                let pages = i32::try_from(number("pages")).unwrap_or(-1);
                backup.run_to_completion(pages, Duration::ZERO, None)
            });
            connections.insert(number("to"), to);
            result?;
        }
        "blob" => {
            let connection = connection(connections, number("conn"))?;
            let row = command["row"].as_i64().unwrap_or_default();
            let mut blob = connection.blob_open("main", text("table"), text("column"), row, false)?;
            let bytes = hex::decode(text("hex")).expect("hex");
            blob.write_at(&bytes, usize::try_from(number("offset")).unwrap_or_default())?;
            blob.close()?;
        }
        other => panic!("no such operation: {other}"),
    }
    Ok(Vec::new())
}

/// Executes the same statements on many connections, spread over some threads.
fn exec_all(connections: &mut HashMap<u64, Connection>, command: &Value) -> rusqlite::Result<Vec<Value>> {
    let numbers: Vec<u64> = command["conns"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
    let threads = usize::try_from(command["threads"].as_u64().unwrap_or(1)).unwrap_or(1);
    let sql = command["sql"].as_str().unwrap_or_default();
    let mut shares: Vec<Vec<(u64, Connection)>> = (0..threads).map(|_| Vec::new()).collect();
    for (n, number) in numbers.into_iter().enumerate() {
        shares[n % threads].push((number, connections.remove(&number).ok_or_else(unknown)?));
    }
    let results: Vec<_> = std::thread::scope(|scope| {
        let run = |share: Vec<(u64, Connection)>| {
            let result = share.iter().try_for_each(|(_, connection)| query(connection, sql).map(drop));
            (share, result)
        };
        let threads: Vec<_> = shares.into_iter().map(|share| scope.spawn(move || run(share))).collect();
        threads.into_iter().map(|thread| thread.join().expect("the thread ends")).collect()
    });
    let mut outcome = Ok(Vec::new());
    for (share, result) in results {
        connections.extend(share);
        outcome = result.and(outcome);
    }
    outcome
}

fn unknown() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_MISUSE), Some("no such connection".to_owned()))
}

fn connection(connections: &HashMap<u64, Connection>, number: u64) -> rusqlite::Result<&Connection> {
    connections.get(&number).ok_or_else(unknown)
}

#[expect(unsafe_code, reason = "loading native code is what this program is for")]
fn load(connection: &Connection, path: &str) -> rusqlite::Result<()> {
    // SAFETY: the path is that of the extension under test.
    unsafe {
        connection.load_extension_enable()?;
    }
    // SAFETY: as above.
    unsafe {
        connection.load_extension(path, None::<&str>)?;
    }
    connection.load_extension_disable()
}

fn query(connection: &Connection, sql: &str) -> rusqlite::Result<Vec<Value>> {
    let mut answer = Vec::new();
    let mut batch = rusqlite::Batch::new(connection, sql);
    while let Some(mut statement) = batch.next()? {
        let columns = statement.column_count();
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next()? {
            let values: rusqlite::Result<Vec<Value>> = (0..columns)
                .map(|i| {
                    Ok(match row.get_ref(i)? {
                        ValueRef::Null => Value::Null,
                        ValueRef::Integer(v) => json!(v),
                        ValueRef::Real(v) => json!(v),
                        ValueRef::Text(v) => json!(String::from_utf8_lossy(v)),
                        ValueRef::Blob(v) => json!({"blob": hex::encode(v)}),
                    })
                })
                .collect();
            answer.push(Value::Array(values?));
        }
    }
    Ok(answer)
}
