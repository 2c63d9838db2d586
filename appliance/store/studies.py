"""Studies, their stage executions and their received instances."""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from appliance.errors import NotAllowed, NotFound
from appliance.pipeline.states import (
    ARROWS,
    Event,
    Stage,
    State,
    TransitionRefused,
    after_event,
    after_stage,
    arrow_from,
    arrow_of,
)
from appliance.store.database import Database, Value
from appliance.store.rows import NewStudy, StageRun, StudyRow, version_label
from federation.canonical import JSON
from federation.clock import Clock, stamp


@dataclass(frozen=True, slots=True)
class Claim:
    """A study whose next stage this process is doing now."""

    study: StudyRow
    stage: Stage
    token: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a finished stage says about the study; None leaves the value as it is."""

    inputs: tuple[str, ...] | None = None
    labelled: bool | None = None
    qc_decision: str | None = None
    facts: Mapping[str, JSON] = field(default_factory=dict)
    detail: str = ""


class StudyStore:
    """Studies and how they move on. Every method is one transaction.

    Args:
        database: the open state file.
        clock: UTC time.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def add(self, study: NewStudy) -> bool:
        """Enter a study as `found` (as `withdrawn` where its patient is); False if it is known."""
        now = self._now()
        with self._database.transaction():
            if self.find(study.study_key) is not None:
                return False
            withdrawn = self.patient_withdrawn(study.patient_key)
            self._database.execute(
                "INSERT INTO studies (study_key, patient_key, subject, session, pacs, state,"
                " expected, found_at, updated_at) VALUES (?,?,?,?,?,?,?,?,?)",
                (
                    study.study_key,
                    study.patient_key,
                    study.subject,
                    study.session,
                    study.pacs,
                    State.WITHDRAWN if withdrawn else State.FOUND,
                    study.expected,
                    now,
                    now,
                ),
            )
        return True

    def find(self, study_key: str) -> StudyRow | None:
        """The study, or None."""
        row = self._database.row("SELECT * FROM studies WHERE study_key = ?", (study_key,))
        return None if row is None else _study(row)

    def get(self, study_key: str) -> StudyRow:
        """The study.

        Raises:
            NotFound: no such study.
        """
        study = self.find(study_key)
        if study is None:
            raise NotFound("no study has this key")
        return study

    def resolve(self, beginning: str) -> str:
        """The whole key of the only study whose key begins so (at least four characters).

        Raises:
            NotFound: none or several do.
        """
        return resolve_key(self._database, ("studies", "study_key"), beginning)

    def select(
        self, *, state: State | None = None, limit: int = 1000, offset: int = 0
    ) -> list[StudyRow]:
        """Studies in the order in which they were found."""
        where, values = ("WHERE state = ?", [str(state)]) if state is not None else ("", [])
        rows = self._database.rows(
            f"SELECT * FROM studies {where} ORDER BY found_at, study_key LIMIT ? OFFSET ?",  # noqa: S608
            [*values, limit, offset],
        )
        return [_study(row) for row in rows]

    def count(self, state: State | None = None) -> int:
        """Number of studies, of one state or of all."""
        if state is None:
            return self._database.number("SELECT count(*) FROM studies")
        return self._database.number("SELECT count(*) FROM studies WHERE state = ?", (state,))

    def count_late(self) -> int:
        """Number of studies for which the PACS lists instances that are not here."""
        return self._database.number(
            "SELECT count(*) FROM studies WHERE late > 0 AND state <> ?", (State.WITHDRAWN,)
        )

    def reopened(self) -> list[StudyRow]:
        """Studies that have more than one version."""
        rows = self._database.rows("SELECT * FROM studies WHERE version > 1 ORDER BY study_key")
        return [_study(row) for row in rows]

    def of_subject(self, subject: str) -> list[StudyRow]:
        """All studies of one pseudonym.

        Raises:
            NotFound: none has it.
        """
        rows = self._database.rows(
            "SELECT * FROM studies WHERE subject = ? ORDER BY found_at, study_key", (subject,)
        )
        if not rows:
            raise NotFound("no study has this pseudonym")
        return [_study(row) for row in rows]

    def of_patient(self, patient_key: str) -> list[StudyRow]:
        """All studies of one patient."""
        rows = self._database.rows("SELECT * FROM studies WHERE patient_key = ?", (patient_key,))
        return [_study(row) for row in rows]

    def patient_withdrawn(self, patient_key: str) -> bool:
        """Whether the patient was withdrawn."""
        sql = "SELECT count(*) FROM patients WHERE patient_key = ? AND withdrawn_at IS NOT NULL"
        return self._database.number(sql, (patient_key,)) > 0

    def claim(self, stages: Iterable[Stage], *, now: datetime | None = None) -> Claim | None:
        """Take the next study that waits for one of the stages, the furthest along first.

        A failed study waits until its back-off has passed.
        """
        moment = stamp(now) if now is not None else self._now()
        wanted = set(stages)
        order = [arrow.stage for arrow in reversed(ARROWS) if arrow.stage in wanted]
        with self._database.transaction():
            for stage in order:
                row = self._database.row(
                    "SELECT * FROM studies WHERE claim IS NULL AND (state = ?"
                    " OR (state = ? AND stage = ?)) AND (not_before IS NULL OR not_before <= ?)"
                    " ORDER BY found_at, study_key LIMIT 1",
                    (arrow_of(stage).source, State.FAILED, stage, moment),
                )
                if row is not None:
                    return self._take(_study(row), stage)
        return None

    def claim_study(self, study_key: str, stage: Stage) -> Claim | None:
        """Take this very study for a stage, whatever its back-off; None where it is not waiting."""
        with self._database.transaction():
            study = self.get(study_key)
            waiting = study.state is arrow_of(stage).source or (
                study.state is State.FAILED and study.stage is stage
            )
            if study.claim is not None or not waiting:
                return None
            return self._take(study, stage)

    def _take(self, study: StudyRow, stage: Stage) -> Claim:
        token = secrets.token_hex(8)
        attempt = study.attempt + 1 if study.state is State.FAILED else 1
        now = self._now()
        self._database.execute(
            "UPDATE studies SET claim = ?, stage = ?, updated_at = ? WHERE study_key = ?",
            (token, stage, now, study.study_key),
        )
        self._database.execute(
            "INSERT INTO stage_runs (study_key, stage, attempt, outcome, started)"
            " VALUES (?,?,?,'running',?)",
            (study.study_key, stage, attempt, now),
        )
        return Claim(self.get(study.study_key), stage, token, attempt)

    def holds(self, claim: Claim) -> bool:
        """Whether the claim still stands: a withdrawn study's does not."""
        study = self.find(claim.study.study_key)
        return study is not None and study.claim == claim.token

    def finish(self, claim: Claim, outcome: Outcome, *, seconds: float) -> bool:
        """Move the study on; False where the claim no longer stands, and nothing is changed."""
        with self._database.transaction():
            if not self.holds(claim):
                return False
            study = self.get(claim.study.study_key)
            target = after_stage(arrow_of(claim.stage).source, claim.stage)
            facts = {**study.facts, **outcome.facts}
            inputs = study.inputs if outcome.inputs is None else outcome.inputs
            labelled = study.labelled if outcome.labelled is None else outcome.labelled
            decision = study.qc_decision if outcome.qc_decision is None else outcome.qc_decision
            self._database.execute(
                "UPDATE studies SET state = ?, stage = NULL, attempt = 0, reason = '',"
                " not_before = NULL, claim = NULL, updated_at = ?, inputs = ?, labelled = ?,"
                " qc_decision = ?, facts = ? WHERE study_key = ?",
                (
                    target,
                    self._now(),
                    json.dumps(inputs),
                    int(labelled),
                    decision,
                    json.dumps(facts, sort_keys=True),
                    study.study_key,
                ),
            )
            self._close_run(claim, "done", outcome.detail, seconds)
        return True

    def stop(
        self, claim: Claim, event: Event, reason: str, *, not_before: datetime | None = None
    ) -> bool:
        """Quarantine (`refuse`) or fail the study; False where the claim no longer stands.

        Args:
            claim: the running stage.
            event: `refuse` or `fail`.
            reason: in words, without any identifier.
            not_before: for `fail`, when the stage may be repeated.
        """
        with self._database.transaction():
            if not self.holds(claim):
                return False
            state = after_event(arrow_of(claim.stage).source, event, claim.stage)
            self._database.execute(
                "UPDATE studies SET state = ?, stage = ?, attempt = ?, reason = ?, not_before = ?,"
                " claim = NULL, updated_at = ? WHERE study_key = ?",
                (
                    state,
                    claim.stage,
                    claim.attempt,
                    reason,
                    stamp(not_before) if not_before is not None else None,
                    self._now(),
                    claim.study.study_key,
                ),
            )
            started = self._started(claim)
            seconds = (self._clock() - started).total_seconds() if started is not None else 0.0
            outcome = "refused" if event is Event.REFUSE else "failed"
            self._close_run(claim, outcome, reason, max(0.0, seconds))
        return True

    def postpone(self, claim: Claim, reason: str, *, not_before: datetime) -> bool:
        """Put the study back to where it was until a moment: this is no failed attempt.

        Args:
            claim: the running stage; what it has done so far is kept.
            reason: in words, without any identifier.
            not_before: when the stage may go on.

        Returns:
            False where the claim no longer stands, and nothing is changed.
        """
        with self._database.transaction():
            if not self.holds(claim):
                return False
            self._database.execute(
                "UPDATE studies SET state = ?, stage = NULL, attempt = 0, reason = ?,"
                " not_before = ?, claim = NULL, updated_at = ? WHERE study_key = ?",
                (
                    arrow_of(claim.stage).source,
                    reason,
                    stamp(not_before),
                    self._now(),
                    claim.study.study_key,
                ),
            )
            started = self._started(claim)
            seconds = (self._clock() - started).total_seconds() if started is not None else 0.0
            self._close_run(claim, "postponed", reason, max(0.0, seconds))
        return True

    def apply(self, study_key: str, event: Event, *, reason: str = "") -> StudyRow:
        """Do what a person asked for: retry, release, reopen or withdraw.

        A study that was `ready` is reopened as a new version; its present files keep their name.

        Raises:
            NotFound: no such study.
            NotAllowed: the study's state does not permit it.
        """
        with self._database.transaction():
            study = self.get(study_key)
            try:
                state = after_event(study.state, event, study.stage)
            except TransitionRefused as error:
                raise NotAllowed(str(error)) from error
            released = event is Event.RELEASE or (study.qc_released and event is Event.RETRY)
            stage = study.stage if event is Event.WITHDRAW else None
            if event is Event.WITHDRAW and stage is None:
                arrow = arrow_from(study.state)
                stage = arrow.stage if arrow is not None else None
            self._database.execute(
                "UPDATE studies SET state = ?, stage = ?, attempt = 0, reason = ?, claim = NULL,"
                " not_before = NULL, qc_released = ?, updated_at = ? WHERE study_key = ?",
                (state, stage, reason, int(released), self._now(), study_key),
            )
            if event is Event.REOPEN:
                self._database.execute(
                    "UPDATE studies SET late = 0, version = version + ? WHERE study_key = ?",
                    (int(study.state is State.READY), study_key),
                )
            self._database.execute(
                "UPDATE stage_runs SET outcome = 'interrupted', finished = ?"
                " WHERE study_key = ? AND outcome = 'running'",
                (self._now(), study_key),
            )
            return self.get(study_key)

    def withdraw_patient(self, patient_key: str, *, reason: str = "") -> list[StudyRow]:
        """Withdraw a patient: all her studies, and every one found later."""
        now = self._now()
        with self._database.transaction():
            self._database.execute(
                "INSERT INTO patients (patient_key, withdrawn_at) VALUES (?,?)"
                " ON CONFLICT (patient_key) DO UPDATE SET withdrawn_at = excluded.withdrawn_at",
                (patient_key, now),
            )
            return [
                self.apply(study.study_key, Event.WITHDRAW, reason=reason)
                for study in self.of_patient(patient_key)
                if study.state is not State.WITHDRAWN
            ]

    def recover(self) -> list[StudyRow]:
        """Give up all claims of a process that is gone; gives the studies that had one."""
        with self._database.transaction():
            rows = self._database.rows("SELECT * FROM studies WHERE claim IS NOT NULL")
            self._database.execute("UPDATE studies SET claim = NULL")
            self._database.execute(
                "UPDATE studies SET stage = NULL WHERE state NOT IN (?,?,?)",
                (State.FAILED, State.QUARANTINED, State.WITHDRAWN),
            )
            self._database.execute(
                "UPDATE stage_runs SET outcome = 'interrupted', finished = ?"
                " WHERE outcome = 'running'",
                (self._now(),),
            )
        return [_study(row) for row in rows]

    def runs(self, study_key: str) -> list[StageRun]:
        """Every execution of every stage of one study, in time order."""
        rows = self._database.rows(
            "SELECT * FROM stage_runs WHERE study_key = ? ORDER BY id", (study_key,)
        )
        return [_stage_run(row) for row in rows]

    def note_expected(self, study_key: str, expected: int) -> None:
        """Keep how many instances the PACS listed and the node asks for."""
        self._set(study_key, "expected", expected)

    def note_late(self, study_key: str, late: int) -> None:
        """Keep how many instances the PACS listed only after the fetch."""
        self._set(study_key, "late", late)

    def note_labelled(self, study_key: str) -> None:
        """Keep that the study has an expert's label now."""
        self._set(study_key, "labelled", 1)

    def next_due(self) -> datetime | None:
        """The earliest time at which a failed study may be repeated."""
        row = self._database.row(
            "SELECT min(not_before) AS due FROM studies WHERE state = ? AND claim IS NULL",
            (State.FAILED,),
        )
        due = row["due"] if row is not None else None
        return datetime.fromisoformat(due.replace("Z", "+00:00")) if due else None

    def _set(self, study_key: str, column: str, value: Value) -> None:
        self._database.execute(
            f"UPDATE studies SET {column} = ?, updated_at = ? WHERE study_key = ?",  # noqa: S608
            (value, self._now(), study_key),
        )

    def _started(self, claim: Claim) -> datetime | None:
        row = self._database.row(
            "SELECT started FROM stage_runs WHERE study_key = ? AND outcome = 'running'"
            " ORDER BY id DESC LIMIT 1",
            (claim.study.study_key,),
        )
        return datetime.fromisoformat(row[0].replace("Z", "+00:00")) if row is not None else None

    def _close_run(self, claim: Claim, outcome: str, detail: str, seconds: float) -> None:
        self._database.execute(
            "UPDATE stage_runs SET outcome = ?, finished = ?, seconds = ?, detail = ?"
            " WHERE study_key = ? AND stage = ? AND outcome = 'running'",
            (outcome, self._now(), seconds, detail, claim.study.study_key, claim.stage),
        )

    def _now(self) -> str:
        return stamp(self._clock())


