-- A coordinator's state as format 1 wrote it.
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS sites (
    name TEXT PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('invited', 'enrolled', 'revoked')),
    serial TEXT, certificate_ends TEXT,
    added_at TEXT NOT NULL, enrolled_at TEXT, revoked_at TEXT, last_seen TEXT,
    software TEXT, reason TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE TABLE IF NOT EXISTS tokens (
    token_id TEXT PRIMARY KEY,
    site TEXT NOT NULL REFERENCES sites (name),
    secret_sha256 TEXT NOT NULL,
    expires TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    state TEXT NOT NULL CHECK (state IN ('open', 'used', 'burned')),
    key_sha256 TEXT, certificate TEXT, used_at TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS renewals (
    site TEXT PRIMARY KEY REFERENCES sites (name),
    serial TEXT NOT NULL, certificate_ends TEXT NOT NULL,
    key_sha256 TEXT NOT NULL, certificate TEXT NOT NULL, issued_at TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS runs (
    run_id TEXT PRIMARY KEY,
    number INTEGER NOT NULL UNIQUE,
    name TEXT NOT NULL,
    state TEXT NOT NULL,
    plan_hash TEXT NOT NULL,
    signed_plan BLOB NOT NULL,
    words TEXT NOT NULL DEFAULT '',
    resume_state TEXT,
    quorum_at TEXT,
    model_id TEXT,
    created_at TEXT NOT NULL, changed_at TEXT NOT NULL, ended_at TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS run_sites (
    run_id TEXT NOT NULL REFERENCES runs (run_id),
    site TEXT NOT NULL REFERENCES sites (name),
    state TEXT NOT NULL CHECK (state IN ('invited', 'joined', 'rejected', 'left')),
    words TEXT NOT NULL DEFAULT '',
    summary TEXT NOT NULL DEFAULT '{}',
    decided_at TEXT,
    PRIMARY KEY (run_id, site)
) STRICT;
CREATE TABLE IF NOT EXISTS rounds (
    run_id TEXT NOT NULL REFERENCES runs (run_id),
    number INTEGER NOT NULL,
    state TEXT NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 1,
    opened_at TEXT NOT NULL, trained_at TEXT, closed_at TEXT, deadline TEXT NOT NULL,
    weights_sha256 TEXT, weights_size INTEGER, model_id TEXT,
    aggregate_s REAL, words TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (run_id, number)
) STRICT;
CREATE TABLE IF NOT EXISTS tasks (
    task_id TEXT PRIMARY KEY,
    run_id TEXT NOT NULL REFERENCES runs (run_id),
    round INTEGER NOT NULL,
    site TEXT NOT NULL REFERENCES sites (name),
    kind TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    state TEXT NOT NULL,
    body TEXT NOT NULL,
    report TEXT,
    words TEXT NOT NULL DEFAULT '',
    created_at TEXT NOT NULL, taken_at TEXT, ended_at TEXT,
    UNIQUE (run_id, round, site, kind, attempt)
) STRICT;
CREATE INDEX IF NOT EXISTS tasks_of_site ON tasks (site, state);
INSERT INTO meta VALUES ('format', '1');
INSERT INTO sites (name, state, added_at) VALUES
    ('site-a', 'enrolled', ''), ('site-b', 'enrolled', ''), ('site-c', 'enrolled', '');
INSERT INTO runs (run_id, number, name, state, plan_hash, signed_plan, created_at, changed_at)
VALUES ('r0001-h1', 1, 'n', 'running', 'h1', x'00', '', '');
INSERT INTO run_sites (run_id, site, state) VALUES
    ('r0001-h1', 'site-a', 'joined'), ('r0001-h1', 'site-b', 'joined'),
    ('r0001-h1', 'site-c', 'invited');
INSERT INTO rounds (run_id, number, state, opened_at, deadline, weights_sha256) VALUES
    ('r0001-h1', 0, 'closed', '', '', 'w0'), ('r0001-h1', 1, 'closed', '', '', 'w1'),
    ('r0001-h1', 2, 'training', '', '', NULL);
INSERT INTO tasks (task_id, run_id, round, site, kind, attempt, state, body, report, created_at)
VALUES
    ('t1', 'r0001-h1', 1, 'site-a', 'train', 1, 'done', '{}', '{"cases": 5, "update": "u1"}', ''),
    ('t2', 'r0001-h1', 1, 'site-b', 'train', 1, 'done', '{}', '{"cases": 3, "update": "u2"}', ''),
    ('t3', 'r0001-h1', 2, 'site-a', 'train', 1, 'done', '{}', '{"cases": 5, "update": "u3"}', ''),
    ('t4', 'r0001-h1', 2, 'site-b', 'train', 1, 'taken', '{}', NULL, '');
