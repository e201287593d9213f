"""A process with the system's SQLite, by Python's own module, that executes what it is told.

One JSON line in, one JSON line out, as the other hosts of these tests.
"""

import json
import sqlite3
import sys

connections = {}
cursors = {}


def statements(sql):
    """The single statements of a text: execute() takes one at a time."""
    part = ""
    for piece in sql.split(";"):
        part += piece + ";"
        if sqlite3.complete_statement(part):
            yield part
            part = ""


def value(v):
    return {"blob": v.hex()} if isinstance(v, bytes) else v


def execute(command):
    op = command["op"]
    if op == "load":
        loader = sqlite3.connect(":memory:")
        loader.enable_load_extension(True)
        loader.load_extension(command["path"])
        loader.close()
    elif op == "open":
        connections[command["conn"]] = sqlite3.connect(
            command["name"], uri=True, isolation_level=None, timeout=60
        )
    elif op == "exec":
        rows = []
        for statement in statements(command["sql"]):
            if statement.strip(" \n;"):
                cursor = connections[command["conn"]].execute(statement)
                rows += [[value(v) for v in row] for row in cursor.fetchall()]
        return rows
    elif op == "cursor":
        # A statement that stays open behind its first row, until "fetch" takes the others.
        cursors[command["conn"]] = connections[command["conn"]].execute(command["sql"])
        return [[value(v) for v in cursors[command["conn"]].fetchone()]]
    elif op == "fetch":
        return [[value(v) for v in row] for row in cursors.pop(command["conn"]).fetchall()]
    elif op == "close":
        connections.pop(command["conn"]).close()
    elif op == "backup":
        source, target = connections[command["from"]], connections[command["to"]]
        source.backup(target, pages=command["pages"])
    elif op == "blob":
        connection = connections[command["conn"]]
        with connection.blobopen(command["table"], command["column"], command["row"]) as blob:
            blob.seek(command["offset"])
            blob.write(bytes.fromhex(command["hex"]))
    else:
        raise ValueError(op)
    return []


for line in sys.stdin:
    try:
        answer = {"rows": execute(json.loads(line))}
    except sqlite3.Error as e:
        code = getattr(e, "sqlite_errorcode", 1)
        answer = {"error": {"code": code, "message": str(e)}}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
