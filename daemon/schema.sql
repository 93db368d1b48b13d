-- Schema version 1. `PRAGMA user_version` holds the version; database.c lists the steps from one
-- to the next. Columns carry the names of the step fields and of the verdict document.

CREATE TABLE runs (
    id          INTEGER PRIMARY KEY,
    run         TEXT NOT NULL UNIQUE,   -- as shown: the client's name, "@RANK" or "#2" … appended to tell jobs apart
    name        TEXT NOT NULL,          -- as the client gave it
    program     TEXT NOT NULL,
    rank        INTEGER NOT NULL,
    world       INTEGER NOT NULL,
    session     BLOB NOT NULL,          -- of the client that last streamed into it
    last_batch  INTEGER NOT NULL,       -- committed batches of that session
    meta        TEXT NOT NULL,          -- JSON
    started     REAL NOT NULL,          -- s since the epoch, daemon clock
    updated     REAL NOT NULL,          -- last commit for this run
    ended       REAL,                   -- NULL while it goes on
    outcome     TEXT,                   -- finished, failed, aborted, lost
    label       TEXT,                   -- set by people: `seismo label`
    state       TEXT NOT NULL,
    severity    TEXT NOT NULL,
    worst       TEXT NOT NULL,          -- worst state the detector reached; silent and ended do not count
    alarm_step  INTEGER,                -- first critical verdict of the detector
    steps       INTEGER NOT NULL,       -- rows stored
    first_step  INTEGER,
    step        INTEGER,                -- last step stored
    loss        REAL,
    score       REAL,
    max_score   REAL,
    model       TEXT NOT NULL           -- name of the model that scores it
);
CREATE INDEX runs_by_name ON runs(name, rank);
CREATE INDEX runs_open ON runs(id) WHERE ended IS NULL;

-- Full-resolution steps: packed rows (daemon/archive/pack.h). A chunk holds 256 rows and the detector's
-- state before its first row. What is not yet a chunk lies in the tail, a row a commit; its id is
-- run_id * 65536 + position, so that the tail of a run lies together and needs no index.
CREATE TABLE chunks (
    id          INTEGER PRIMARY KEY,
    run_id      INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    first_step  INTEGER NOT NULL,
    last_step   INTEGER NOT NULL,
    n           INTEGER NOT NULL,
    snapshot    BLOB NOT NULL,
    rows        BLOB NOT NULL
);
CREATE INDEX chunks_by_run ON chunks(run_id, last_step);

CREATE TABLE tail (
    id          INTEGER PRIMARY KEY,
    run_id      INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
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
    id          INTEGER PRIMARY KEY,    -- stable id of the verdict
    run_id      INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    run         TEXT NOT NULL,
    program     TEXT NOT NULL,
    step        INTEGER,                -- NULL when the run had none
    time        REAL,                   -- of the step, as the client stamped it; daemon clock for silent and ended
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
    id          INTEGER PRIMARY KEY,    -- stable id of the alert
    verdict     INTEGER NOT NULL REFERENCES verdicts(id) ON DELETE CASCADE,
    run_id      INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    run         TEXT NOT NULL,
    event       TEXT NOT NULL,          -- entered, resolved
    state       TEXT NOT NULL,          -- of the condition entered or resolved
    hook        TEXT NOT NULL,          -- name of the hook in the configuration
    document    TEXT NOT NULL,          -- JSON that the hook reads
    created     REAL NOT NULL,
    delivered   REAL,                   -- NULL until the hook has run
    attempts    INTEGER NOT NULL DEFAULT 0,
    result      TEXT                    -- "exit 0", "timeout", …
);
CREATE INDEX alerts_by_run ON alerts(run_id, id);
CREATE INDEX alerts_undelivered ON alerts(id) WHERE delivered IS NULL;

-- Decimated for plotting: 256 points for each doubling of a run's length. A point covers a bucket
-- of 1, 2, 4 … steps, the wider the later.
CREATE TABLE series_points (
    run_id      INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    step        INTEGER NOT NULL,       -- last step of the bucket
    steps       INTEGER NOT NULL,       -- steps in the bucket
    loss        REAL,                   -- at `step`; NULL when NaN
    loss_max    REAL,                   -- over the bucket; NULL when NaN came
    grad_norm   REAL,                   -- highest of the bucket
    curvature   REAL,                   -- highest of the bucket
    score       REAL,                   -- highest of the bucket
    PRIMARY KEY (run_id, step)
) WITHOUT ROWID;

CREATE VIEW series AS
    SELECT run_id, run, series_points.step AS step, series_points.steps AS steps,
           series_points.loss AS loss, loss_max, grad_norm, curvature, series_points.score AS score
    FROM series_points JOIN runs ON runs.id = run_id;
