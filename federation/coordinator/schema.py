"""The coordinator's tables (SQLite) and the rows as other modules see them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from federation.coordinator.states import PartState, RoundState, RunState, TaskState

STORE_FORMAT: Final = 2
"""The newest form of the tables; ``migrations.py`` leads to it from every earlier one."""

SCHEMA: Final = """
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
    created_at TEXT NOT NULL, changed_at TEXT NOT NULL, ended_at TEXT,
    queue_order INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE IF NOT EXISTS plans (
    run_id TEXT NOT NULL REFERENCES runs (run_id),
    number INTEGER NOT NULL,
    plan_hash TEXT NOT NULL,
    signed_plan BLOB NOT NULL,
    changes TEXT NOT NULL DEFAULT '',
    from_round INTEGER,
    created_at TEXT NOT NULL, offered_at TEXT,
    PRIMARY KEY (run_id, number)
) STRICT;
CREATE TABLE IF NOT EXISTS run_sites (
    run_id TEXT NOT NULL REFERENCES runs (run_id),
    site TEXT NOT NULL REFERENCES sites (name),
    state TEXT NOT NULL CHECK (state IN ('invited', 'joined', 'rejected', 'left')),
    words TEXT NOT NULL DEFAULT '',
    summary TEXT NOT NULL DEFAULT '{}',
    decided_at TEXT,
    plan_hash TEXT,
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
    plan_hash TEXT,
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
CREATE TABLE IF NOT EXISTS updates (
    run_id TEXT NOT NULL REFERENCES runs (run_id),
    sequence INTEGER NOT NULL,
    task_id TEXT NOT NULL UNIQUE REFERENCES tasks (task_id),
    site TEXT NOT NULL REFERENCES sites (name),
    started_from INTEGER NOT NULL,
    folded_in INTEGER, staleness INTEGER, weight REAL,
    PRIMARY KEY (run_id, sequence)
) STRICT;
"""


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run."""

    run_id: str
    number: int
    name: str
    state: RunState
    plan_hash: str
    signed_plan: bytes
    words: str
    resume_state: str | None
    quorum_at: str | None
    model_id: str | None
    created_at: str
    changed_at: str
    ended_at: str | None
    queue_order: int = 0


@dataclass(frozen=True, slots=True)
class PlanRow:
    """A plan of a run: number 0 is the one submitted, the others amend the one before.

    ``changes`` says in words what it changes, ``from_round`` is the first round under it (None
    before it is in force).
    """

    run_id: str
    number: int
    plan_hash: str
    signed_plan: bytes
    changes: str
    from_round: int | None
    created_at: str
    offered_at: str | None


@dataclass(frozen=True, slots=True)
class UpdateRow:
    """An accepted update in the order of arrival.

    ``started_from`` is the round whose model it was trained from; ``folded_in`` the round that it
    went into, with what staleness and weight (None while it waits).
    """

    run_id: str
    sequence: int
    task_id: str
    site: str
    started_from: int
    folded_in: int | None
    staleness: int | None
    weight: float | None


@dataclass(frozen=True, slots=True)
class RenewalRow:
    """A certificate that a site has got and not used yet."""

    site: str
    serial: str
    certificate_ends: str
    key_sha256: str
    certificate: str
    issued_at: str


@dataclass(frozen=True, slots=True)
class RoundRow:
    """A round of a run."""

    run_id: str
    number: int
    state: RoundState
    attempt: int
    opened_at: str
    trained_at: str | None
    closed_at: str | None
    deadline: str
    weights_sha256: str | None
    weights_size: int | None
    model_id: str | None
    aggregate_s: float | None
    words: str
    plan_hash: str | None


@dataclass(frozen=True, slots=True)
class RunSiteRow:
    """A site in a run; ``summary`` holds case counts and the data set's hash.

    ``plan_hash`` names the plan that it approved last.
    """

    run_id: str
    site: str
    state: PartState
    words: str
    summary: Mapping[str, Any]
    decided_at: str | None
    plan_hash: str | None


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task at a site; ``body`` and ``report`` are JSON objects."""

    task_id: str
    run_id: str
    round: int
    site: str
    kind: str
    attempt: int
    state: TaskState
    body: Mapping[str, Any]
    report: Mapping[str, Any] | None
    words: str
    created_at: str
    taken_at: str | None
    ended_at: str | None


@dataclass(frozen=True, slots=True)
class SiteRow:
    """A site of the project."""

    name: str
    state: str
    serial: str | None
    certificate_ends: str | None
    added_at: str
    enrolled_at: str | None
    revoked_at: str | None
    last_seen: str | None
    software: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class TokenRow:
    """An enrolment token: never its secret."""

    token_id: str
    site: str
    secret_sha256: str
    expires: str
    attempts: int
    state: str
    key_sha256: str | None
    certificate: str | None
    used_at: str | None


def run_row(row: sqlite3.Row) -> RunRow:
    """A row of ``runs``."""
    return RunRow(**{**dict(row), "state": RunState(row["state"])})


def round_row(row: sqlite3.Row) -> RoundRow:
    """A row of ``rounds``."""
    return RoundRow(**{**dict(row), "state": RoundState(row["state"])})


def run_site_row(row: sqlite3.Row) -> RunSiteRow:
    """A row of ``run_sites``."""
    fields = {"state": PartState(row["state"]), "summary": json.loads(row["summary"])}
    return RunSiteRow(**{**dict(row), **fields})


def task_row(row: sqlite3.Row) -> TaskRow:
    """A row of ``tasks``."""
    fields = dict(row)
    fields["state"] = TaskState(fields["state"])
    fields["body"] = json.loads(fields["body"])
    fields["report"] = json.loads(fields["report"]) if fields["report"] else None
    return TaskRow(**fields)
