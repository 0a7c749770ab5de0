-- The first form of a station's ledger. docs/ledger.md explains it to strangers.

CREATE TABLE meta (
	one     INTEGER PRIMARY KEY CHECK (one = 1),
	station TEXT NOT NULL,
	origin  TEXT NOT NULL
) STRICT;

-- The facts. bytes is the leaf of the Merkle tree, written once.
CREATE TABLE events (
	seq   INTEGER PRIMARY KEY,
	unit  INTEGER, -- the unit that the event is about; NULL if none
	bytes BLOB NOT NULL
) STRICT;

CREATE INDEX events_unit ON events (unit, seq) WHERE unit IS NOT NULL;

CREATE TRIGGER events_stay BEFORE UPDATE ON events
BEGIN SELECT RAISE(ABORT, 'an event is never changed'); END;

CREATE TRIGGER events_remain BEFORE DELETE ON events
BEGIN SELECT RAISE(ABORT, 'an event is never removed'); END;

-- Hashes of complete blocks of 256^k leaves, level = 8k. All else is computed.
CREATE TABLE tiles (
	level INTEGER NOT NULL,
	n     INTEGER NOT NULL,
	hash  BLOB NOT NULL CHECK (length(hash) = 32),
	PRIMARY KEY (level, n)
) STRICT, WITHOUT ROWID;

CREATE TABLE checkpoints (
	size INTEGER PRIMARY KEY,
	text BLOB NOT NULL
) STRICT;

-- The states folded from the events, so that nobody has to fold to know them.
CREATE TABLE units (
	id       INTEGER PRIMARY KEY,
	ord      TEXT NOT NULL,
	customer TEXT NOT NULL,
	state    TEXT NOT NULL,
	body     TEXT NOT NULL
) STRICT;

CREATE INDEX units_ord ON units (ord, id);
CREATE INDEX units_customer ON units (customer, id);
CREATE INDEX units_state ON units (state, id);

CREATE TABLE orders (
	id       TEXT PRIMARY KEY,
	customer TEXT NOT NULL,
	live     INTEGER NOT NULL CHECK (live >= 0),
	quota    INTEGER NOT NULL,
	body     TEXT NOT NULL,
	CHECK (live <= quota)
) STRICT, WITHOUT ROWID;

-- Each name in a space has at most one owner: that is the promise "one identity,
-- one device". short is what a person types to find a unit by it.
CREATE TABLE owners (
	space TEXT NOT NULL,
	name  TEXT NOT NULL,
	owner INTEGER NOT NULL,
	short TEXT GENERATED ALWAYS AS (
		CASE space
		WHEN 'hardware' THEN substr(name, instr(name, '=') + 1)
		WHEN 'serial' THEN substr(name, instr(name, '/') + 1)
		WHEN 'certificate' THEN substr(name, instr(name, '/') + 1)
		END) VIRTUAL,
	PRIMARY KEY (space, name)
) STRICT, WITHOUT ROWID;

CREATE INDEX owners_short ON owners (short) WHERE short IS NOT NULL;

CREATE TRIGGER owners_stay BEFORE UPDATE ON owners WHEN NEW.owner <> OLD.owner
BEGIN SELECT RAISE(ABORT, 'a name does not change hands'); END;

-- Secrets, encrypted, beside the log: NULL once destroyed.
CREATE TABLE seals (
	ref    TEXT PRIMARY KEY,
	unit   INTEGER NOT NULL,
	sealed BLOB
) STRICT, WITHOUT ROWID;

-- Enrollments not yet accepted. The times are microseconds since 1970, UTC.
CREATE TABLE outbox (
	unit            INTEGER PRIMARY KEY,
	registration_id TEXT NOT NULL,
	customer        TEXT NOT NULL,
	state           TEXT NOT NULL CHECK (state IN ('due', 'aside')),
	tries           INTEGER NOT NULL,
	next_at         INTEGER NOT NULL,
	last_error      TEXT NOT NULL
) STRICT;

CREATE INDEX outbox_due ON outbox (customer, next_at, unit) WHERE state = 'due';
CREATE INDEX outbox_aside ON outbox (customer, unit) WHERE state = 'aside';

CREATE TABLE outbox_customers (
	customer   TEXT PRIMARY KEY,
	accepted   INTEGER NOT NULL,
	last_error TEXT NOT NULL -- what the last try met; '' when it went well
) STRICT, WITHOUT ROWID;
