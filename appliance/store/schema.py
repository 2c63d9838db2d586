"""The tables of the node's state and their version.

No column holds an identifier: studies are named by `study_key`, patients by pseudonym, instances
by a keyed hash. Times are UTC ISO 8601 text, durations seconds, volumes ml.

`TABLES` is version 1; every later version is an entry of `MIGRATIONS`.
"""

from __future__ import annotations

TABLES = """
CREATE TABLE studies (
  study_key TEXT PRIMARY KEY,
  patient_key TEXT NOT NULL,
  subject TEXT NOT NULL,
  session TEXT NOT NULL,
  pacs TEXT NOT NULL,
  state TEXT NOT NULL,
  stage TEXT,
  attempt INTEGER NOT NULL DEFAULT 0,
  reason TEXT NOT NULL DEFAULT '',
  not_before TEXT,
  claim TEXT,
  found_at TEXT NOT NULL,
  updated_at TEXT NOT NULL,
  expected INTEGER NOT NULL DEFAULT 0,
  received INTEGER NOT NULL DEFAULT 0,
  late INTEGER NOT NULL DEFAULT 0,
  inputs TEXT NOT NULL DEFAULT '[]',
  labelled INTEGER NOT NULL DEFAULT 0,
  qc_decision TEXT NOT NULL DEFAULT '',
  qc_released INTEGER NOT NULL DEFAULT 0,
  facts TEXT NOT NULL DEFAULT '{}'
) STRICT;
CREATE INDEX studies_state ON studies (state);
CREATE INDEX studies_patient ON studies (patient_key);

CREATE TABLE stage_runs (
  id INTEGER PRIMARY KEY,
  study_key TEXT NOT NULL REFERENCES studies (study_key),
  stage TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  outcome TEXT NOT NULL,
  started TEXT NOT NULL,
  finished TEXT,
  seconds REAL NOT NULL DEFAULT 0,
  detail TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX stage_runs_study ON stage_runs (study_key);

CREATE TABLE instances (
  study_key TEXT NOT NULL REFERENCES studies (study_key),
  instance_key TEXT NOT NULL,
  sha256 TEXT NOT NULL,
  conflict INTEGER NOT NULL DEFAULT 0,
  received_at TEXT NOT NULL,
  PRIMARY KEY (study_key, instance_key)
) STRICT, WITHOUT ROWID;

CREATE TABLE patients (
  patient_key TEXT PRIMARY KEY,
  split TEXT,
  assigned_at TEXT,
  withdrawn_at TEXT
) STRICT;

CREATE TABLE datasets (
  name TEXT PRIMARY KEY,
  state TEXT NOT NULL,
  hash TEXT NOT NULL DEFAULT '',
  tags TEXT NOT NULL DEFAULT '[]',
  created_at TEXT NOT NULL,
  frozen_at TEXT,
  decided_at TEXT,
  decided_by TEXT NOT NULL DEFAULT ''
) STRICT;

CREATE TABLE members (
  dataset TEXT NOT NULL REFERENCES datasets (name),
  study_key TEXT NOT NULL REFERENCES studies (study_key),
  case_name TEXT NOT NULL,
  split TEXT NOT NULL,
  labelled INTEGER NOT NULL,
  inputs TEXT NOT NULL,
  content TEXT NOT NULL,
  PRIMARY KEY (dataset, study_key)
) STRICT;

CREATE TABLE plans (
  hash TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  signer TEXT NOT NULL,
  document TEXT NOT NULL,
  state TEXT NOT NULL,
  reason TEXT NOT NULL DEFAULT '',
  dataset TEXT REFERENCES datasets (name),
  offered_at TEXT NOT NULL,
  decided_at TEXT,
  decided_by TEXT NOT NULL DEFAULT ''
) STRICT;

CREATE TABLE models (
  id TEXT PRIMARY KEY,
  plan_hash TEXT NOT NULL,
  round INTEGER NOT NULL,
  manifest TEXT NOT NULL,
  weights TEXT NOT NULL,
  state TEXT NOT NULL,
  reason TEXT NOT NULL DEFAULT '',
  offered_at TEXT NOT NULL,
  decided_at TEXT,
  decided_by TEXT NOT NULL DEFAULT ''
) STRICT;

CREATE TABLE results (
  key TEXT PRIMARY KEY,
  study_key TEXT NOT NULL REFERENCES studies (study_key),
  model_id TEXT NOT NULL,
  state TEXT NOT NULL,
  reason TEXT NOT NULL DEFAULT '',
  destination TEXT NOT NULL DEFAULT '',
  volume_ml REAL NOT NULL DEFAULT 0,
  lesions INTEGER NOT NULL DEFAULT 0,
  attempt INTEGER NOT NULL DEFAULT 0,
  not_before TEXT,
  created_at TEXT NOT NULL,
  updated_at TEXT NOT NULL,
  sent_at TEXT,
  decided_by TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX results_study ON results (study_key);

CREATE TABLE trained (
  run TEXT NOT NULL,
  case_name TEXT NOT NULL,
  PRIMARY KEY (run, case_name)
) STRICT, WITHOUT ROWID;

CREATE TABLE activity (
  id INTEGER PRIMARY KEY,
  at TEXT NOT NULL,
  action TEXT NOT NULL,
  detail TEXT NOT NULL
) STRICT;
"""

