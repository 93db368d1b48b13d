-- Schema version 1. `PRAGMA user_version` holds the version; migrations are in store.c.
-- Columns carry the names of the step fields and of the verdict document.

CREATE TABLE runs (
    id          INTEGER PRIMARY KEY,
    run         TEXT NOT NULL UNIQUE,   -- as shown: the client's name, "#2" … or "@RANK" appended to tell jobs apart
    name        TEXT NOT NULL,          -- as the client gave it
    program     TEXT NOT NULL,
    rank        INTEGER NOT NULL DEFAULT 0,
    world       INTEGER NOT NULL DEFAULT 1,
    session     BLOB NOT NULL,          -- of the client that last streamed into it
    last_batch  INTEGER NOT NULL DEFAULT 0, -- committed batches of that session
    meta        TEXT NOT NULL DEFAULT '{}', -- JSON
    started     REAL NOT NULL,          -- s since the epoch, daemon clock
    updated     REAL NOT NULL,          -- last commit for this run
    ended       REAL,                   -- NULL while it goes on
    outcome     TEXT,                   -- finished, failed, aborted, lost
    label       TEXT,                   -- set by people: `seismo label`
    state       TEXT NOT NULL DEFAULT 'warming_up',
    severity    TEXT NOT NULL DEFAULT 'info',
    worst       TEXT NOT NULL DEFAULT 'warming_up', -- worst state reached
    alarm_step  INTEGER,                -- first critical verdict
    steps       INTEGER NOT NULL DEFAULT 0, -- rows stored
    first_step  INTEGER,
    step        INTEGER,                -- last step stored
    loss        REAL,
    score       REAL,
    max_score   REAL,
    model       TEXT NOT NULL           -- name of the model that scores it
);

-- Full-resolution steps: packed rows (daemon/pack.h). A chunk holds CHUNK_ROWS rows and the
-- detector's state before its first row; what is not yet a chunk lies in the tail, a row a commit.
CREATE TABLE chunks (
    id          INTEGER PRIMARY KEY,
    run_id      INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    first_step  INTEGER NOT NULL,
    last_step   INTEGER NOT NULL,
    n           INTEGER NOT NULL,
    snapshot    BLOB NOT NULL,
    rows        BLOB NOT NULL
);
CREATE INDEX chunks_by_run ON chunks(run_id, first_step);

CREATE TABLE tail (
    id          INTEGER PRIMARY KEY,
    run_id      INTEGER NOT NULL,
    first_step  INTEGER NOT NULL,
    last_step   INTEGER NOT NULL,
    n           INTEGER NOT NULL,
    rows        BLOB NOT NULL
);

-- Detector state before the first row of the tail, one a run.
CREATE TABLE tail_state (
    run_id      INTEGER PRIMARY KEY REFERENCES runs(id) ON DELETE CASCADE,
    snapshot    BLOB NOT NULL
);

CREATE TABLE verdicts (
    id          INTEGER PRIMARY KEY,    -- stable id of the verdict and its alert
    run_id      INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    run         TEXT NOT NULL,
    program     TEXT NOT NULL,
    step        INTEGER,
    time        REAL,                   -- of the step, as the client stamped it
    recorded    REAL NOT NULL,          -- daemon clock at the commit
    state       TEXT NOT NULL,
    severity    TEXT NOT NULL,
    score       REAL,
    threshold   REAL,
    fault       TEXT NOT NULL,          -- most likely class
    fault_distribution TEXT NOT NULL,   -- JSON object class: probability
    reasons     TEXT NOT NULL,          -- JSON list
    superseded  INTEGER NOT NULL DEFAULT 0 -- 1: the job resumed from a checkpoint before this step
);
CREATE INDEX verdicts_by_run ON verdicts(run_id, id);

-- Outbox of alerts, written in the transaction of the verdict; delivered after it.
CREATE TABLE alerts (
    id          INTEGER PRIMARY KEY,
    verdict     INTEGER NOT NULL REFERENCES verdicts(id) ON DELETE CASCADE,
    run         TEXT NOT NULL,
    event       TEXT NOT NULL,          -- entered, resolved
    state       TEXT NOT NULL,          -- of the condition entered or resolved
    hook        TEXT NOT NULL,          -- name of the hook in the configuration
    created     REAL NOT NULL,
    delivered   REAL,                   -- NULL until the hook has run
    attempts    INTEGER NOT NULL DEFAULT 0,
    result      TEXT                    -- "exit 0", "timeout", …
);

-- Decimated for plotting: about 256 points for each doubling of a run's length.
CREATE TABLE series (
    run_id      INTEGER NOT NULL,
    run         TEXT NOT NULL,
    step        INTEGER NOT NULL,       -- last step of the bucket
    steps       INTEGER NOT NULL,       -- steps in the bucket
    loss        REAL,                   -- at `step`; NULL when NaN
    loss_max    REAL,                   -- over the bucket; NULL when NaN came
    grad_norm   REAL,
    curvature   REAL,
    score       REAL                    -- highest of the bucket
);
CREATE INDEX series_by_run ON series(run_id, step);
