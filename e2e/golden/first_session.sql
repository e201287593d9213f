.open 'file:test.db?vfs=bottomless'
CREATE TABLE v(id INTEGER PRIMARY KEY, v TEXT);
INSERT INTO v(v) VALUES (42);
INSERT INTO v(v) VALUES (zeroblob(8193));
INSERT INTO v(v) VALUES ('hey');
SELECT v FROM v WHERE length(v) < 10;
SELECT length(v) FROM v;
PRAGMA integrity_check;
-- elsewhere
.open 'file:test.db?vfs=bottomless'
SELECT length(v) FROM v;
PRAGMA integrity_check;
