"""The runs that this site takes part in, those that it left, and the halt of all of them."""

from __future__ import annotations

import sqlite3
from typing import Final

from appliance.errors import NotFound
from appliance.store.database import Database
from appliance.store.rows import Halt, RunRow
from appliance.store.studies import resolve_key
from federation.clock import Clock, stamp

TAKING_PART: Final = "taking part"
LEFT: Final = "left"


class RunStore:
    """Runs as the custodian decides about them; a left one stays left."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def seen(self, run_id: str, plan_hash: str) -> None:
        """Remember a run that a task came of, and its newest plan."""
        known = self.find(run_id)
        if known is not None and known.plan_hash == plan_hash:
            return
        self._database.execute(
            "INSERT INTO runs (run_id, plan_hash, state, seen_at) VALUES (?,?,?,?)"
            " ON CONFLICT (run_id) DO UPDATE SET plan_hash = excluded.plan_hash",
            (run_id, plan_hash, TAKING_PART, stamp(self._clock())),
        )

    def find(self, run_id: str) -> RunRow | None:
        """The run, or None."""
        row = self._database.row("SELECT * FROM runs WHERE run_id = ?", (run_id,))
        return None if row is None else _run(row)

    def get(self, run_id: str) -> RunRow:
        """The run.

        Raises:
            NotFound: no task of such a run ever came.
        """
        found = self.find(run_id)
        if found is None:
            raise NotFound("no run has this id")
        return found

    def resolve(self, beginning: str) -> str:
        """The whole id of the only run whose id begins so."""
        return resolve_key(self._database, ("runs", "run_id"), beginning)

    def select(self) -> list[RunRow]:
        """All runs, oldest first."""
        return [_run(row) for row in self._database.rows("SELECT * FROM runs ORDER BY seen_at")]

    def leave(self, run_id: str, *, actor: str, reason: str) -> RunRow:
        """Leave a run for good; leaving it again changes nothing.

        Raises:
            NotFound: no task of such a run ever came.
        """
        with self._database.transaction():
            if self.get(run_id).state != LEFT:
                self._database.execute(
                    "UPDATE runs SET state = ?, reason = ?, decided_at = ?, decided_by = ?"
                    " WHERE run_id = ?",
                    (LEFT, reason, stamp(self._clock()), actor, run_id),
                )
            return self.get(run_id)

    def untold(self) -> list[RunRow]:
        """Left runs of which the coordinator does not know yet."""
        rows = self._database.rows("SELECT * FROM runs WHERE state = ? AND told = 0", (LEFT,))
        return [_run(row) for row in rows]

    def told(self, run_id: str, answer: str) -> None:
        """The coordinator knows that the site left a run."""
        self._database.execute(
            "UPDATE runs SET told = 1, answer = ? WHERE run_id = ?", (answer, run_id)
        )

    def halted(self) -> Halt | None:
        """The halt of all runs, or None."""
        row = self._database.row("SELECT reason, halted_at, halted_by FROM halt")
        return None if row is None else Halt(**dict(row))

    def halt(self, *, actor: str, reason: str) -> Halt:
        """Halt all runs here until :meth:`resume`; a halt that stands is kept."""
        with self._database.transaction():
            self._database.execute(
                "INSERT INTO halt (only_row, reason, halted_at, halted_by) VALUES (1,?,?,?)"
                " ON CONFLICT (only_row) DO NOTHING",
                (reason, stamp(self._clock()), actor),
            )
            present = self.halted()
        if present is None:
            raise NotFound("the halt was lifted at the same moment: ask again")
        return present

    def resume(self) -> bool:
        """Let the runs go on; False where they were not halted."""
        return self._database.execute("DELETE FROM halt") > 0


def _run(row: sqlite3.Row) -> RunRow:
    return RunRow(**{**dict(row), "told": bool(row["told"])})
