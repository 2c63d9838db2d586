"""What each screen says, as plain data: no Textual here, most tests are about this file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from appliance.control import node_pb2 as pb
from tui.snapshot import Snapshot

STALE_AFTER_S = 5.0
COLUMNS = ("study", "subject", "state", "images", "inputs", "split", "reason")


def age_words(snapshot: Snapshot, now: float) -> str:
    """How old the data are; STALE in words after a few seconds.

    >>> age_words(Snapshot(taken=10.0), 12.0)
    '2 s old'
    >>> age_words(Snapshot(taken=10.0), 52.0)
    'STALE 00:42'
    """
    if snapshot.taken is None:
        return "no data yet"
    age = max(0.0, now - snapshot.taken)
    if age < STALE_AFTER_S:
        return f"{age:.0f} s old"
    return f"STALE {int(age) // 60:02d}:{int(age) % 60:02d}"


def is_stale(snapshot: Snapshot, now: float) -> bool:
    """Whether the data are too old to act on."""
    return snapshot.taken is None or now - snapshot.taken >= STALE_AFTER_S


def header_words(snapshot: Snapshot, now: float) -> str:
    """The one header line: site, link, open items, age."""
    status = snapshot.status
    if snapshot.taken is None:
        return f"clinode  {snapshot.problem or 'asking the node ...'}"
    parts = [
        f"NODE {status.site}",
        f"FED {status.federation.state or 'not enrolled'}",
        f"OPEN {status.open_items}" if status.open_items else "nothing open",
        status.time[11:19] + "Z" if len(status.time) >= 19 else "",
        age_words(snapshot, now),
    ]
    if status.federation.halted:
        parts.insert(1, "HALTED")
    if not status.audit_intact:
        parts.insert(1, "AUDIT LOG DAMAGED")
    return "  ".join(part for part in parts if part)


def banner_words(snapshot: Snapshot) -> str:
    """The line below the header: what ends soon, the most urgent first; empty for nothing.

    >>> banner_words(Snapshot(status=pb.Status(warnings=["the clock is wrong", "more"])))
    'WARNING 1 of 2: the clock is wrong'
    """
    found = snapshot.status.warnings
    if not found:
        return ""
    return f"WARNING{f' 1 of {len(found)}' if len(found) > 1 else ''}: {found[0]}"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of an overview: a name, a value, and the state that marks it (or empty)."""

    name: str
    value: str
    state: str = ""


def overview(snapshot: Snapshot) -> dict[str, tuple[Line, ...]]:
    """The overview's panels: each a title and its lines."""
    status = snapshot.status
    funnel, federation = status.funnel, status.federation
    study = (
        Line("offered by the PACS", str(funnel.offered)),
        Line("fetched", str(funnel.fetched)),
        Line("converted", str(funnel.converted)),
        Line("passed QC", str(funnel.passed_qc)),
        Line("ready", str(funnel.ready)),
        Line("quarantined", str(funnel.quarantined), "quarantined" if funnel.quarantined else ""),
        Line("trained on", str(funnel.trained)),
    )
    rounds = f"round {federation.round}" + (f" of {federation.rounds}" if federation.rounds else "")
    state = federation.state or "not enrolled"
    link = (
        Line("coordinator", f"{state} {federation.coordinator}".rstrip(), state),
        Line("run", f"{federation.run} {rounds}" if federation.run else "none"),
        Line("doing", federation.task or federation.detail or "nothing"),
        *([Line("waits for", federation.waits)] if federation.waits else []),
        Line("certificate", f"until {federation.certificate_expires[:10] or '-'}"),
    )
    return {"Services": services(status), "Studies": study, "Federation": link}


def services(status: pb.Status) -> tuple[Line, ...]:
    """The service's parts: those that need a look by name, the others together."""
    lines = []
    good = [c.name for c in status.components if c.state in ("running", "waiting") and not c.detail]
    for component in status.components:
        if component.name not in good:
            words = f"{component.state} {component.detail}".rstrip()
            lines.append(Line(component.name, words, component.state))
    if good:
        lines.append(Line("running", ", ".join(good), "running"))
    lines.append(Line("address", status.dicom_address))
    lines.append(Line("disk free", f"{status.disk_free_bytes / 2**30:.0f} GiB"))
    return tuple(lines)


