"""From the running demonstration to its outcome: ask everybody, compare, list what is not true."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import structlog

from appliance.control import node_pb2 as pb
from appliance.demo.cohort import Made, Uses, expert_segmentation, uses_of
from appliance.demo.hospital import Hospital
from appliance.demo.orchestrator import Demonstration, completed_rounds
from appliance.demo.outcome import Dice, Outcome, Picture, Round, SiteRound, UnlabelledStudy
from appliance.demo.outcome import Hospital as HospitalOutcome
from appliance.demo.pacs import OrthancPacs
from appliance.demo.pictures import ReadBack as PictureFiles
from appliance.demo.pictures import draw_picture
from appliance.demo.readback import FoundSeg, ReadBack
from dicom_bridge.errors import DicomBridgeError
from federation.coordinator.control_client import CoordinatorClient

log = structlog.get_logger(__name__)

Detail = dict[str, Any]


@dataclass(slots=True)
class NodeView:
    """What one node says of itself at the end."""

    status: pb.Status
    studies: dict[str, pb.Study]
    plans: list[pb.Plan]
    results: dict[str, pb.Result]


@dataclass(slots=True)
class Gathered:
    """One hospital's outcome and what is not true there."""

    hospital: HospitalOutcome
    problems: list[str] = field(default_factory=list)


def gather(demo: Demonstration, started: str, begun: float) -> Outcome:
    """Ask nodes, coordinator and PACS, and put the outcome together.

    Args:
        demo: the demonstration, still running.
        started: UTC time of its start.
        begun: ``time.monotonic()`` of its start.
    """
    with CoordinatorClient(demo.coordinator_home) as client:
        detail = client.run(demo.run_id)
    gathered = [gather_hospital(demo, hospital, detail) for hospital in demo.hospitals]
    problems = [problem for g in gathered for problem in g.problems]
    problems.extend(run_problems(demo, detail))
    return Outcome(
        version=version("clinode"),
        started=started,
        seconds=time.monotonic() - begun,
        phases=tuple(demo.phases.items()),
        hospitals=tuple(g.hospital for g in gathered),
        rounds=rounds_of(detail),
        plan_name=str(detail["name"]),
        plan_hash=str(detail["plan_hash"]),
        model_id=str(detail.get("model_id") or ""),
        problems=tuple(problems),
        notes=demo.notes(),
        peak_memory_bytes=demo.memory.peak_bytes,
    )


def run_problems(demo: Demonstration, detail: Detail) -> Iterator[str]:
    """What is not true of the run as a whole."""
    done = completed_rounds(detail)
    if done != demo.options.rounds:
        yield f"{done} of {demo.options.rounds} rounds were completed"
    if detail["state"] != "finished":
        yield f"the run ended as {detail['state']}: {detail['words']}"


def gather_hospital(demo: Demonstration, hospital: Hospital, detail: Detail) -> Gathered:
    """One hospital: its node's counts, its Dice, its results as the PACS gives them back."""
    view = look_at(hospital)
    folder = demo.options.workdir / "read-back" / hospital.name
    problems: list[str] = []
    with ReadBack(hospital, folder) as eye:
        unlabelled, found = unlabelled_studies(hospital, view, eye, problems)
        picture = picture_of(hospital, eye, found, folder / "pictures")
    sent = [r for r in view.results.values() if in_pacs(r) and not r.no_finding]
    funnel = view.status.funnel
    before, after = dice_of(detail, hospital.name, 0), dice_of(detail, hospital.name, -1)
    plan = view.plans[-1] if view.plans else pb.Plan()
    outcome = HospitalOutcome(
        name=hospital.name,
        scanner=hospital.scanner,
        pacs=pacs_words(hospital),
        offered=funnel.offered,
        fetched=funnel.fetched,
        converted=funnel.converted,
        passed_qc=funnel.passed_qc,
        quarantined=tuple((r.reason, r.count) for r in funnel.quarantine_reasons),
        trained=funnel.trained,
        dice_before=before,
        dice_after=after,
        segs_expected=len(sent),
        segs_found=sum(not seg.problems for segs in found.values() for seg in segs),
        no_finding=sum(r.no_finding for r in view.results.values()),
        unlabelled=tuple(unlabelled),
        stage_seconds=tuple((s.stage, s.seconds_total) for s in view.status.stages),
        approval=f"{plan.state} by {plan.decided_by} ({plan.reason})",
        release="released by the rule results.release = all, for this demonstration only",
        picture=picture,
    )
    uses = uses_of(demo.options.labelled)
    problems.extend(hospital_problems(hospital, view, outcome, uses))
    return Gathered(outcome, [f"{hospital.name}: {problem}" for problem in problems])


