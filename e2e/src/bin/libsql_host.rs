//! A process with libSQL, by its own driver, that executes what it is told: one JSON line in, one JSON line out.

use std::collections::HashMap;
use std::io::{BufRead, Write};

use futures_executor::block_on;
use libsql::{Builder, Connection, Value as Sql};
use serde_json::{Value, json};

fn main() {
    let mut connections = HashMap::new();
    for line in std::io::stdin().lock().lines() {
        let command: Value = serde_json::from_str(&line.expect("a line")).expect("a command");
        let answer = match block_on(execute(&mut connections, &command)) {
            Ok(rows) => json!({ "rows": rows }),
            Err(libsql::Error::SqliteFailure(code, message)) => json!({"error": {"code": code, "message": message}}),
            Err(e) => json!({"error": {"code": 1, "message": e.to_string()}}),
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{answer}").and_then(|()| out.flush()).expect("answer");
    }
}

async fn execute(connections: &mut HashMap<u64, Connection>, command: &Value) -> libsql::Result<Vec<Value>> {
    let text = |name: &str| command[name].as_str().unwrap_or_default();
    let number = command["conn"].as_u64().unwrap_or_default();
    match text("op") {
        "load" => {
            let loader = Builder::new_local(":memory:").build().await?.connect()?;
            loader.load_extension_enable()?;
            loader.load_extension(text("path"), None)?;
            loader.load_extension_disable()?;
        }
        "open" => {
            let connection = Builder::new_local(text("name")).build().await?.connect()?;
            connections.insert(number, connection);
        }
        "exec" => {
            let connection = connections.get(&number).ok_or(libsql::Error::InvalidColumnIndex)?;
            // The driver executes one statement of a text that returns rows.
            let mut answer = Vec::new();
            let mut rows = connection.query(text("sql"), ()).await?;
            while let Some(row) = rows.next().await? {
                let values: libsql::Result<Vec<Value>> = (0..row.column_count())
                    .map(|i| {
                        Ok(match row.get_value(i)? {
                            Sql::Null => Value::Null,
                            Sql::Integer(v) => json!(v),
                            Sql::Real(v) => json!(v),
                            Sql::Text(v) => json!(v),
                            Sql::Blob(v) => json!({"blob": hex::encode(v)}),
                        })
                    })
                    .collect();
                answer.push(Value::Array(values?));
            }
            return Ok(answer);
        }
        "close" => drop(connections.remove(&number)),
        other => panic!("no such operation: {other}"),
    }
    Ok(Vec::new())
}
