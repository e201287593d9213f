.open 'file:test.db?vfs=bottomless'
CREATE TABLE theirs(v);
-- elsewhere
.open test.db
CREATE TABLE ours(v);
.open 'file:test.db?vfs=bottomless'
SELECT name FROM sqlite_schema;
.open 'file:test.db?vfs=bottomless&initial_replication=force'
SELECT name FROM sqlite_schema;
-- elsewhere
.open 'file:test.db?vfs=bottomless'
SELECT name FROM sqlite_schema;
