"""De-identification of whole folders, in parallel: what ``clinode tools deidentify`` runs.

Outputs lie in ``OUT/<study>/<series>/<instance>.dcm``, all three the new UIDs. A file that is
refused leaves nothing in OUT; the report names it by its place in the sorted input and its
SHA-256, never by its path, since paths hold names. A run that was stopped goes on where it was:
outputs that are there as the journal has them are verified and not made again.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from dicom_bridge.deid.engine import (
    Encoded,
    deidentify_bytes,
    read_source,
    write_encoded,
)
from dicom_bridge.deid.inputs import REFUSALS, Input, look_at, source_kind
from dicom_bridge.deid.journal import FOLDER, Entry, Journal, file_digest
from dicom_bridge.deid.marks import version
from dicom_bridge.deid.profile import Profile
from dicom_bridge.deid.pseudonym import Pseudonymizer
from dicom_bridge.deid.report import Refused, SeriesProof, SeriesTotals, TreeSummary, kind_of
from dicom_bridge.deid.residual import search_bytes, search_voxels
from dicom_bridge.errors import DataRefused, DicomBridgeError, SettingsRefused

__all__ = ["DeidentifyRequest", "Refused", "SeriesProof", "TreeSummary", "deidentify_tree", "leaks"]

BATCH = 16
PIXELS = 64 * 1024
DIFFERS = "another file with the same SOP Instance UID has a different content"
OCCUPIED = "the output folder already holds another file under the new UID: it was left as it is"
LEAK = "an identifier was still in the output: nothing was written"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DeidentifyRequest:
    """What to de-identify and how.

    Attributes:
        source: a folder (all files below it; links are not followed) or one file.
        destination: the folder for the outputs, outside the source.
        pseudonymizer: the project's mapping.
        profile: what to do.
        report: where the JSON report goes, None for none.
        quarantine: a folder outside the destination that gets copies of refused files, named by
            their SHA-256; None for none. It holds identified data.
        workers: processes at most, 1 for none beside this one; few files need none.
        verify: search every output for the identifiers of its input before it is written.
        dry_run: do everything but write nothing.
    """

    source: Path
    destination: Path
    pseudonymizer: Pseudonymizer
    profile: Profile = field(default_factory=Profile)
    report: Path | None = None
    quarantine: Path | None = None
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    verify: bool = True
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class _Task:
    number: int
    path: str
    part: str


@dataclass(frozen=True, slots=True)
class _Job:
    """What every process of a run needs; ``known`` is place and digest of an output by input."""

    profile: Profile
    pseudonymizer: Pseudonymizer
    known: dict[str, tuple[str, str]]
    destination: Path
    verify: bool
    dry_run: bool


@dataclass(frozen=True, slots=True)
class _Done:
    """One input: an entry where an output was made or is there, else why not."""

    task: _Task
    sha256: str
    entry: Entry | None = None
    unchanged: bool = False
    skipped: str = ""
    reason: str = ""
    kind: str = ""


def deidentify_tree(
    request: DeidentifyRequest, progress: Callable[[int, int], None] = lambda _done, _all: None
) -> TreeSummary:
    """De-identify every file of a folder; refused ones do not stop the others.

    Args:
        request: what to do.
        progress: called with files done and files in all.

    Raises:
        SettingsRefused: the folders do not fit each other, or there is nothing to read.
        DicomBridgeError: a process was killed; what was written stays, and the run can go on.
        OSError: the disk refuses.
    """
    _check(request)
    started = time.monotonic()
    paths = _inputs(request.source)
    mark = request.pseudonymizer.study_key("journal of an output folder")
    journal = Journal(request.destination, request.profile.hash, mark)
    parts = request.destination / FOLDER / "incoming"
    if not request.dry_run:
        journal.begin()
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir(parents=True)
    tasks = [_Task(n, str(path), str(parts / str(n))) for n, path in enumerate(paths, 1)]
    collector = _Collector(request, journal)
    progress(0, len(tasks))
    try:
        for count, done in enumerate(_results(request, journal, tasks), 1):
            collector.take(done)
            progress(count, len(tasks))
    finally:
        shutil.rmtree(parts, ignore_errors=True)
    summary = collector.summary(len(tasks), time.monotonic() - started)
    if request.report is not None:
        text = json.dumps(summary.to_json(), indent=1) + "\n"
        part = request.report.with_name(f".{request.report.name}.part")
        part.write_text(text, encoding="utf-8")
        os.replace(part, request.report)
    log.info("deidentified", written=summary.written, refused=len(summary.refused))
    return summary


def _check(request: DeidentifyRequest) -> None:
    source, destination = request.source.resolve(), request.destination.resolve()
    if not source.exists():
        raise SettingsRefused("the input does not exist: give a file or a folder of DICOM")
    if source.is_file():
        _check_file(source)
    if destination.exists() and not destination.is_dir():
        raise SettingsRefused("the output is a file: give a folder")
    if destination == source or destination.is_relative_to(source):
        raise SettingsRefused("the output folder lies in the input: choose one outside")
    if source.is_relative_to(destination):
        raise SettingsRefused("the input lies in the output folder: choose another output")
    if request.quarantine is not None:
        quarantine = request.quarantine.resolve()
        if quarantine == destination or quarantine.is_relative_to(destination):
            raise SettingsRefused("the quarantine lies in the output folder: it is identified data")
        if quarantine == source or quarantine.is_relative_to(source):
            raise SettingsRefused("the quarantine lies in the input: choose a folder outside")
    if request.report is not None and not request.report.resolve().parent.is_dir():
        raise SettingsRefused("the folder for the report does not exist: make it first")
    if request.workers < 1:
        raise SettingsRefused(f"at least one process is needed, got {request.workers}")


def _check_file(source: Path) -> None:
    with source.open("rb") as stream:
        found = look_at(stream.read(512), source.name)
    if found is Input.ARCHIVE:
        raise SettingsRefused("the input is an archive: unpack it and give the folder")
    if found is Input.DIRECTORY:
        raise SettingsRefused("the input is a DICOMDIR: give the folder that it lies in")


def _inputs(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    return sorted(p for p in source.rglob("*") if p.is_file() and not p.is_symlink())


def _results(request: DeidentifyRequest, journal: Journal, tasks: list[_Task]) -> Iterator[_Done]:
    """Results in the order of the tasks, with a bounded number of them under way."""
    batches = [tasks[i : i + BATCH] for i in range(0, len(tasks), BATCH)]
    workers = min(request.workers, max(1, len(tasks) // (2 * BATCH)))
    job = _Job(
        request.profile,
        request.pseudonymizer,
        {e.source: (str(e.place), e.written) for e in journal.entries.values()},
        request.destination,
        request.verify,
        request.dry_run,
    )
    if workers == 1:
        for task in tasks:
            yield _one(task, job)
        return
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(
            workers, mp_context=context, initializer=_begin, initargs=(job,)
        ) as pool:
            yield from _in_order(pool, batches, 4 * workers)
    except BrokenProcessPool:
        raise DicomBridgeError(
            "a process was killed, perhaps for memory: run again with fewer --workers, "
            "what was written stays and is not made again"
        ) from None


def _in_order(pool: ProcessPoolExecutor, batches: list[list[_Task]], most: int) -> Iterator[_Done]:
    waiting: list[Future[list[_Done]]] = []
    try:
        for batch in batches:
            waiting.append(pool.submit(_batch, batch))
            if len(waiting) > most:
                yield from waiting.pop(0).result()
        while waiting:
            yield from waiting.pop(0).result()
    finally:
        for future in waiting:
            future.cancel()


_JOB: list[_Job] = []


def _begin(job: _Job) -> None:
    """Give a new process its job once."""
    _JOB[:] = [job]


def _batch(tasks: list[_Task]) -> list[_Done]:
    return [_one(task, _JOB[0]) for task in tasks]


def _one(task: _Task, job: _Job) -> _Done:
    """One input file: what it is, and its output where it has one."""
    path, sha256, content = Path(task.path), "", b""
    try:
        content = read_source(path)
        sha256 = hashlib.sha256(content).hexdigest()
        found = look_at(content[:512], path.name)
        if found is not Input.DICOM:
            if found in REFUSALS:
                raise DataRefused(REFUSALS[found])
            return _Done(task, sha256, skipped=str(found))
        known = job.known.get(sha256)
        if known is not None and file_digest(job.destination / known[0]) == known[1]:
            return _Done(task, sha256, unchanged=True)
        encoded = deidentify_bytes(content, job.profile, job.pseudonymizer)
        if job.verify and leaks(encoded):
            raise DataRefused(LEAK)
        if not job.dry_run:
            write_encoded(encoded, Path(task.part))
    except DataRefused as refused:
        return _Done(task, sha256, reason=str(refused), kind=source_kind(content))
    return _Done(task, sha256, _entry(sha256, encoded))


def _entry(sha256: str, encoded: Encoded) -> Entry:
    digest = hashlib.sha256()
    for part in encoded.parts:
        digest.update(part)
    proof = encoded.proof
    return Entry(
        source=sha256,
        written=digest.hexdigest(),
        study=proof.study,
        series=proof.series,
        instance=proof.sop_instance,
        sop_class=proof.sop_class,
        actions=dict(proof.actions),
        codes=proof.codes,
    )


def leaks(encoded: Encoded) -> bool:
    """Whether an identifier of the original is in the de-identified bytes.

    Everything but pixel data is searched for all identifiers, pixel data for the long ones.
    """
    known = encoded.identifiers
    small = b"\n".join(bytes(p) for p in encoded.parts if len(p) < PIXELS)
    if search_bytes(small + b"\0", known):
        return True
    return any(search_voxels(bytes(p), known) for p in encoded.parts if len(p) >= PIXELS)


class _Collector:
    """Moves outputs to their places, keeps the journal and adds up."""

    def __init__(self, request: DeidentifyRequest, journal: Journal) -> None:
        self._request = request
        self._journal = journal
        self._seen: dict[str, str] = {}
        self._refused: list[Refused] = []
        self._skipped: Counter[str] = Counter()
        self._totals = SeriesTotals()
        self._counts: Counter[str] = Counter()

    def take(self, done: _Done) -> None:
        """Take one result over."""
        entry = self._journal.entries[done.sha256] if done.unchanged else done.entry
        if done.skipped:
            self._skipped[done.skipped] += 1
        elif entry is None:
            self._refuse(done, done.reason)
        else:
            self._place(done, entry)

    def _place(self, done: _Done, entry: Entry) -> None:
        known = self._seen.get(entry.instance)
        if known is not None:
            if known == entry.written:
                self._counts["duplicates"] += 1
            else:
                self._refuse(done, DIFFERS)
            return
        unchanged = done.unchanged
        if not unchanged and not self._request.dry_run:
            there = file_digest(self._request.destination / entry.place)
            if there and there != entry.written and not self._ours(entry):
                self._refuse(done, OCCUPIED)
                return
            unchanged = there == entry.written
            self._move(done, entry)
        self._seen[entry.instance] = entry.written
        self._counts["unchanged" if unchanged else "written"] += 1
        self._totals.add(entry.study, entry.series, entry.sop_class, entry.actions, entry.codes)

    def _ours(self, entry: Entry) -> bool:
        """Whether the journal says that this input's output belongs there: then it was damaged."""
        known = self._journal.entries.get(entry.source)
        return known is not None and known.place == entry.place

    def _move(self, done: _Done, entry: Entry) -> None:
        place = self._request.destination / entry.place
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(done.task.part, place)
        self._journal.add(entry)

    def summary(self, files: int, seconds: float) -> TreeSummary:
        """The result of the run."""
        return TreeSummary(
            files=files,
            written=self._counts["written"],
            unchanged=self._counts["unchanged"],
            duplicates=self._counts["duplicates"],
            skipped=dict(self._skipped.most_common()),
            refused=tuple(self._refused),
            series=self._totals.proofs(),
            seconds=seconds,
            profile_hash=self._request.profile.hash,
            version=version(),
            dry_run=self._request.dry_run,
        )

    def _refuse(self, done: _Done, reason: str) -> None:
        kind = done.kind if done.entry is None else kind_of(done.entry.sop_class)
        self._refused.append(Refused(done.task.number, done.sha256, reason, kind))
        folder = self._request.quarantine
        if folder is not None and done.sha256 and not self._request.dry_run:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            shutil.copyfile(done.task.path, folder / f"{done.sha256}.dcm")