def look_at(hospital: Hospital) -> NodeView:
    """Ask a node for everything that the outcome needs."""
    with hospital.client() as client:
        return NodeView(
            status=client.status(),
            studies={s.key: s for s in client.studies().studies},
            plans=list(client.plans().plans),
            results={r.study: r for r in client.results().results},
        )


def pacs_words(hospital: Hospital) -> str:
    """The PACS by the name that it gives itself."""
    if isinstance(hospital.pacs, OrthancPacs):
        return f"Orthanc {hospital.pacs.version}"
    return f"embedded ({hospital.pacs_client().echo().implementation or 'pynetdicom'})"


def unlabelled_studies(
    hospital: Hospital, view: NodeView, eye: ReadBack, problems: list[str]
) -> tuple[list[UnlabelledStudy], dict[str, list[FoundSeg]]]:
    """What became of each study without label, and the SEGs that the PACS holds for it."""
    sources = [
        (m.written.StudyInstanceUID, "phantom")
        for m in hospital.studies
        if not m.planned.segmentation and m.planned.request.fault is None
    ]
    sources += [(real.StudyInstanceUID, "real") for real in hospital.real]
    rows, found = [], {}
    for uid, source in sources:
        key = hospital.study_key(uid)
        study = view.studies.get(key)
        if study is None:
            problems.append(f"study {key} was never offered")
            continue
        segs = eye.segmentations(uid)
        found[uid] = segs
        result = view.results.get(key)
        rows.append(unlabelled_row(study, source, result, segs))
        problems.extend(f"{key}: {p}" for seg in segs for p in seg.problems)
        wanted = 0 if result is None or result.no_finding else 1
        if result is not None and in_pacs(result) and len(segs) != wanted:
            problems.append(f"{key}: {len(segs)} SEG objects in the PACS, expected {wanted}")
    return rows, found


def in_pacs(result: pb.Result) -> bool:
    """Whether the PACS has the result's objects."""
    return result.state in ("sent", "stored", "committed")


def unlabelled_row(
    study: pb.Study, source: str, result: pb.Result | None, segs: list[FoundSeg]
) -> UnlabelledStudy:
    """One line of the table of unlabelled studies."""
    if study.state != "ready":
        outcome = f"{study.state}: {study.reason}"
    elif result is None:
        outcome = study.reason or "no result"
    elif result.no_finding:
        outcome = "no finding"
    elif in_pacs(result):
        outcome = "SEG in PACS" if segs else "sent, but not found in the PACS"
    else:
        outcome = f"{result.state}: {result.reason}" if result.reason else result.state
    good = bool(segs) and not any(seg.problems for seg in segs)
    return UnlabelledStudy(
        key=study.key,
        source=source,
        state=study.state,
        outcome=outcome,
        volume_ml=result.volume_ml if result else 0.0,
        proof="read back: original study, FLAIR geometry" if good else "",
    )


def picture_of(
    hospital: Hospital, eye: ReadBack, found: dict[str, list[FoundSeg]], work: Path
) -> Picture | None:
    """The unlabelled phantom with the expert's and the model's contours.

    The expert's segmentation of this study is stored in the PACS only now, after the model's
    result has arrived, so that both can be read back from there.
    """
    chosen = next((m for m in hospital.studies if found.get(m.written.StudyInstanceUID)), None)
    if chosen is None:
        return None
    uid = chosen.written.StudyInstanceUID
    try:
        expert = expert_read_back(hospital, eye, chosen, work)
        seg = found[uid][0]
        return draw_picture(PictureFiles(seg.flair, expert, seg.path), work / "draw")
    except DicomBridgeError as error:
        log.warning("no picture", hospital=hospital.name, error=type(error).__name__)
        return None


