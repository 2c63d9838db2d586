"""How the coordinator's tables get from an earlier form to the present one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_COPY_PLANS = """
INSERT INTO plans
    (run_id, number, plan_hash, signed_plan, from_round, created_at, offered_at)
SELECT run_id, 0, plan_hash, signed_plan, 0, created_at, created_at FROM runs
"""
# Updates that arrived before there was a record of their order: those of rounds whose set was
# fixed are in their round, those of a round in training wait for it.
_COPY_UPDATES = """
INSERT INTO updates
    (run_id, sequence, task_id, site, started_from, folded_in, staleness, weight)
SELECT
    tasks.run_id,
    ROW_NUMBER() OVER (PARTITION BY tasks.run_id ORDER BY tasks.rowid),
    task_id,
    site,
    round - 1,
    CASE WHEN rounds.state = 'training' THEN NULL ELSE round END,
    CASE WHEN rounds.state = 'training' THEN NULL ELSE 0 END,
    CASE WHEN rounds.state = 'training' THEN NULL
        ELSE CAST(json_extract(tasks.report, '$.cases') AS REAL) END
FROM tasks
JOIN rounds ON rounds.run_id = tasks.run_id AND rounds.number = tasks.round
WHERE tasks.kind = 'train' AND tasks.state = 'done'
"""
_APPROVED = """
UPDATE run_sites SET plan_hash =
    (SELECT plan_hash FROM runs WHERE runs.run_id = run_sites.run_id)
WHERE state = 'joined'
"""
_OFFERS = """
UPDATE tasks SET body = json_set(body, '$.plan_hash',
    (SELECT plan_hash FROM runs WHERE runs.run_id = tasks.run_id))
"""
_ROUNDS = """
UPDATE rounds SET plan_hash = (SELECT plan_hash FROM runs WHERE runs.run_id = rounds.run_id)
"""

MIGRATIONS: Final[Mapping[int, tuple[str, ...]]] = {
    1: (
        "ALTER TABLE runs ADD COLUMN queue_order INTEGER NOT NULL DEFAULT 0",
        "UPDATE runs SET queue_order = number",
        "ALTER TABLE run_sites ADD COLUMN plan_hash TEXT",
        _APPROVED,
        "ALTER TABLE rounds ADD COLUMN plan_hash TEXT",
        _ROUNDS,
        _OFFERS,
        _COPY_PLANS,
        _COPY_UPDATES,
    ),
}
"""Statements that lead from a form of the tables to the next; new tables are there already."""
