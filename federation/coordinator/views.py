"""What the control API shows: plain JSON of runs, rounds and sites."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from federation.audit_chain import AuditEntry
from federation.canonical import canonical_json
from federation.clock import parse_stamp
from federation.coordinator.schema import RoundRow, RunRow, RunSiteRow, SiteRow, TaskRow
from federation.coordinator.states import RUN_ENDS, TASK_ENDS, RunState, TaskState
from federation.coordinator.store import Store
from federation.coordinator.tasks import newest_per_site
from federation.coordinator.turns import Waiting, position, queue_words
from federation.fingerprint import Fingerprint, figure_rows, figures, merge
from federation.plan import SignedPlan

FORMAT = 1
SILENT_AFTER_S: Final = 90.0
"""A site that has something to do and was not heard of for longer is shown as silent."""
MAX_TROUBLES: Final = 50
OPEN_STATES: Final = tuple(state for state in TaskState if state not in TASK_ENDS)
BAD_STATES: Final = (TaskState.FAILED, TaskState.REFUSED)


def waiting(store: Store) -> list[Waiting]:
    """Every run as the queue sees it."""
    return [Waiting(run.run_id, run.state, run.queue_order) for run in store.runs()]


def site_view(site: SiteRow) -> dict[str, Any]:
    """A site of the project."""
    return asdict(site)


def run_view(store: Store, run: RunRow, slots: int = 1) -> dict[str, Any]:
    """A run in one line.

    Args:
        store: the state.
        run: the run.
        slots: how many runs may be active at a time.
    """
    plan = SignedPlan.from_json(run.signed_plan).plan
    rounds = store.rounds(run.run_id)
    runs = waiting(store)
    quiet = silent_sites(store, run, store.tasks(run.run_id, states=OPEN_STATES))
    bad = troubles(store.tasks(run.run_id, states=BAD_STATES))
    bad += troubles([task for task in store.tasks(run.run_id, states=OPEN_STATES) if task.words])
    return {
        "run_id": run.run_id,
        "name": run.name,
        "state": run.state.value,
        "words": run.words or queue_words(run.run_id, runs, slots),
        "attention": attention(run, rounds, quiet, bad),
        "queue_position": position(run.run_id, runs),
        "silent": quiet,
        "troubles": bad[:MAX_TROUBLES],
        "plan_hash": run.plan_hash,
        "round": rounds[-1].number if rounds else 0,
        "round_state": rounds[-1].state.value if rounds else "",
        "rounds": plan.training.rounds,
        "model_id": run.model_id,
        "sites": [
            {"site": row.site, "state": row.state.value, "words": row.words}
            for row in store.run_sites(run.run_id)
        ],
        "created_at": run.created_at,
        "changed_at": run.changed_at,
        "ended_at": run.ended_at,
    }


def silent_sites(store: Store, run: RunRow, tasks: Sequence[TaskRow]) -> list[dict[str, Any]]:
    """Sites that have something to do for a run under way and have not been heard of for long.

    Args:
        store: the state.
        run: the run.
        tasks: its tasks that are not over.
    """
    if run.state not in (RunState.RUNNING, RunState.PUBLISHING, RunState.OFFERED):
        return []
    open_at = {task.site: task for task in reversed(tasks)}
    now = store.now()
    found = []
    for name, task in sorted(open_at.items()):
        site = store.site(name)
        seen = site.last_seen if site is not None else None
        since = seen or task.created_at
        if seconds_between(since, now) > SILENT_AFTER_S:
            told = {"site": name, "last_seen": seen, "kind": task.kind, "round": task.round}
            found.append(told)
    return found


def troubles(tasks: Sequence[TaskRow]) -> list[dict[str, Any]]:
    """What sites could not or would not do (``tasks``), in their words, the newest first."""
    return [
        {
            "at": task.ended_at,
            "site": task.site,
            "kind": task.kind,
            "round": task.round,
            "state": task.state.value,
            "words": task.words,
        }
        for task in sorted(tasks, key=lambda task: task.ended_at or "", reverse=True)
    ]


def attention(
    run: RunRow,
    rounds: Sequence[RoundRow],
    quiet: Sequence[Mapping[str, Any]],
    bad: Sequence[Mapping[str, Any]],
) -> str:
    """The one thing about a run under way that somebody should know; empty for nothing."""
    if run.state in RUN_ENDS:
        return ""
    if quiet:
        first = quiet[0]
        more = f" and {len(quiet) - 1} more" if len(quiet) > 1 else ""
        return f"{first['site']}{more} silent, last contact {first['last_seen'] or 'never'}"
    if rounds and rounds[-1].words:
        return rounds[-1].words
    here = rounds[-1].number if rounds else 0
    for one in bad:
        if one["round"] == here or one["kind"] == "offer":
            return f"{one['site']} {one['state']} {one['kind']}: {one['words']}"
    return ""


def plan_views(store: Store, run: RunRow) -> list[dict[str, Any]]:
    """The plan as submitted and its amendments, each with the sites' answers."""
    offers = store.tasks(run.run_id, kind="offer")
    found = []
    for row in store.plans(run.run_id):
        here = [t for t in offers if t.body.get("plan_hash", run.plan_hash) == row.plan_hash]
        found.append(
            {
                "number": row.number,
                "plan_hash": row.plan_hash,
                "changes": row.changes,
                "created_at": row.created_at,
                "from_round": row.from_round,
                "in_force": row.plan_hash == run.plan_hash,
                "answers": [
                    {
                        "site": task.site,
                        "answer": _ANSWERS.get(task.state, "undecided"),
                        "words": task.words,
                        "at": task.ended_at,
                    }
                    for task in newest_per_site(here)
                ],
            }
        )
    return found