class InstanceStore:
    """Which instances of a study are here, by keyed hash of their SOP Instance UID."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def record(self, study_key: str, instance_key: str, sha256: str) -> bool:
        """Record one instance durably; False where it was here before with other content.

        Nothing is recorded of a study that was withdrawn meanwhile.
        """
        with self._database.transaction():
            row = self._database.row(
                "SELECT sha256 FROM instances WHERE study_key = ? AND instance_key = ?",
                (study_key, instance_key),
            )
            if row is not None:
                same = str(row["sha256"]) == sha256
                if not same:
                    self._database.execute(
                        "UPDATE instances SET conflict = 1"
                        " WHERE study_key = ? AND instance_key = ?",
                        (study_key, instance_key),
                    )
                return same
            self._database.execute(
                "INSERT INTO instances (study_key, instance_key, sha256, received_at)"
                " SELECT study_key, ?, ?, ? FROM studies WHERE study_key = ? AND state <> ?",
                (instance_key, sha256, stamp(self._clock()), study_key, State.WITHDRAWN),
            )
            self._database.execute(
                "UPDATE studies SET received = received + 1 WHERE study_key = ?", (study_key,)
            )
        return True

    def mark_conflict(self, study_key: str, instance_key: str) -> None:
        """Note that other content came under the UID of an instance that is here."""
        self._database.execute(
            "UPDATE instances SET conflict = 1 WHERE study_key = ? AND instance_key = ?",
            (study_key, instance_key),
        )

    def keys(self, study_key: str) -> set[str]:
        """The keys of all instances that are here."""
        rows = self._database.rows(
            "SELECT instance_key FROM instances WHERE study_key = ?", (study_key,)
        )
        return {row[0] for row in rows}

    def conflicts(self, study_key: str) -> int:
        """How many instances came a second time with other content."""
        sql = "SELECT count(*) FROM instances WHERE study_key = ? AND conflict = 1"
        return self._database.number(sql, (study_key,))

    def forget(self, study_key: str, instance_keys: Iterable[str] | None = None) -> None:
        """Remove the records of some instances, or of all where None is given."""
        with self._database.transaction():
            if instance_keys is None:
                self._database.execute("DELETE FROM instances WHERE study_key = ?", (study_key,))
            else:
                for key in instance_keys:
                    self._database.execute(
                        "DELETE FROM instances WHERE study_key = ? AND instance_key = ?",
                        (study_key, key),
                    )
            self._database.execute(
                "UPDATE studies SET received = (SELECT count(*) FROM instances i"
                " WHERE i.study_key = studies.study_key) WHERE study_key = ?",
                (study_key,),
            )


def resolve_key(database: Database, table: tuple[str, str], beginning: str) -> str:
    """The only key of a table (name, column) with this beginning.

    Raises:
        NotFound: none or several have it, or it is shorter than four characters.
    """
    name, column = table
    exact = database.row(f"SELECT {column} FROM {name} WHERE {column} = ?", (beginning,))  # noqa: S608
    if exact is not None:
        return str(exact[0])
    if len(beginning) < 4:
        raise NotFound("give at least the first four characters of the key")
    rows = database.rows(
        f"SELECT {column} FROM {name} WHERE substr({column}, 1, ?) = ? LIMIT 2",  # noqa: S608
        (len(beginning), beginning),
    )
    if len(rows) != 1:
        raise NotFound("several keys begin so" if rows else "nothing has this key")
    return str(rows[0][0])


def _study(row: sqlite3.Row) -> StudyRow:
    return StudyRow(
        study_key=row["study_key"],
        patient_key=row["patient_key"],
        subject=row["subject"],
        session=version_label(row["session"], row["version"]),
        pacs=row["pacs"],
        state=State(row["state"]),
        stage=Stage(row["stage"]) if row["stage"] else None,
        attempt=row["attempt"],
        reason=row["reason"],
        not_before=row["not_before"],
        claim=row["claim"],
        found_at=row["found_at"],
        updated_at=row["updated_at"],
        expected=row["expected"],
        received=row["received"],
        late=row["late"],
        inputs=tuple(json.loads(row["inputs"])),
        labelled=bool(row["labelled"]),
        qc_decision=row["qc_decision"],
        qc_released=bool(row["qc_released"]),
        facts=json.loads(row["facts"]),
        version=row["version"],
    )


def _stage_run(row: sqlite3.Row) -> StageRun:
    return StageRun(
        study_key=row["study_key"],
        stage=Stage(row["stage"]),
        attempt=row["attempt"],
        outcome=row["outcome"],
        started=row["started"],
        finished=row["finished"],
        seconds=row["seconds"],
        detail=row["detail"],
    )