MIGRATIONS: tuple[str, ...] = (
    # 2: versions of a study after late images; how many members of a data set were erased, by use
    """
ALTER TABLE studies ADD COLUMN version INTEGER NOT NULL DEFAULT 1;
ALTER TABLE datasets ADD COLUMN erased TEXT NOT NULL DEFAULT '{}';
""",
    # 3: results as sets of objects, their history, storage commitment
    """
ALTER TABLE results ADD COLUMN algorithm TEXT NOT NULL DEFAULT '';
ALTER TABLE results ADD COLUMN found INTEGER NOT NULL DEFAULT 1;
ALTER TABLE results ADD COLUMN predecessor TEXT NOT NULL DEFAULT '';
ALTER TABLE results ADD COLUMN findings TEXT NOT NULL DEFAULT '[]';
ALTER TABLE results ADD COLUMN losses INTEGER NOT NULL DEFAULT 0;
ALTER TABLE results ADD COLUMN rounds INTEGER NOT NULL DEFAULT 0;
ALTER TABLE results ADD COLUMN committed_at TEXT;
ALTER TABLE results ADD COLUMN patient_seen TEXT NOT NULL DEFAULT '';
ALTER TABLE results ADD COLUMN patient_confirmed TEXT NOT NULL DEFAULT '';
UPDATE results SET found = 0 WHERE state = 'no finding';

CREATE TABLE result_objects (
  result TEXT NOT NULL REFERENCES results (key),
  form TEXT NOT NULL,
  file TEXT NOT NULL,
  object_key TEXT NOT NULL,
  sha256 TEXT NOT NULL,
  size INTEGER NOT NULL,
  state TEXT NOT NULL,
  reason TEXT NOT NULL DEFAULT '',
  PRIMARY KEY (result, file)
) STRICT, WITHOUT ROWID;
CREATE INDEX result_objects_key ON result_objects (object_key);

CREATE TABLE result_events (
  id INTEGER PRIMARY KEY,
  result TEXT NOT NULL REFERENCES results (key),
  at TEXT NOT NULL,
  state TEXT NOT NULL,
  detail TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX result_events_result ON result_events (result);

CREATE TABLE commitments (
  transaction_key TEXT PRIMARY KEY,
  result TEXT NOT NULL REFERENCES results (key),
  state TEXT NOT NULL,
  asked_at TEXT NOT NULL,
  deadline TEXT NOT NULL,
  answered_at TEXT
) STRICT;
CREATE INDEX commitments_result ON commitments (result);
""",
    # 4: the runs that this site takes part in or has left, and whether all of them are halted
    """
CREATE TABLE runs (
  run_id TEXT PRIMARY KEY,
  plan_hash TEXT NOT NULL,
  state TEXT NOT NULL,
  reason TEXT NOT NULL DEFAULT '',
  told INTEGER NOT NULL DEFAULT 0,
  answer TEXT NOT NULL DEFAULT '',
  seen_at TEXT NOT NULL,
  decided_at TEXT,
  decided_by TEXT NOT NULL DEFAULT ''
) STRICT;

CREATE TABLE halt (
  only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
  reason TEXT NOT NULL,
  halted_at TEXT NOT NULL,
  halted_by TEXT NOT NULL
) STRICT;
""",
)
"""What each later version changes, in order; a new file goes through all of them too."""

SCHEMA_VERSION = 1 + len(MIGRATIONS)