_ANSWERS: Final[Mapping[TaskState, str]] = {
    TaskState.DONE: "approved",
    TaskState.REFUSED: "refused",
    TaskState.FAILED: "failed",
    TaskState.EXPIRED: "withdrawn",
}


def update_views(store: Store, run: RunRow) -> list[dict[str, Any]]:
    """Every update in the order of arrival, and what became of it."""
    return [
        {
            "sequence": row.sequence,
            "site": row.site,
            "started_from": row.started_from,
            "folded_in": row.folded_in,
            "staleness": row.staleness,
            "weight": row.weight,
        }
        for row in store.updates(run.run_id)
    ]


def run_detail(store: Store, run: RunRow, slots: int = 1) -> dict[str, Any]:
    """A run with everything that is known of its rounds and sites."""
    tasks = store.tasks(run.run_id)
    view = run_view(store, run, slots)
    view["format"] = FORMAT
    view["sites"] = [
        _run_site(row, tasks, store.site(row.site)) for row in store.run_sites(run.run_id)
    ]
    view["plans"] = plan_views(store, run)
    view["updates"] = update_views(store, run)
    view["rounds_done"] = [round_view(at, tasks) for at in store.rounds(run.run_id)]
    view["fingerprint"] = fingerprint_view(tasks)
    return view


def event_view(entry: AuditEntry) -> dict[str, Any]:
    """An entry of the audit log as a line of a run's story.

    ``site`` is empty where not a site acted; ``words`` are the site's or the coordinator's own.
    """
    detail, parts = entry.detail, entry.object.split(".")
    view: dict[str, Any] = {"at": entry.at, "action": entry.action, "site": "", "words": ""}
    if entry.actor not in ("system", "operator"):
        view["site"] = entry.actor
    for key in ("words", "reason", "changes", "site"):
        if detail.get(key):
            view["words"] = str(detail[key])
            break
    if "round" in detail:
        view["round"] = detail["round"]
    if len(parts) == _TASK_ID_PARTS:
        view |= {"round": int(parts[1]), "kind": parts[2], "state": detail.get("state", "")}
    return view


_TASK_ID_PARTS: Final = 5


def fingerprint_view(tasks: Sequence[TaskRow]) -> dict[str, Any] | None:
    """What the sites told of their data, merged; None where the plan asked for none.

    ``sites`` says what became of each question, ``merged`` is the fingerprint of the data sets
    together, ``figures`` and ``table`` are what people read of it.
    """
    asked = newest_per_site([task for task in tasks if task.kind == "fingerprint"])
    if not asked:
        return None
    told = [
        task.report["fingerprint"] for task in asked if task.state is TaskState.DONE and task.report
    ]
    merged = merge(Fingerprint.from_json(canonical_json(item)) for item in told) if told else None
    return {
        "sites": [{"site": t.site, "state": t.state.value, "words": t.words} for t in asked],
        "merged": None if merged is None else merged.model_dump(mode="json"),
        "figures": None if merged is None else figures(merged),
        "table": [] if merged is None else [list(row) for row in figure_rows(merged)],
    }