def open_items(snapshot: Snapshot) -> tuple[Line, ...]:
    """What waits for a person, with the screen that answers it."""
    found = [Line("warning", words, "pending") for words in snapshot.status.warnings]
    found += [
        Line("plan", f"{_plan_words(p)} waits for your decision (3 Approvals)", "pending")
        for p in snapshot.plans
        if p.state == "pending"
    ]
    if snapshot.status.federation.halted:
        found.append(Line("runs", "all are halted here (3 Approvals)", "halted"))
    found += [
        Line("model", f"{m.id[:12]} waits for your acceptance (3 Approvals)", "offered")
        for m in snapshot.models
        if m.state == "offered"
    ]
    held = sum(r.state == "held" for r in snapshot.results)
    if held:
        found.append(Line("results", f"{held} are held (3 Approvals)", "held"))
    refused = sum(r.state == "refused" for r in snapshot.results)
    if refused:
        found.append(Line("results", f"{refused} are refused (3 Approvals)", "refused"))
    stopped = sum(s.state == "quarantined" for s in snapshot.studies)
    if stopped:
        found.append(Line("studies", f"{stopped} quarantined (2 Studies)", "quarantined"))
    late = sum(s.late > 0 for s in snapshot.studies)
    if late:
        words = f"{late} with late images in the PACS (2 Studies; `study reopen KEY`)"
        found.append(Line("studies", words, "offered"))
    return tuple(found)


def recent_events(snapshot: Snapshot, count: int) -> tuple[str, ...]:
    """The newest audit entries, newest first."""
    entries = list(snapshot.status.recent)[-count:]
    return tuple(f"{e.time[11:19]} {e.actor} {e.action} {e.object[:24]}" for e in reversed(entries))


def matching(studies: Sequence[pb.Study], wanted: str) -> list[pb.Study]:
    """Studies that fit a filter: words that must occur, ``!word`` must not, ``state:x``.

    >>> rows = [pb.Study(key="st1", state="ready"), pb.Study(key="st2", state="failed")]
    >>> [s.key for s in matching(rows, "state:ready")]
    ['st1']
    >>> [s.key for s in matching(rows, "!ready")]
    ['st2']
    """
    return [study for study in studies if all(_fits(study, w) for w in wanted.lower().split())]


def _fits(study: pb.Study, word: str) -> bool:
    if word.startswith("state:"):
        return study.state.startswith(word[6:])
    text = " ".join(
        (study.key, study.subject, study.state, study.reason, study.split, *study.inputs)
    ).lower()
    if word.startswith("!") and len(word) > 1:
        return word[1:] not in text
    return word in text


def study_cells(study: pb.Study) -> tuple[str, ...]:
    """A study's row, in the order of :data:`COLUMNS`."""
    label = " +label" if study.labelled else ""
    return (
        study.key,
        study.subject,
        study.state,
        str(study.instances),
        ",".join(study.inputs) + label,
        study.split,
        study.reason or late_words(study),
    )


def late_words(study: pb.Study) -> str:
    """What is said about late images and later versions, or an empty text.

    >>> late_words(pb.Study(late=2)), late_words(pb.Study(version=2))
    ('2 late images in the PACS', 'version 2, after late images')
    """
    if study.late:
        return f"{study.late} late images in the PACS"
    return f"version {study.version}, after late images" if study.version > 1 else ""


def study_lines(detail: pb.StudyDetail) -> Iterator[Line]:
    """A study's detail page: what it is, what stopped it, its stages, QC and results."""
    study = detail.study
    yield Line("study", f"{study.state}  {study.key}  {study.subject}", study.state)
    if study.reason:
        yield Line("reason", study.reason)
    if late_words(study):
        yield Line("late", late_words(study))
    yield Line("images", f"{study.instances}; inputs {', '.join(study.inputs) or 'none yet'}")
    yield Line("split", study.split or "not in a frozen data set")
    for stage in study.stages:
        again = f"  try {stage.attempt}" if stage.attempt > 1 else ""
        words = f"{stage.state} {stage.seconds:.1f} s{again}  {stage.detail}".rstrip()
        yield Line(f"  {stage.stage}", words, stage.state)
    if detail.qc_decision:
        reasons = "; ".join(detail.qc_reasons)
        yield Line("QC", f"{detail.qc_decision} {reasons}".strip())
    if detail.report:
        yield Line("report", f"{detail.report}  (open it in a browser)")
    for metric in detail.qc:
        yield Line(f"  {metric.name}", f"{metric.value:.4g} {metric.unit} ({metric.direction})")
    for result in detail.results:
        found = f"{result.volume_ml:.2f} ml, {result.lesions} lesions"
        words = f"{result.state}: {found} {result.reason}".rstrip()
        yield Line("result", words, result.state)


@dataclass(frozen=True, slots=True)
class Approval:
    """One thing that a person may decide.

    Attributes:
        key: the item's key.
        kind: plan, model, result or dataset.
        name: what to call it.
        state: its state.
        words: what matters about it.
        verbs: key letter to action and label; empty when nothing can be decided now.
    """

    key: str
    kind: str
    name: str
    state: str
    words: str
    verbs: tuple[tuple[str, str, str], ...] = ()


