"""Data sets, plans and models in the state file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence

from appliance.errors import NotAllowed, NotFound
from appliance.pipeline.states import State
from appliance.store.database import Database
from appliance.store.rows import (
    Activity,
    DatasetRow,
    DatasetState,
    Decision,
    Member,
    ModelRow,
    PlanRow,
)
from appliance.store.studies import resolve_key
from federation.canonical import JSON
from federation.clock import Clock, stamp

_DATASET_SQL = """
SELECT d.*,
  (SELECT count(*) FROM members m WHERE m.dataset = d.name) AS cases,
  (SELECT count(*) FROM members m WHERE m.dataset = d.name AND m.split = 'train') AS training,
  (SELECT count(*) FROM members m WHERE m.dataset = d.name AND m.split = 'test') AS test,
  (SELECT count(*) FROM members m WHERE m.dataset = d.name AND m.split = 'infer') AS unlabelled
FROM datasets d
"""


class DatasetStore:
    """Data sets, their members, and each patient's place in the site's split."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def create(self, name: str, tags: Sequence[str] = ()) -> DatasetRow:
        """A new open data set.

        Raises:
            NotAllowed: the name is taken.
        """
        with self._database.transaction():
            if self.find(name) is not None:
                raise NotAllowed("a data set has this name already")
            self._database.execute(
                "INSERT INTO datasets (name, state, tags, created_at) VALUES (?,?,?,?)",
                (name, DatasetState.OPEN, json.dumps(list(tags)), stamp(self._clock())),
            )
            return self.get(name)

    def find(self, name: str) -> DatasetRow | None:
        """The data set, or None."""
        row = self._database.row(f"{_DATASET_SQL} WHERE d.name = ?", (name,))
        return None if row is None else _dataset(row)

    def get(self, name: str) -> DatasetRow:
        """The data set.

        Raises:
            NotFound: no such data set.
        """
        found = self.find(name)
        if found is None:
            raise NotFound("no data set has this name")
        return found

    def select(self) -> list[DatasetRow]:
        """All data sets, oldest first."""
        return [
            _dataset(row)
            for row in self._database.rows(f"{_DATASET_SQL} ORDER BY d.created_at, d.name")
        ]

    def members(self, name: str) -> list[Member]:
        """The frozen members, by case name."""
        rows = self._database.rows(
            "SELECT * FROM members WHERE dataset = ? ORDER BY case_name", (name,)
        )
        return [
            Member(
                study_key=row["study_key"],
                case=row["case_name"],
                split=row["split"],
                labelled=bool(row["labelled"]),
                inputs=tuple(json.loads(row["inputs"])),
                content=row["content"],
            )
            for row in rows
        ]

    def freeze(
        self, name: str, members: Iterable[Member], *, content_hash: str, splits: Mapping[str, str]
    ) -> DatasetRow:
        """Fix the membership for good, together with the new patients' places in the split.

        Args:
            name: an open data set.
            members: its studies.
            content_hash: SHA-256 over the members.
            splits: patient key to ``train`` or ``test``, for patients without a place so far.

        Raises:
            NotAllowed: the data set is not open.
        """
        now = stamp(self._clock())
        with self._database.transaction():
            if self.get(name).state is not DatasetState.OPEN:
                raise NotAllowed("only an open data set can be frozen")
            for patient_key, split in splits.items():
                self._database.execute(
                    "INSERT INTO patients (patient_key, split, assigned_at) VALUES (?,?,?)"
                    " ON CONFLICT (patient_key) DO UPDATE SET split = excluded.split,"
                    " assigned_at = excluded.assigned_at WHERE patients.split IS NULL",
                    (patient_key, split, now),
                )
            for member in members:
                self._database.execute(
                    "INSERT INTO members (dataset, study_key, case_name, split, labelled, inputs,"
                    " content) VALUES (?,?,?,?,?,?,?)",
                    (
                        name,
                        member.study_key,
                        member.case,
                        member.split,
                        int(member.labelled),
                        json.dumps(member.inputs),
                        member.content,
                    ),
                )
            self._database.execute(
                "UPDATE datasets SET state = ?, hash = ?, frozen_at = ? WHERE name = ?",
                (DatasetState.FROZEN, content_hash, now, name),
            )
            return self.get(name)

    def decide(self, name: str, state: DatasetState, *, actor: str) -> DatasetRow:
        """Approve a frozen data set for plans, or revoke it.

        Raises:
            NotAllowed: it is open, or was revoked before.
        """
        with self._database.transaction():
            present = self.get(name).state
            if present is DatasetState.OPEN or state is DatasetState.OPEN:
                raise NotAllowed("freeze the data set first")
            if present is DatasetState.REVOKED and state is not DatasetState.REVOKED:
                raise NotAllowed("a revoked data set stays so: freeze a new one")
            self._database.execute(
                "UPDATE datasets SET state = ?, decided_at = ?, decided_by = ? WHERE name = ?",
                (state, stamp(self._clock()), actor, name),
            )
            return self.get(name)

    def gone(self, name: str) -> int:
        """How many members of a data set were withdrawn or erased since the freeze; only grows."""
        withdrawn = self._database.number(
            "SELECT count(*) FROM members JOIN studies USING (study_key)"
            " WHERE dataset = ? AND state = ?",
            (name, State.WITHDRAWN),
        )
        return withdrawn + self.get(name).erased

    def splits(self) -> dict[str, str]:
        """Every patient's place in the site's split, by patient key."""
        rows = self._database.rows("SELECT patient_key, split FROM patients WHERE split NOT NULL")
        return {row["patient_key"]: row["split"] for row in rows}


