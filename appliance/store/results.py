"""Results in the state file: rows, their objects, their history, and storage commitment."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from appliance.errors import NotAllowed, NotFound
from appliance.pipeline.states import TransitionRefused
from appliance.result_states import ResultState, Verb, after
from appliance.store.database import Database, Value
from appliance.store.rows import Commitment, ResultEvent, ResultObject, ResultRow
from appliance.store.studies import resolve_key
from federation.clock import Clock, stamp

_ENTERED = (
    "key",
    "study_key",
    "model_id",
    "state",
    "reason",
    "destination",
    "volume_ml",
    "lesions",
    "created_at",
    "updated_at",
    "algorithm",
    "found",
    "predecessor",
    "findings",
)


class ResultStore:
    """What models found, from `made` to `committed`. Every step is one transaction."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def add(self, result: ResultRow, objects: Sequence[ResultObject] = ()) -> bool:
        """Enter a result with its objects; False where this study and model have one already."""
        values: list[Value] = [getattr(result, name) for name in _ENTERED]
        marks = ",".join("?" * len(_ENTERED))
        with self._database.transaction():
            entered = self._database.execute(
                f"INSERT INTO results ({', '.join(_ENTERED)}) VALUES ({marks})"  # noqa: S608
                " ON CONFLICT (key) DO NOTHING",
                [int(v) if isinstance(v, bool) else v for v in values],
            )
            if not entered:
                return False
            self.add_objects(objects)
            self._note(result.key, result.state, result.reason)
        return True

    def add_objects(self, objects: Iterable[ResultObject]) -> None:
        """Enter objects of a result; known ones stay as they are."""
        with self._database.transaction():
            for item in objects:
                self._database.execute(
                    "INSERT INTO result_objects (result, form, file, object_key, sha256, size,"
                    " state, reason) VALUES (?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING",
                    (
                        item.result,
                        item.form,
                        item.file,
                        item.object_key,
                        item.sha256,
                        item.size,
                        item.state,
                        item.reason,
                    ),
                )

    def find(self, key: str) -> ResultRow | None:
        """The result, or None."""
        row = self._database.row("SELECT * FROM results WHERE key = ?", (key,))
        return None if row is None else _result(row)

    def get(self, key: str) -> ResultRow:
        """The result.

        Raises:
            NotFound: no such result.
        """
        found = self.find(key)
        if found is None:
            raise NotFound("no result has this key")
        return found

    def resolve(self, beginning: str) -> str:
        """The whole key of the only result whose key begins so."""
        return resolve_key(self._database, ("results", "key"), beginning)

    def select(
        self, *, study_key: str | None = None, state: ResultState | None = None
    ) -> list[ResultRow]:
        """Results in time order, of one study or state or of all."""
        rows = self._database.rows(
            "SELECT * FROM results WHERE (? IS NULL OR study_key = ?) AND (? IS NULL OR state = ?)"
            " ORDER BY created_at, key",
            (study_key, study_key, state, state),
        )
        return [_result(row) for row in rows]

    def step(
        self,
        key: str,
        verb: Verb,
        changes: Mapping[str, Value] | None = None,
        *,
        only: Iterable[ResultState] | None = None,
    ) -> ResultRow:
        """Move a result on, and further columns with it; the history keeps the step.

        Args:
            key: the result.
            verb: what happens.
            changes: further columns.
            only: states in which it may happen here, where that is less than the table allows.

        Raises:
            NotFound: no such result.
            NotAllowed: its state does not permit it.
        """
        with self._database.transaction():
            present = self.get(key).state
            try:
                state = after(present, verb)
            except TransitionRefused as error:
                raise NotAllowed(str(error)) from error
            if only is not None and present not in set(only):
                raise NotAllowed(f"the result is '{present}': '{verb}' is not possible now")
            row = self.update(key, {"state": state, **(changes or {})})
            self._note(key, state, row.reason)
            return row

    def update(self, key: str, changes: Mapping[str, Value]) -> ResultRow:
        """Change columns.

        Raises:
            NotFound: no such result.
        """
        values = {"updated_at": stamp(self._clock()), **changes}
        assignments = ", ".join(f"{column} = ?" for column in values)
        with self._database.transaction():
            self._database.execute(
                f"UPDATE results SET {assignments} WHERE key = ?",  # noqa: S608
                [*values.values(), key],
            )
            return self.get(key)

    def due(self, now: datetime) -> list[ResultRow]:
        """Results with which the node has something to do now."""
        rows = self._database.rows(
            "SELECT * FROM results WHERE (state IN (?,?,?,?,?)"
            " AND (not_before IS NULL OR not_before <= ?))"
            " OR (state = ? AND not_before <= ?) ORDER BY created_at, key",
            (
                ResultState.MADE,
                ResultState.VALIDATED,
                ResultState.RELEASED,
                ResultState.FAILED,
                ResultState.SENT,
                stamp(now),
                ResultState.STORED,
                stamp(now),
            ),
        )
        return [_result(row) for row in rows]

    def objects(self, key: str) -> list[ResultObject]:
        """The objects of a result: SEG, report, pictures."""
        rows = self._database.rows(
            "SELECT * FROM result_objects WHERE result = ?"
            " ORDER BY CASE form WHEN 'seg' THEN 0 WHEN 'sr' THEN 1 ELSE 2 END, file",
            (key,),
        )
        return [ResultObject(**{name: row[name] for name in row.keys()}) for row in rows]  # noqa: SIM118

    def object_keys(self, study_key: str) -> frozenset[str]:
        """Keyed hashes of everything that this node made for a study."""
        rows = self._database.rows(
            "SELECT o.object_key FROM result_objects o JOIN results r ON r.key = o.result"
            " WHERE r.study_key = ?",
            (study_key,),
        )
        return frozenset(row[0] for row in rows)

    def mark_objects(self, key: str, files: Iterable[str], state: str, reason: str = "") -> None:
        """Keep what became of some objects of a result."""
        with self._database.transaction():
            for file in files:
                self._database.execute(
                    "UPDATE result_objects SET state = ?, reason = ? WHERE result = ? AND file = ?",
                    (state, reason, key, file),
                )

    def events(self, key: str) -> list[ResultEvent]:
        """A result's history, oldest first."""
        rows = self._database.rows(
            "SELECT at, state, detail FROM result_events WHERE result = ? ORDER BY id", (key,)
        )
        return [ResultEvent(row[0], ResultState(row[1]), row[2]) for row in rows]

    def plan_commitment(self, key: str, transaction_key: str, deadline: datetime) -> Commitment:
        """Keep a transaction before the PACS is asked: its answer may come at once."""
        with self._database.transaction():
            self._database.execute(
                "INSERT INTO commitments (transaction_key, result, state, asked_at, deadline)"
                " VALUES (?,?,'planned',?,?)",
                (transaction_key, key, stamp(self._clock()), stamp(deadline)),
            )
            self._database.execute("UPDATE results SET rounds = rounds + 1 WHERE key = ?", (key,))
            self._note(key, self.get(key).state, "storage commitment asked for")
        found = self.commitment(transaction_key)
        if found is None:
            raise NotFound("no transaction has this key")
        return found

    def commitment(self, transaction_key: str) -> Commitment | None:
        """A transaction, or None where it is not this node's."""
        row = self._database.row(
            "SELECT * FROM commitments WHERE transaction_key = ?", (transaction_key,)
        )
        return None if row is None else _commitment(row)

    def commitments(self, key: str) -> list[Commitment]:
        """The transactions of a result, oldest first."""
        rows = self._database.rows(
            "SELECT * FROM commitments WHERE result = ? ORDER BY asked_at, transaction_key", (key,)
        )
        return [_commitment(row) for row in rows]

    def mark_commitment(self, transaction_key: str, state: str, *, unless: str = "") -> None:
        """Mark a transaction as pending, answered or expired.

        Args:
            transaction_key: the transaction.
            state: the new state.
            unless: a state that stays as it is (an answer that was quicker).
        """
        answered = stamp(self._clock()) if state == "answered" else None
        self._database.execute(
            "UPDATE commitments SET state = ?, answered_at = ?"
            " WHERE transaction_key = ? AND state <> ?",
            (state, answered, transaction_key, unless),
        )

    def _note(self, key: str, state: ResultState, detail: str) -> None:
        self._database.execute(
            "INSERT INTO result_events (result, at, state, detail) VALUES (?,?,?,?)",
            (key, stamp(self._clock()), state, detail),
        )


def _result(row: sqlite3.Row) -> ResultRow:
    values = {key: row[key] for key in row.keys()}  # noqa: SIM118 - a Row iterates its values
    values["found"] = bool(values["found"])
    return ResultRow(**{**values, "state": ResultState(row["state"])})


def _commitment(row: sqlite3.Row) -> Commitment:
    return Commitment(**{key: row[key] for key in row.keys()})  # noqa: SIM118
