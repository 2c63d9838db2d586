"""The coordinator's state: one SQLite file in WAL mode, changed only along the state tables."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from federation.clock import Clock, stamp, utc_now
from federation.coordinator.migrations import MIGRATIONS
from federation.coordinator.schema import (
    SCHEMA,
    STORE_FORMAT,
    PlanRow,
    RenewalRow,
    RoundRow,
    RunRow,
    RunSiteRow,
    SiteRow,
    TaskRow,
    TokenRow,
    UpdateRow,
    round_row,
    run_row,
    run_site_row,
    task_row,
)
from federation.coordinator.states import (
    PART_TABLE,
    ROUND_TABLE,
    RUN_ENDS,
    RUN_TABLE,
    TASK_ENDS,
    TASK_TABLE,
    PartState,
    RoundState,
    RunState,
    TaskState,
)
from federation.errors import RunRefused, StoreDamaged

Observer = Callable[[str], None]
"""Called with ``<kind>:<state>:entering`` before and ``...:entered`` after each commit."""

S = TypeVar("S", bound=StrEnum)


def _ignore(_: str) -> None:
    """The observer of nobody."""


class Signal:
    """Wakes whoever waits for a change of the state."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._version = 0

    @property
    def version(self) -> int:
        """Grows with every change; read it before looking at the state."""
        return self._version

    def notify(self) -> None:
        """Wake everybody."""
        with self._condition:
            self._version += 1
            self._condition.notify_all()

    def wait(self, seen: int, seconds: float) -> None:
        """Until the version is past ``seen``, at most ``seconds``."""
        with self._condition:
            self._condition.wait_for(lambda: self._version > seen, max(0.0, seconds))


