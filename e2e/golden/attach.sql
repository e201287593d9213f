.open 'file:main.db?vfs=bottomless'
ATTACH 'file:second.db?vfs=bottomless' AS second;
CREATE TABLE t(v);
CREATE TABLE second.t(v);
BEGIN;
INSERT INTO t VALUES('in main');
INSERT INTO second.t VALUES('in second');
COMMIT;
SELECT * FROM t UNION ALL SELECT * FROM second.t;
-- elsewhere
.open 'file:second.db?vfs=bottomless'
SELECT * FROM t;
.open 'file:main.db?vfs=bottomless'
SELECT * FROM t;