def expert_read_back(hospital: Hospital, eye: ReadBack, made: Made, work: Path) -> Path | None:
    """Store the expert's SEG of an unlabelled study in the PACS and fetch it from there."""
    uid = made.written.StudyInstanceUID
    before = {ref.SOPInstanceUID for ref in eye.instances(uid)}
    hospital.pacs_client().send([expert_segmentation(made, work / "expert")])
    new = [
        ref
        for ref in eye.instances(uid)
        if ref.Modality == "SEG" and ref.SOPInstanceUID not in before
    ]
    files = [path for paths in eye.fetch(uid, new).values() for path in paths]
    return files[0] if files else None


def hospital_problems(
    hospital: Hospital, view: NodeView, outcome: HospitalOutcome, uses: Uses
) -> Iterator[str]:
    """What is not true at one hospital."""
    if outcome.offered != hospital.expected_studies:
        yield f"{outcome.offered} studies offered, {hospital.expected_studies} are in the PACS"
    if outcome.fetched != outcome.offered:
        yield f"{outcome.fetched} of {outcome.offered} studies were fetched"
    if outcome.trained < uses.training:
        yield f"{outcome.trained} cases trained, expected at least {uses.training}"
    if outcome.dice_before is None or outcome.dice_after is None:
        yield "the held-out cases were not evaluated before and after"
    elif outcome.dice_after.mean <= outcome.dice_before.mean:
        yield "training did not raise the held-out Dice"
    elif outcome.dice_after.cases < uses.test:
        yield f"{outcome.dice_after.cases} held-out cases, expected {uses.test}"
    if outcome.segs_found != outcome.segs_expected:
        yield f"{outcome.segs_found} of {outcome.segs_expected} SEGs are right in the PACS"
    if outcome.segs_found + outcome.no_finding == 0:
        yield "no unlabelled study has a result"
    for made in hospital.studies:
        yield from study_problems(hospital, view, made)
    if not view.status.audit_intact:
        yield "the audit log's chain is broken"


def study_problems(hospital: Hospital, view: NodeView, made: Made) -> Iterator[str]:
    """A planted fault must end in quarantine, a clean phantom must not."""
    fault = made.planned.request.fault
    key = hospital.study_key(made.written.StudyInstanceUID)
    study = view.studies.get(key)
    state = study.state if study is not None else "unknown"
    if fault is not None and state != "quarantined":
        yield f"the planted fault '{fault}' was not caught: its study is {state}"
    if fault is None and state != "ready":
        reason = study.reason if study is not None else ""
        yield f"a clean study ended as {state}: {reason}"


def dice_of(detail: Detail, site: str, which: int) -> Dice | None:
    """Held-out Dice with the first (0) or the final (-1) model, or None where not evaluated."""
    tested = [
        row
        for r in detail["rounds_done"]
        for row in r["metrics"]
        if (row["site"], row["split"], row["metric"]) == (site, "test", "dice")
    ]
    # One row per evaluated model, in the order of the rounds; a single one is "before" only.
    if not tested or (which == -1 and len(tested) < 2):
        return None
    row = tested[which]
    return Dice(float(row["mean"]), float(row["sd"]), int(row["cases"]))


def rounds_of(detail: Detail) -> tuple[Round, ...]:
    """The rounds with each site's times (s) and validation Dice."""
    rounds = []
    for r in detail["rounds_done"]:
        dice = {
            row["site"]: float(row["mean"])
            for row in r["metrics"]
            if (row["split"], row["metric"]) == ("validation", "dice") and row["cases"]
        }
        sites = tuple(
            SiteRound(
                site=s["site"],
                train_s=float(s["times"]["train_s"]),
                wait_s=float(s["times"]["wait_s"]),
                transfer_s=float(s["times"]["transfer_s"]),
                loss=s.get("loss"),
                dice=dice.get(s["site"]),
            )
            for s in sorted(r["sites"], key=lambda s: str(s["site"]))
        )
        if sites:
            times = r["times"]
            rounds.append(
                Round(int(r["round"]), float(times["aggregate_s"]), float(times["total_s"]), sites)
            )
    return tuple(rounds)