class Store:
    """All reads and writes of the coordinator's state; safe for several threads.

    Args:
        path: the SQLite file.
        clock: gives the time of each change.
        observer: sees every transition (see :func:`federation.coordinator.states.kill_points`).

    Raises:
        StoreDamaged: the file was written by another format version.
    """

    def __init__(
        self, path: Path, clock: Clock = utc_now, observer: Observer | None = None
    ) -> None:
        self._clock = clock
        self._observer = observer or _ignore
        self._lock = threading.RLock()
        self.signal = Signal()
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            self._connection.execute(f"PRAGMA {pragma}")
        with ExitStack() as undo:
            undo.callback(self._connection.close)
            self._open_tables()
            undo.pop_all()

    def _open_tables(self) -> None:
        """Make the tables, or bring those of an earlier version to the present form."""
        ask = self._connection.execute
        before = ask("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone()
        row = ask("SELECT value FROM meta WHERE key = 'format'").fetchone() if before else None
        found = str(STORE_FORMAT) if row is None else str(row["value"])
        if found not in {str(STORE_FORMAT), *(str(form) for form in MIGRATIONS)}:
            raise StoreDamaged(
                f"the state has format {found}, this program reads {STORE_FORMAT}: "
                "run the version that wrote it, or upgrade"
            )
        # One transaction: a kill in between leaves the earlier form whole.
        self._connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA}")
        try:
            for form in range(int(found), STORE_FORMAT):
                for statement in MIGRATIONS[form]:
                    ask(statement)
            ask("INSERT OR REPLACE INTO meta VALUES ('format', ?)", (str(STORE_FORMAT),))
            ask("COMMIT")
        finally:
            if self._connection.in_transaction:
                ask("ROLLBACK")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def now(self) -> str:
        """The present time as it is stored."""
        return stamp(self._clock())

    @contextmanager
    def change(self, *, quiet: bool = False) -> Iterator[Change]:
        """One transaction; the observer sees its transitions before and after the commit.

        Args:
            quiet: wake nobody: nothing changed that somebody waits for.
        """
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            change = Change(self._connection, self.now())
            try:
                yield change
                for point in change.transitions:
                    self._observer(f"{point}:entering")
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
        for point in change.transitions:
            self._observer(f"{point}:entered")
        if not quiet:
            self.signal.notify()

    @contextmanager
    def still(self) -> Iterator[None]:
        """Nothing is written while it lasts: what several reads say belongs together."""
        with self._lock:
            yield

    def _rows(self, sql: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        with self._lock:
            return self._connection.execute(sql, tuple(values)).fetchall()

    def sites(self) -> list[SiteRow]:
        """Every site, by name."""
        return [SiteRow(**dict(row)) for row in self._rows("SELECT * FROM sites ORDER BY name")]

    def site(self, name: str) -> SiteRow | None:
        """One site."""
        rows = self._rows("SELECT * FROM sites WHERE name = ?", (name,))
        return SiteRow(**dict(rows[0])) if rows else None

    def renewals(self) -> list[RenewalRow]:
        """Certificates that sites have got and not used yet."""
        return [RenewalRow(**dict(row)) for row in self._rows("SELECT * FROM renewals")]

    def token(self, token_id: str) -> TokenRow | None:
        """One enrolment token."""
        rows = self._rows("SELECT * FROM tokens WHERE token_id = ?", (token_id,))
        return TokenRow(**dict(rows[0])) if rows else None

    def open_tokens(self) -> list[TokenRow]:
        """Tokens that nobody has used yet, also those whose time is over."""
        rows = self._rows("SELECT * FROM tokens WHERE state = 'open' ORDER BY expires")
        return [TokenRow(**dict(row)) for row in rows]

    def runs(self, states: Sequence[RunState] = ()) -> list[RunRow]:
        """Runs in the order of their submission, all or those in ``states``."""
        found = [run_row(row) for row in self._rows("SELECT * FROM runs ORDER BY number")]
        return [run for run in found if not states or run.state in states]

    def run(self, run_id: str) -> RunRow:
        """The run of an id, or of a prefix that only one run has.

        Raises:
            RunRefused: none, or several.
        """
        found = [run for run in self.runs() if run.run_id.startswith(run_id)]
        exact = [run for run in found if run.run_id == run_id]
        if not run_id or len(exact or found) != 1:
            raise RunRefused(
                f"{len(found) if run_id else 'no'} runs begin like that: give one run's id "
                "(see `clinode run list`)"
            )
        return (exact or found)[0]

    def plans(self, run_id: str) -> list[PlanRow]:
        """The plans of a run: the one submitted, then its amendments."""
        sql = "SELECT * FROM plans WHERE run_id = ? ORDER BY number"
        return [PlanRow(**dict(row)) for row in self._rows(sql, (run_id,))]

    def updates(self, run_id: str) -> list[UpdateRow]:
        """The accepted updates of a run in the order of their arrival."""
        sql = "SELECT * FROM updates WHERE run_id = ? ORDER BY sequence"
        return [UpdateRow(**dict(row)) for row in self._rows(sql, (run_id,))]

    def run_sites(self, run_id: str) -> list[RunSiteRow]:
        """The sites of a run, by name."""
        sql = "SELECT * FROM run_sites WHERE run_id = ? ORDER BY site"
        return [run_site_row(row) for row in self._rows(sql, (run_id,))]

    def rounds(self, run_id: str) -> list[RoundRow]:
        """The rounds of a run, oldest first."""
        sql = "SELECT * FROM rounds WHERE run_id = ? ORDER BY number"
        return [round_row(row) for row in self._rows(sql, (run_id,))]

    def tasks(
        self,
        run_id: str,
        number: int | None = None,
        kind: str = "",
        states: Sequence[TaskState] = (),
    ) -> list[TaskRow]:
        """Tasks of a run, narrowed to a round, a kind and states, by creation."""
        conditions, values = ["run_id = ?"], [run_id]
        if number is not None:
            conditions.append("round = ?")
            values.append(str(number))
        if kind:
            conditions.append("kind = ?")
            values.append(kind)
        if states:
            conditions.append(f"state IN ({', '.join('?' for _ in states)})")
            values += [state.value for state in states]
        sql = f"SELECT * FROM tasks WHERE {' AND '.join(conditions)} ORDER BY rowid"  # noqa: S608
        return [task_row(row) for row in self._rows(sql, values)]

    def model_hashes(self) -> set[str]:
        """SHA-256 of every model of every round."""
        rows = self._rows("SELECT weights_sha256 FROM rounds WHERE weights_sha256 IS NOT NULL")
        return {str(row["weights_sha256"]) for row in rows}

    def awaited_updates(self) -> set[str]:
        """Object names of updates that a model which is not made yet needs, of any run."""
        return self._update_names(
            "runs.state NOT IN ('finished', 'stopped', 'failed')"
            " AND (folded_in IS NULL OR rounds.weights_sha256 IS NULL)"
        )

    def needed_objects(self) -> set[str]:
        """Object names of the models of all rounds, and of updates that a model waits for."""
        with self.still():
            return self.model_hashes() | self.awaited_updates()

    def update_objects(self, run_id: str) -> set[str]:
        """Object names of all updates that a run was ever sent, as they came and decoded."""
        return self._update_names("updates.run_id = ?", (run_id,))

    def _update_names(self, condition: str, values: Sequence[Any] = ()) -> set[str]:
        rows = self._rows(
            "SELECT json_extract(tasks.report, '$.update') AS one,"  # noqa: S608
            " json_extract(tasks.report, '$.encoded') AS other FROM updates"
            " JOIN tasks USING (task_id) JOIN runs ON runs.run_id = updates.run_id"
            " LEFT JOIN rounds ON rounds.run_id = updates.run_id"
            f" AND rounds.number = updates.folded_in WHERE {condition}",
            values,
        )
        return {str(name) for row in rows for name in (row["one"], row["other"]) if name}

    def trains(self) -> bool:
        """Whether a site may still report an update that it was asked for."""
        sql = (
            "SELECT 1 FROM tasks JOIN runs USING (run_id) WHERE kind = 'train'"
            " AND tasks.state = 'taken' AND runs.state NOT IN ('finished', 'stopped', 'failed')"
        )
        return bool(self._rows(f"{sql} LIMIT 1"))

    def hands_out(self, name: str) -> bool:
        """Whether any task names an object among what its site fetches."""
        return bool(self._rows("SELECT 1 FROM tasks WHERE instr(body, ?) LIMIT 1", (name,)))

    def task(self, task_id: str) -> TaskRow | None:
        """One task."""
        rows = self._rows("SELECT * FROM tasks WHERE task_id = ?", (task_id,))
        return task_row(rows[0]) if rows else None

    def open_tasks(self, site: str) -> list[TaskRow]:
        """Tasks that a site has not ended, of runs that are neither paused nor over.

        Plans to decide on come first (a person reads them), then the run that is next in the
        queue's order: a site works at one run after the other.
        """
        rows = self._rows(
            "SELECT tasks.* FROM tasks JOIN runs USING (run_id) WHERE site = ?"
            " AND tasks.state IN ('open', 'taken')"
            " AND runs.state NOT IN ('paused', 'finished', 'stopped', 'failed')"
            " AND (runs.state != 'queued' OR tasks.kind = 'offer')"
            " ORDER BY tasks.kind != 'offer', runs.queue_order, runs.number, tasks.rowid",
            (site,),
        )
        return [task_row(row) for row in rows]


class Change:
    """The writes of one transaction; made by :meth:`Store.change`."""

    def __init__(self, connection: sqlite3.Connection, now: str) -> None:
        self._connection = connection
        self.now = now
        self.transitions: list[str] = []

    def execute(self, sql: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """One statement of this transaction."""
        return self._connection.execute(sql, tuple(values))

    def add_run(self, run: RunRow, sites: Sequence[str]) -> None:
        """A new run with its invited sites."""
        fields = {name: getattr(run, name) for name in RunRow.__slots__}
        self._insert("runs", {**fields, "state": run.state.value})
        first = {"plan_hash": run.plan_hash, "signed_plan": run.signed_plan, "from_round": 0}
        self.add_plan(run.run_id, 0, **first, offered_at=self.now)
        for site in sites:
            self.invite(run.run_id, site)
        self.transitions.append(f"run:{run.state}")

    def add_plan(self, run_id: str, number: int, **fields: object) -> None:
        """A plan of a run: 0 as submitted, then its amendments."""
        columns = {"run_id": run_id, "number": number, "created_at": self.now}
        self._insert("plans", {**columns, **fields})

    def invite(self, run_id: str, site: str) -> None:
        """A site is asked to take part; one that was asked before is asked anew."""
        fields = {"run_id": run_id, "site": site, "state": PartState.INVITED.value}
        if not self._insert("run_sites", fields, ignore=True):
            self.part(run_id, site, PartState.INVITED, words="", decided_at=None)

    def part(self, run_id: str, site: str, state: PartState, **fields: object) -> None:
        """Move a site's part in a run on, and set further columns.

        Raises:
            RunRefused: the table has no such arrow.
        """
        key = {"run_id": run_id, "site": site}
        sql = "SELECT state FROM run_sites WHERE run_id = ? AND site = ?"
        row = self.execute(sql, tuple(key.values())).fetchone()
        _check_arrow("site's part", PART_TABLE, PartState(row["state"]), state)
        self.set("run_sites", key, {"state": state.value, **fields})

    def add_update(self, task: TaskRow) -> int:
        """Record that a training task's update has come; gives its place in the run's order."""
        sql = "SELECT COALESCE(MAX(sequence), 0) + 1 AS n FROM updates WHERE run_id = ?"
        sequence = int(self.execute(sql, (task.run_id,)).fetchone()["n"])
        fields = {"run_id": task.run_id, "sequence": sequence, "task_id": task.task_id}
        self._insert("updates", {**fields, "site": task.site, "started_from": task.round - 1})
        return sequence

    def next_run_number(self) -> int:
        """The number of the next run, from 1."""
        row = self.execute("SELECT COALESCE(MAX(number), 0) + 1 AS n FROM runs").fetchone()
        return int(row["n"])

    def run(self, run_id: str, state: RunState, **fields: object) -> None:
        """Move a run on, and set further columns.

        Raises:
            RunRefused: the table has no such arrow.
        """
        row = self.execute("SELECT state FROM runs WHERE run_id = ?", (run_id,)).fetchone()
        _check_arrow("run", RUN_TABLE, RunState(row["state"]), state)
        fields |= {"state": state.value, "changed_at": self.now}
        if state in RUN_ENDS:
            fields["ended_at"] = self.now
        self.set("runs", {"run_id": run_id}, fields)
        self.transitions.append(f"run:{state}")

    def add_round(self, run_id: str, number: int, state: RoundState, **fields: object) -> None:
        """A new round in its first state."""
        columns = {"run_id": run_id, "number": number, "state": state.value, "opened_at": self.now}
        self._insert("rounds", {**columns, **fields})
        self.transitions.append(f"round:{state}")

    def round(self, at: RoundRow, state: RoundState, **fields: object) -> None:
        """Move a round on, and set further columns.

        Raises:
            RunRefused: the table has no such arrow.
        """
        key = {"run_id": at.run_id, "number": at.number}
        sql = "SELECT state FROM rounds WHERE run_id = ? AND number = ?"
        row = self.execute(sql, tuple(key.values())).fetchone()
        _check_arrow("round", ROUND_TABLE, RoundState(row["state"]), state)
        fields["state"] = state.value
        if state is RoundState.CLOSED:
            fields["closed_at"] = self.now
        self.set("rounds", key, fields)
        self.transitions.append(f"round:{state}")

    def add_task(self, task: TaskRow) -> None:
        """A new open task; the same one again changes nothing."""
        fields = {name: getattr(task, name) for name in TaskRow.__slots__}
        fields |= {"state": task.state.value, "body": json.dumps(task.body), "report": None}
        fields["created_at"] = self.now
        if self._insert("tasks", fields, ignore=True):
            self.transitions.append(f"task:{task.state}")

    def task(self, task_id: str, state: TaskState, **fields: object) -> None:
        """Move a task on, and set further columns (``report`` as a JSON object).

        Raises:
            RunRefused: the table has no such arrow.
        """
        row = self.execute("SELECT state FROM tasks WHERE task_id = ?", (task_id,)).fetchone()
        _check_arrow("task", TASK_TABLE, TaskState(row["state"]), state)
        if "report" in fields:
            fields["report"] = json.dumps(fields["report"])
        fields["state"] = state.value
        if state in TASK_ENDS:
            fields["ended_at"] = self.now
        elif state is TaskState.TAKEN:
            fields["taken_at"] = self.now
        self.set("tasks", {"task_id": task_id}, fields)
        self.transitions.append(f"task:{state}")

    def expire(self, tasks: Sequence[TaskRow], words: str) -> int:
        """End tasks that nobody waits for any more; gives their number."""
        ended = 0
        for task in tasks:
            row = self.execute("SELECT state FROM tasks WHERE task_id = ?", (task.task_id,))
            if TaskState(row.fetchone()["state"]) not in TASK_ENDS:
                self.task(task.task_id, TaskState.EXPIRED, words=words)
                ended += 1
        return ended

    def set(self, table: str, key: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
        """Set columns of the row that ``key`` names; table and columns are this program's own."""
        columns = ", ".join(f"{name} = ?" for name in fields)
        where = " AND ".join(f"{name} = ?" for name in key)
        sql = f"UPDATE {table} SET {columns} WHERE {where}"  # noqa: S608
        self.execute(sql, (*fields.values(), *key.values()))

    def insert(self, table: str, fields: Mapping[str, Any]) -> None:
        """A new row; table and columns are this program's own."""
        self._insert(table, fields)

    def _insert(self, table: str, fields: Mapping[str, Any], *, ignore: bool = False) -> bool:
        verb = "INSERT OR IGNORE" if ignore else "INSERT"
        marks = ", ".join("?" for _ in fields)
        sql = f"{verb} INTO {table} ({', '.join(fields)}) VALUES ({marks})"
        return self.execute(sql, tuple(fields.values())).rowcount > 0


def _check_arrow(kind: str, table: Mapping[S, frozenset[S]], before: S, after: S) -> None:
    if after not in table[before]:
        allowed = ", ".join(sorted(table[before])) or "nothing: it is over"
        raise RunRefused(f"a {kind} that is {before} cannot become {after} (possible: {allowed})")
