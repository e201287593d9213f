.open 'file:test.db?vfs=bottomless'
PRAGMA journal_mode;
PRAGMA journal_mode = WAL;
CREATE TABLE t(a, b UNIQUE);
INSERT INTO t VALUES(1, 'one'), (2, 'two');
PRAGMA wal_checkpoint(TRUNCATE);
PRAGMA journal_mode = PERSIST;
INSERT INTO t VALUES(3, 'three');
PRAGMA journal_mode = TRUNCATE;
BEGIN;
DELETE FROM t;
ROLLBACK;
PRAGMA journal_mode = MEMORY;
UPDATE t SET a = a * 10;
PRAGMA journal_mode = DELETE;
INSERT INTO t VALUES(4, 'one');
PRAGMA page_size = 1024;
VACUUM;
PRAGMA page_size;
SELECT * FROM t;
-- elsewhere
.open 'file:test.db?vfs=bottomless'
PRAGMA journal_mode;
PRAGMA page_size;
SELECT * FROM t;
