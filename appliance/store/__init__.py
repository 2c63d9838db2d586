"""The node's state: one SQLite file (WAL), one owner, typed rows, no identifiers."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from pathlib import Path

from appliance.pipeline.states import ARROWS, Stage, State, reached
from appliance.result_states import ResultState
from appliance.store.database import Database, StoreBusy, StoreInvalid
from appliance.store.records import (
    ActivityStore,
    DatasetStore,
    ModelStore,
    PlanStore,
)
from appliance.store.results import ResultStore
from appliance.store.rows import (
    Activity,
    Commitment,
    DatasetRow,
    DatasetState,
    Decision,
    Funnel,
    Halt,
    Member,
    ModelRow,
    NewStudy,
    PlanRow,
    ResultEvent,
    ResultObject,
    ResultRow,
    RunRow,
    StageRun,
    StageTiming,
    StudyRow,
)
from appliance.store.runs import LEFT, TAKING_PART, RunStore
from appliance.store.studies import Claim, InstanceStore, Outcome, StudyStore
from federation.clock import Clock, utc_now

__all__ = [
    "LEFT",
    "TAKING_PART",
    "Activity",
    "Claim",
    "Commitment",
    "DatasetRow",
    "DatasetState",
    "Decision",
    "Funnel",
    "Halt",
    "Member",
    "ModelRow",
    "NewStudy",
    "NodeState",
    "Outcome",
    "PlanRow",
    "ResultEvent",
    "ResultObject",
    "ResultRow",
    "ResultState",
    "RunRow",
    "StageRun",
    "StageTiming",
    "StoreBusy",
    "StoreInvalid",
    "StudyRow",
]


class NodeState:
    """All state of a node; the one owner of ``state.sqlite``.

    Args:
        path: the state file; its owner's lock is ``node.lock`` beside it.
        clock: UTC time.

    Attributes:
        studies: studies and their stages.
        instances: received instances.
        datasets: data sets and the split.
        plans: offered plans.
        models: offered models.
        results: segmentations.
        runs: federated runs, left ones, and the halt of all.
        activity: the last events and the trained cases.

    Raises:
        StoreBusy: another process owns the home.
        StoreInvalid: the state file is damaged or of a later version.
    """

    def __init__(self, path: Path, *, clock: Clock = utc_now) -> None:
        self.database = Database(path, path.with_name("node.lock"))
        self.clock = clock
        self.studies = StudyStore(self.database, clock)
        self.instances = InstanceStore(self.database, clock)
        self.datasets = DatasetStore(self.database, clock)
        self.plans = PlanStore(self.database, clock)
        self.models = ModelStore(self.database, clock)
        self.results = ResultStore(self.database, clock)
        self.runs = RunStore(self.database, clock)
        self.activity = ActivityStore(self.database, clock)

    def close(self) -> None:
        """Close the file and give up ownership."""
        self.database.close()

    def state_counts(self) -> dict[State, int]:
        """Number of studies per state; every state is present."""
        rows = self.database.rows("SELECT state, count(*) FROM studies GROUP BY state")
        found = {State(row[0]): int(row[1]) for row in rows}
        return {state: found.get(state, 0) for state in State}

    def funnel(self, required_inputs: tuple[str, ...] = ("FLAIR",)) -> Funnel:
        """How many studies got how far.

        Args:
            required_inputs: inputs whose absence in a ready study is counted.
        """
        studies = [
            s for s in self.studies.select(limit=1_000_000) if s.state is not State.WITHDRAWN
        ]
        ready = [study for study in studies if study.state is State.READY]
        quarantined = [study for study in studies if study.state is State.QUARANTINED]
        missing: Counter[str] = Counter()
        for study in ready:
            missing.update(kind for kind in required_inputs if kind not in study.inputs)
        trained = self.activity.trained_cases()

        def passed(milestone: State) -> int:
            """How many studies got that far."""
            return sum(reached(s.state, milestone, stage=s.stage) for s in studies)

        return Funnel(
            offered=len(studies),
            fetched=passed(State.RECEIVED),
            converted=passed(State.CONVERTED),
            passed_qc=passed(State.CHECKED),
            quarantined=len(quarantined),
            ready=len(ready),
            trained=sum(any(v.case in trained for v in s.versions()) for s in studies),
            quarantine_reasons=dict(Counter(study.reason for study in quarantined)),
            missing_inputs=dict(missing),
        )

    def stage_timings(self) -> list[StageTiming]:
        """Seconds per stage over all finished executions, in the order of the way."""
        seconds: defaultdict[Stage, list[float]] = defaultdict(list)
        for row in self.database.rows("SELECT stage, seconds FROM stage_runs WHERE outcome='done'"):
            seconds[Stage(row["stage"])].append(float(row["seconds"]))
        return [
            StageTiming(
                stage=arrow.stage,
                studies=len(seconds[arrow.stage]),
                seconds_total=sum(seconds[arrow.stage]),
                seconds_median=statistics.median(seconds[arrow.stage]),
            )
            for arrow in ARROWS
            if seconds[arrow.stage]
        ]

    def settled(self) -> bool:
        """Whether no study is on its way: all are ready, quarantined or withdrawn."""
        done = (State.READY, State.QUARANTINED, State.WITHDRAWN)
        open_studies = self.database.number(
            "SELECT count(*) FROM studies WHERE state NOT IN (?,?,?)", done
        )
        return open_studies == 0