class PlanStore:
    """Training plans that were offered, and what the custodian said."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def offer(self, plan_hash: str, *, name: str, signer: str, document: str) -> bool:
        """Enter a plan as pending; False where it was offered before."""
        return (
            self._database.execute(
                "INSERT INTO plans (hash, name, signer, document, state, offered_at)"
                " VALUES (?,?,?,?,?,?) ON CONFLICT (hash) DO NOTHING",
                (plan_hash, name, signer, document, Decision.PENDING, stamp(self._clock())),
            )
            > 0
        )

    def find(self, plan_hash: str) -> PlanRow | None:
        """The plan, or None."""
        row = self._database.row("SELECT * FROM plans WHERE hash = ?", (plan_hash,))
        return None if row is None else _plan(row)

    def get(self, plan_hash: str) -> PlanRow:
        """The plan.

        Raises:
            NotFound: no such plan.
        """
        found = self.find(plan_hash)
        if found is None:
            raise NotFound("no plan has this hash")
        return found

    def resolve(self, beginning: str) -> str:
        """The whole hash of the only plan whose hash begins so."""
        return resolve_key(self._database, ("plans", "hash"), beginning)

    def select(self) -> list[PlanRow]:
        """All plans, oldest first."""
        return [
            _plan(row)
            for row in self._database.rows("SELECT * FROM plans ORDER BY offered_at, hash")
        ]

    def decide(
        self,
        plan_hash: str,
        decision: Decision,
        *,
        actor: str,
        reason: str = "",
        dataset: str | None = None,
    ) -> PlanRow:
        """Keep the custodian's decision; an approval names the data set that the plan may use.

        Raises:
            NotFound: no such plan.
            NotAllowed: an approval without an approved data set.
        """
        with self._database.transaction():
            self.get(plan_hash)
            if decision is Decision.APPROVED:
                row = self._database.row("SELECT state FROM datasets WHERE name = ?", (dataset,))
                if row is None or row["state"] != DatasetState.APPROVED:
                    raise NotAllowed("a plan needs an approved data set: freeze and approve one")
            self._database.execute(
                "UPDATE plans SET state = ?, reason = ?, dataset = ?, decided_at = ?,"
                " decided_by = ? WHERE hash = ?",
                (decision, reason, dataset, stamp(self._clock()), actor, plan_hash),
            )
            return self.get(plan_hash)


class ModelStore:
    """Finished models that the coordinator offered."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def offer(
        self, model_id: str, *, plan_hash: str, round_number: int, manifest: str, weights: str
    ) -> bool:
        """Enter a model as pending; False where it was offered before."""
        return (
            self._database.execute(
                "INSERT INTO models (id, plan_hash, round, manifest, weights, state, offered_at)"
                " VALUES (?,?,?,?,?,?,?) ON CONFLICT (id) DO NOTHING",
                (
                    model_id,
                    plan_hash,
                    round_number,
                    manifest,
                    weights,
                    Decision.PENDING,
                    stamp(self._clock()),
                ),
            )
            > 0
        )

    def find(self, model_id: str) -> ModelRow | None:
        """The model, or None."""
        row = self._database.row("SELECT * FROM models WHERE id = ?", (model_id,))
        return None if row is None else _model(row)

    def get(self, model_id: str) -> ModelRow:
        """The model.

        Raises:
            NotFound: no such model.
        """
        found = self.find(model_id)
        if found is None:
            raise NotFound("no model has this id")
        return found

    def resolve(self, beginning: str) -> str:
        """The whole id of the only model whose id begins so."""
        return resolve_key(self._database, ("models", "id"), beginning)

    def select(self) -> list[ModelRow]:
        """All models, oldest first."""
        return [
            _model(row) for row in self._database.rows("SELECT * FROM models ORDER BY offered_at")
        ]

    def decide(
        self, model_id: str, decision: Decision, *, actor: str, reason: str = ""
    ) -> ModelRow:
        """Keep the custodian's decision."""
        with self._database.transaction():
            self.get(model_id)
            self._database.execute(
                "UPDATE models SET state = ?, reason = ?, decided_at = ?, decided_by = ?"
                " WHERE id = ?",
                (decision, reason, stamp(self._clock()), actor, model_id),
            )
            return self.get(model_id)


