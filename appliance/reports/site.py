"""A node's reports: where a study's lies, and the page of a data set, made anew when asked for."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from appliance.datasets import INFER
from appliance.home import Home, write_atomic
from appliance.pipeline.states import Stage, State
from appliance.pipeline.work import REPORT_FILE, STAGES
from appliance.reports.group import Case, GroupContent, render_group
from appliance.reports.metrics import Quality, read_quality
from appliance.research import CaseFiles
from appliance.settings import Settings
from appliance.store import DatasetState, Member, NodeState, StudyRow

MAX_BYTES = 1 << 20
"""Largest quality report that is read."""
NOTE = "Studies bear pseudonyms. The page lies in the research zone and links to their reports."
_LINK = 'href="../derivatives/'


def report_path(home: Home, study: StudyRow) -> Path | None:
    """Where a study's report lies, or None where the check has not drawn one.

    A study that is ready has it in the research zone; one that is held, or on its way to a new
    version, in its identified folder.
    """
    published = home.research / CaseFiles.of(study.case).report()
    if study.state is State.WITHDRAWN:
        return None
    staged = home.study(study.study_key) / STAGES / Stage.CHECK.value / REPORT_FILE
    order = (published, staged) if study.state is State.READY else (staged, published)
    return next((path for path in order if path.exists()), None)


def write_dataset_report(state: NodeState, home: Home, settings: Settings, name: str) -> Path:
    """Draw a data set's report into ``research/PROJECT/datasets/NAME.html``.

    An open data set shows the studies that a freeze would take now. The page names the studies: it
    is removed when one of them is withdrawn.

    Returns:
        The page.

    Raises:
        NotFound: no such data set.
    """
    page = render_group(dataset_content(state, home, settings, name))
    path = home.datasets / f"{name}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, page.encode())
    return path


def dataset_content(state: NodeState, home: Home, settings: Settings, name: str) -> GroupContent:
    """What a data set's report shows.

    Raises:
        NotFound: no such data set.
    """
    row = state.datasets.get(name)
    is_open = row.state is DatasetState.OPEN
    members = _candidates(state) if is_open else _present(state, state.datasets.members(name))
    cases = tuple(_case(home, member) for member in members)
    funnel = state.funnel((settings.imaging.reference,))
    parts = Counter(member.split for member in members)
    facts = (
        ("state", str(row.state)),
        ("frozen", (row.frozen_at or "")[:10]),
        ("content hash", row.hash[:16]),
        ("studies by part", ", ".join(f"{n} {part or 'not placed'}" for part, n in parts.items())),
        ("with a label", str(sum(member.labelled for member in members))),
        ("erased since", str(row.erased) if row.erased else ""),
    )
    steps = (
        ("offered by the PACS", funnel.offered),
        ("fetched", funnel.fetched),
        ("converted", funnel.converted),
        ("passed the check", funnel.passed_qc),
        ("ready", funnel.ready),
        ("would be in this data set" if is_open else "in this data set", len(members)),
    )
    return GroupContent(
        title=name,
        cases=cases,
        facts=facts,
        funnel=steps,
        excluded=_excluded(state, funnel.quarantine_reasons, funnel.missing_inputs),
        limit=settings.qc.site.z,
        note=NOTE,
    )


def relinked(page: str, old: Path, new: Path) -> str:
    """A data set's page with links that hold in another folder.

    Args:
        page: as `write_dataset_report` wrote it.
        old: the folder that it lies in.
        new: the folder of the copy.
    """
    target = os.path.relpath(old.resolve().parent / "derivatives", new.resolve())
    return page.replace(_LINK, f'href="{Path(target).as_posix()}/')


def reason_class(reason: str) -> str:
    """A reason without the figures of one study, so that equal ones can be counted.

    Examples:
        >>> reason_class("quality: the FLAIR is noisy: flair_snr is 3.2, below 5; T1: cropped")
        'quality: the FLAIR is noisy'
        >>> reason_class("missing slice: 1 of 42 slices are not there; the first gap is 8.8 mm")
        'missing slice'
    """
    parts = reason.split(";")[0].split(": ")
    kept = parts[:1]
    for part in parts[1:]:
        if any(c.isdigit() for c in part.replace("T1", "").replace("T2", "")):
            break
        kept.append(part)
    return ": ".join(kept) or "no reason was given"


def _candidates(state: NodeState) -> list[Member]:
    """What a freeze would take, without a place."""
    ready = state.studies.select(state=State.READY, limit=1_000_000)
    return [
        Member(s.study_key, s.case, "" if s.labelled else INFER, s.labelled, s.inputs, "")
        for s in ready
    ]


def _present(state: NodeState, members: Iterable[Member]) -> list[Member]:
    """The members whose data are still here."""
    found = []
    for member in members:
        study = state.studies.find(member.study_key)
        if study is not None and study.state is not State.WITHDRAWN:
            found.append(member)
    return found


def _case(home: Home, member: Member) -> Case:
    files = CaseFiles.of(member.case)
    report = home.research / files.report()
    link = f"../{files.report().as_posix()}" if report.exists() else ""
    quality = _quality(home.research / files.qc())
    return Case(member.case, quality, link, member.split, member.labelled)


def _quality(path: Path) -> Quality:
    try:
        if path.stat().st_size > MAX_BYTES:
            return Quality()
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return Quality()
    return read_quality(document) if isinstance(document, Mapping) else Quality()


def _excluded(
    state: NodeState, quarantined: Mapping[str, int], missing: Mapping[str, int]
) -> tuple[tuple[str, int], ...]:
    """Why studies are not in, with their number."""
    found: Counter[str] = Counter()
    for reason, count in quarantined.items():
        found[reason_class(reason)] += count
    for kind, count in missing.items():
        found[f"ready without {kind}"] += count
    for waiting in (State.FAILED, State.WITHDRAWN):
        count = state.studies.count(waiting)
        if count:
            found[f"{waiting}"] += count
    return tuple(found.items())