def _run_site(row: RunSiteRow, tasks: Sequence[TaskRow], site: SiteRow | None) -> dict[str, Any]:
    published = [t for t in tasks if t.kind == "publish" and t.site == row.site]
    return {
        "site": row.site,
        "state": row.state.value,
        "words": row.words,
        "last_seen": site.last_seen if site is not None else None,
        "plan_hash": row.plan_hash,
        "summary": dict(row.summary),
        "decided_at": row.decided_at,
        "publish_state": published[-1].state.value if published else "",
        "publish": (published[-1].report or {}).get("counts") if published else None,
        "publish_words": published[-1].words if published else "",
    }


def round_view(at: RoundRow, tasks: Sequence[TaskRow]) -> dict[str, Any]:
    """A round: its times (seconds), each site's part in it, and its scores."""
    here = [task for task in tasks if task.round == at.number]
    trained = newest_per_site([task for task in here if task.kind == "train"])
    metrics = metric_rows([task for task in here if task.kind == "evaluate"])
    return {
        "round": at.number,
        "state": at.state.value,
        "attempt": at.attempt,
        "words": at.words,
        "opened_at": at.opened_at,
        "closed_at": at.closed_at,
        "deadline": at.deadline,
        "weights_sha256": at.weights_sha256,
        "model_id": at.model_id,
        "plan_hash": at.plan_hash,
        "times": {
            "aggregate_s": at.aggregate_s or 0.0,
            "collect_s": seconds_between(at.opened_at, at.trained_at),
            "total_s": seconds_between(at.opened_at, at.closed_at),
        },
        "sites": [_site_round(at, task) for task in trained],
        "evaluate": [
            {"site": t.site, "state": t.state.value, "words": t.words, "times": _times(t)}
            for t in here
            if t.kind == "evaluate"
        ],
        "metrics": metrics,
        "means": means_over_sites(metrics),
    }


def _times(task: TaskRow) -> dict[str, float]:
    times = (task.report or {}).get("times", {})
    transfer = times.get("download_s", 0.0) + times.get("upload_s", 0.0)
    return {"work_s": times.get("work_s", 0.0), "transfer_s": transfer}


def _site_round(at: RoundRow, task: TaskRow) -> dict[str, Any]:
    report = task.report or {}
    times = report.get("times", {})
    train, transfer = times.get("work_s", 0.0), _times(task)["transfer_s"]
    collect = seconds_between(at.opened_at, at.trained_at)
    return {
        "site": task.site,
        "state": task.state.value,
        "words": task.words,
        "attempt": task.attempt,
        "cases": report.get("cases"),
        "patches": report.get("patches"),
        "loss": report.get("loss"),
        "norm": report.get("norm"),
        "times": {
            "train_s": train,
            "transfer_s": transfer,
            "wait_s": max(0.0, collect - train - transfer) if collect else 0.0,
            "download_s": times.get("download_s", 0.0),
            "upload_s": times.get("upload_s", 0.0),
            "downloaded_bytes": times.get("downloaded_bytes", 0),
            "uploaded_bytes": times.get("uploaded_bytes", 0),
        },
    }


def metric_rows(tasks: Sequence[TaskRow]) -> list[dict[str, Any]]:
    """Every site's scores: mean and SD over its cases."""
    return [
        {"site": task.site, **entry}
        for task in newest_per_site(tasks)
        for entry in (task.report or {}).get("metrics", ())
    ]


def means_over_sites(metrics: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The unweighted mean of the sites' means, with its SD (n - 1; 0 for one site)."""
    groups: dict[tuple[str, str], list[float]] = {}
    for row in metrics:
        if row["cases"]:
            groups.setdefault((row["split"], row["metric"]), []).append(float(row["mean"]))
    return [
        {
            "split": split,
            "metric": metric,
            "sites": len(values),
            "mean": statistics.fmean(values),
            "sd": statistics.stdev(values) if len(values) > 1 else 0.0,
        }
        for (split, metric), values in groups.items()
    ]


def seconds_between(start: str | None, stop: str | None) -> float:
    """Seconds from one stamp to another; 0 where one is missing."""
    if not start or not stop:
        return 0.0
    return (parse_stamp(stop) - parse_stamp(start)).total_seconds()