class ActivityStore:
    """What happened lately, and which cases trained."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def record(self, action: str, detail: Mapping[str, JSON]) -> None:
        """Keep one event; the detail holds counts and closed words, never an identifier."""
        self._database.execute(
            "INSERT INTO activity (at, action, detail) VALUES (?,?,?)",
            (stamp(self._clock()), action, json.dumps(dict(detail), sort_keys=True)),
        )

    def select(self, *, action: str | None = None, limit: int = 100) -> list[Activity]:
        """The last events, newest first."""
        rows = self._database.rows(
            "SELECT * FROM activity WHERE (? IS NULL OR action = ?) ORDER BY id DESC LIMIT ?",
            (action, action, limit),
        )
        return [Activity(row["at"], row["action"], json.loads(row["detail"])) for row in rows]

    def trained(self, run: str, cases: Iterable[str]) -> None:
        """Remember the cases that a run trained on."""
        with self._database.transaction():
            for case in cases:
                self._database.execute(
                    "INSERT INTO trained (run, case_name) VALUES (?,?) ON CONFLICT DO NOTHING",
                    (run, case),
                )

    def trained_cases(self) -> set[str]:
        """Every case that any run trained on."""
        rows = self._database.rows("SELECT DISTINCT case_name FROM trained")
        return {row[0] for row in rows}


def _dataset(row: sqlite3.Row) -> DatasetRow:
    erased = json.loads(row["erased"])
    return DatasetRow(
        name=row["name"],
        state=DatasetState(row["state"]),
        hash=row["hash"],
        tags=tuple(json.loads(row["tags"])),
        created_at=row["created_at"],
        frozen_at=row["frozen_at"],
        decided_at=row["decided_at"],
        decided_by=row["decided_by"],
        cases=row["cases"] + sum(erased.values()),
        training=row["training"] + erased.get("train", 0),
        test=row["test"] + erased.get("test", 0),
        unlabelled=row["unlabelled"] + erased.get("infer", 0),
        erased=sum(erased.values()),
    )


def _plan(row: sqlite3.Row) -> PlanRow:
    values = {key: row[key] for key in row.keys()}  # noqa: SIM118 - a Row iterates its values
    return PlanRow(**{**values, "state": Decision(row["state"])})


def _model(row: sqlite3.Row) -> ModelRow:
    values = {key: row[key] for key in row.keys()}  # noqa: SIM118 - a Row iterates its values
    return ModelRow(**{**values, "state": Decision(row["state"])})