def _plan_words(plan: pb.Plan) -> str:
    """A plan's name; of an amendment what it changes."""
    return f"{plan.name}, amended: {'; '.join(plan.changes)}," if plan.amends else plan.name


def approvals(snapshot: Snapshot) -> list[Approval]:
    """Everything that can be or was decided; what is open comes first, runs come last."""
    runs = [_run(r) for r in snapshot.runs]
    return [*_decided(snapshot), *([_all_runs(snapshot.status)] if runs else []), *runs]


def _all_runs(status: pb.Status) -> Approval:
    """All runs of this node, to halt and to let go on."""
    if status.federation.halted:
        verbs = (("a", "runs-resume", "let go on"),)
        return Approval("", "runs", "all", "halted", "nothing is trained here", verbs)
    words = "x halts all training here until you let it go on"
    return Approval("", "runs", "all", "taking part", words, (("x", "runs-halt", "halt"),))


def _run(run: pb.Run) -> Approval:
    words = f"plan {run.name} {run.reason}".rstrip()
    if run.state == "left":
        told = run.coordinator or "the coordinator does not know yet"
        return Approval(run.run, "run", run.run, run.state, f"{words}; {told}")
    verbs = (("x", "run-leave", "leave for good"),)
    return Approval(run.run, "run", run.run, run.state, words, verbs)


def _decided(snapshot: Snapshot) -> list[Approval]:
    """Plans, models, data sets and results, what is open first."""
    items = [_plan(p) for p in snapshot.plans]
    items += [_model(m) for m in snapshot.models]
    items += [_dataset(d) for d in snapshot.datasets]
    items += [_result(r) for r in snapshot.results]
    return sorted(items, key=lambda item: (not item.verbs, item.kind, item.name))


def _plan(plan: pb.Plan) -> Approval:
    valid = "signature valid" if plan.signature_valid else "SIGNATURE INVALID"
    words = f"{plan.rounds} rounds, sends {', '.join(plan.sends) or 'nothing'}, {valid}"
    if plan.amends:
        words = f"AMENDMENT of {plan.amends[:12]}: {'; '.join(plan.changes)}; {valid}"
    verbs: tuple[tuple[str, str, str], ...] = ()
    if plan.state == "pending":
        verbs = (("x", "plan-reject", "reject"),)
        if plan.signature_valid:
            verbs = (("a", "plan-approve", "approve"), *verbs)
    elif plan.decided_by:
        words = f"{plan.state} by {plan.decided_by} {plan.reason}".rstrip()
    return Approval(plan.hash, "plan", plan.name, plan.state, words, verbs)


def _model(model: pb.Model) -> Approval:
    words = f"round {model.round} of plan {model.plan[:12]} {model.reason}".rstrip()
    verbs: tuple[tuple[str, str, str], ...] = ()
    if model.state == "offered":
        verbs = (("a", "model-accept", "accept"), ("x", "model-reject", "reject"))
    return Approval(model.id, "model", model.id[:12], model.state, words, verbs)


def _dataset(dataset: pb.Dataset) -> Approval:
    words = (
        f"{dataset.cases} cases: {dataset.training} training, {dataset.test} test, "
        f"{dataset.unlabelled} unlabelled"
    )
    if dataset.erased:
        words += f", {dataset.erased} erased since"
    verbs: tuple[tuple[str, str, str], ...] = ()
    if dataset.state == "frozen":
        verbs = (("a", "dataset-approve", "approve"),)
    return Approval(dataset.name, "dataset", dataset.name, dataset.state, words, verbs)


def _result(result: pb.Result) -> Approval:
    words = f"study {result.study}: {result.volume_ml:.2f} ml, {result.lesions} lesions"
    if result.commitment not in ("", "off"):
        words += f"; commitment {result.commitment}"
    if result.reason:
        words += f"; {result.reason}"
    verbs: tuple[tuple[str, str, str], ...] = ()
    if result.state == "held":
        verbs = (("a", "result-release", "release to the PACS"),)
    elif result.state == "refused":
        verbs = (("a", "result-release", "check again and release"),)
    elif result.state in ("released", "failed"):
        verbs = (("x", "result-hold", "hold"),)
    return Approval(result.key, "result", result.key[:14], result.state, words, verbs)


def plan_text(plan: pb.Plan) -> str:
    """A plan for reading: the signed bytes, indented; as they are where they are no JSON."""
    try:
        return json.dumps(json.loads(plan.canonical), indent=2, sort_keys=True)
    except ValueError:
        return plan.canonical
