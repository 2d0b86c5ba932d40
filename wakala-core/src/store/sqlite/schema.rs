//! The tables, and how a file is known to be a run store.

/// `wkla`, in the header of every run store, so that no other program's database is taken for one.
pub(super) const APPLICATION: i32 = i32::from_be_bytes(*b"wkla");

/// The version of the tables. A store of a later one is refused.
pub(super) const VERSION: i32 = 1;

/// Makes the tables in an empty database.
///
/// That lines and letters are only added, in their places, is kept by the database too, for those who come with other
/// programs. Times are in milliseconds, of day since 1970.
pub(super) const TABLES: &str = "
CREATE TABLE runs (
    run     TEXT PRIMARY KEY NOT NULL,
    epoch   INTEGER NOT NULL CHECK (epoch >= 1),
    length  INTEGER NOT NULL CHECK (length >= 0),
    closed  INTEGER NOT NULL CHECK (closed IN (0, 1)),
    -- The lease; all four are null once it was given back.
    owner   TEXT,
    process TEXT,
    renewed INTEGER,
    ttl     INTEGER,
    CHECK ((owner IS NULL) = (process IS NULL) AND (owner IS NULL) = (renewed IS NULL)
       AND (owner IS NULL) = (ttl IS NULL))
) STRICT, WITHOUT ROWID;

CREATE TABLE claims (
    resource TEXT PRIMARY KEY NOT NULL,
    run      TEXT NOT NULL REFERENCES runs (run)
) STRICT, WITHOUT ROWID;
CREATE INDEX claims_of_run ON claims (run);

CREATE TABLE lines (
    run  TEXT NOT NULL REFERENCES runs (run),
    seq  INTEGER NOT NULL,
    body TEXT NOT NULL,
    hash TEXT NOT NULL,
    PRIMARY KEY (run, seq)
) STRICT;

CREATE TABLE letters (
    run    TEXT NOT NULL REFERENCES runs (run),
    number INTEGER NOT NULL,
    body   TEXT NOT NULL,
    PRIMARY KEY (run, number)
) STRICT;

CREATE TRIGGER runs_stay BEFORE DELETE ON runs
BEGIN SELECT RAISE(ABORT, 'runs are never deleted'); END;
CREATE TRIGGER runs_grow BEFORE UPDATE ON runs
WHEN new.run <> old.run OR new.epoch < old.epoch OR new.length < old.length
BEGIN SELECT RAISE(ABORT, 'runs keep their names, and neither epoch nor length goes back'); END;

CREATE TRIGGER lines_in_order BEFORE INSERT ON lines
WHEN new.seq <> (SELECT length FROM runs WHERE run = new.run)
BEGIN SELECT RAISE(ABORT, 'lines are added at the end'); END;
CREATE TRIGGER lines_count AFTER INSERT ON lines
BEGIN UPDATE runs SET length = length + 1 WHERE run = new.run; END;
CREATE TRIGGER lines_stay BEFORE DELETE ON lines
BEGIN SELECT RAISE(ABORT, 'lines are never deleted'); END;
CREATE TRIGGER lines_last BEFORE UPDATE ON lines
BEGIN SELECT RAISE(ABORT, 'lines are never changed'); END;

CREATE TRIGGER letters_in_order BEFORE INSERT ON letters
WHEN new.number <> (SELECT COALESCE(MAX(number), 0) + 1 FROM letters WHERE run = new.run)
BEGIN SELECT RAISE(ABORT, 'letters are added at the end'); END;
CREATE TRIGGER letters_stay BEFORE DELETE ON letters
BEGIN SELECT RAISE(ABORT, 'letters are never deleted'); END;
CREATE TRIGGER letters_last BEFORE UPDATE ON letters
BEGIN SELECT RAISE(ABORT, 'letters are never changed'); END;
";
