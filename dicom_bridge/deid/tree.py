"""De-identification of whole folders, in parallel: what ``clinode tools deidentify`` runs.

Outputs lie in ``OUT/<study>/<series>/<instance>.dcm``, all three the new UIDs. A file that is
refused leaves nothing in OUT; the report names it by its place in the sorted input and its
SHA-256, never by its path, since paths hold names.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from dicom_bridge.deid.engine import Encoded, Proof, deidentify_bytes, read_source, write_encoded
from dicom_bridge.deid.profile import Profile
from dicom_bridge.deid.pseudonym import Pseudonymizer
from dicom_bridge.deid.residual import search_bytes, search_voxels
from dicom_bridge.errors import DataRefused, SettingsRefused

BATCH = 32
PART = ".incoming"
PIXELS = 64 * 1024
REPORT_FORMAT = 1
DIFFERS = "another file with the same SOP Instance UID has a different content"
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
        workers: processes, 1 for none beside this one.
        verify: search every output for the identifiers of its input before it is written.
    """

    source: Path
    destination: Path
    pseudonymizer: Pseudonymizer
    profile: Profile = field(default_factory=Profile)
    report: Path | None = None
    quarantine: Path | None = None
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    verify: bool = True


@dataclass(frozen=True, slots=True)
class Refused:
    """A file that was refused.

    Attributes:
        number: its place in the sorted list of input files, from 1.
        sha256: of its content, empty where it could not be read.
        reason: why, in words.
    """

    number: int
    sha256: str
    reason: str


@dataclass(frozen=True, slots=True)
class SeriesProof:
    """What was done to one series.

    Attributes:
        series: the new SeriesInstanceUID.
        study: the new StudyInstanceUID.
        instances: how many objects came out.
        actions: sum over them, as in :class:`Proof`.
        codes: codes of CID 7050 that ran.
        residual_hits: identifiers found by the second pass: 0 for everything that was written.
    """

    series: str
    study: str
    instances: int
    actions: dict[str, int]
    codes: tuple[str, ...]
    residual_hits: int = 0


@dataclass(frozen=True, slots=True)
class TreeSummary:
    """The result of one run.

    Attributes:
        files: input files seen.
        written: objects written.
        duplicates: files that gave an output already there, byte for byte.
        refused: what was refused.
        series: a proof per series.
        seconds: wall-clock time.
        profile_hash: hash of the profile.
    """

    files: int
    written: int
    duplicates: int
    refused: tuple[Refused, ...]
    series: tuple[SeriesProof, ...]
    seconds: float
    profile_hash: str

    @property
    def per_second(self) -> float:
        """Objects written per second of wall-clock time."""
        return self.written / self.seconds if self.seconds > 0 else 0.0

    @property
    def reasons(self) -> dict[str, int]:
        """Refused files per reason, most frequent first."""
        return dict(Counter(refused.reason for refused in self.refused).most_common())

    def to_json(self) -> dict[str, Any]:
        """The report; holds no identifier and no path."""
        return {
            "format": REPORT_FORMAT,
            "profile": self.profile_hash,
            "files": self.files,
            "written": self.written,
            "duplicates": self.duplicates,
            "refused": len(self.refused),
            "reasons": self.reasons,
            "seconds": round(self.seconds, 3),
            "instances_per_second": round(self.per_second, 1),
            "quarantine": [
                {"file": r.number, "sha256": r.sha256, "reason": r.reason} for r in self.refused
            ],
            "series": [
                {
                    "SeriesInstanceUID": s.series,
                    "StudyInstanceUID": s.study,
                    "instances": s.instances,
                    "actions": s.actions,
                    "codes": list(s.codes),
                    "residual_hits": s.residual_hits,
                }
                for s in self.series
            ],
        }


@dataclass(frozen=True, slots=True)
class _Task:
    number: int
    path: str
    part: str


@dataclass(frozen=True, slots=True)
class _Done:
    task: _Task
    sha256: str
    written: str
    proof: tuple[dict[str, int], tuple[str, ...], str, str, str]
    reason: str


def deidentify_tree(
    request: DeidentifyRequest, progress: Callable[[int, int], None] = lambda _done, _all: None
) -> TreeSummary:
    """De-identify every file of a folder; refused ones do not stop the others.

    Args:
        request: what to do.
        progress: called with files done and files in all.

    Raises:
        SettingsRefused: the folders do not fit each other, or there is nothing to read.
    """
    _check(request)
    started = time.monotonic()
    paths = _inputs(request.source)
    parts = request.destination / PART
    parts.mkdir(parents=True, exist_ok=True)
    tasks = [_Task(n, str(path), str(parts / str(n))) for n, path in enumerate(paths, 1)]
    collector = _Collector(request)
    try:
        for count, done in enumerate(_results(request, tasks), 1):
            collector.take(done)
            progress(count, len(tasks))
    finally:
        shutil.rmtree(parts, ignore_errors=True)
    summary = collector.summary(len(tasks), time.monotonic() - started)
    if request.report is not None:
        text = json.dumps(summary.to_json(), indent=1) + "\n"
        request.report.write_text(text, encoding="utf-8")
    log.info("deidentified", written=summary.written, refused=len(summary.refused))
    return summary


def _check(request: DeidentifyRequest) -> None:
    source, destination = request.source.resolve(), request.destination.resolve()
    if not source.exists():
        raise SettingsRefused("the input does not exist: give a file or a folder of DICOM")
    if destination == source or destination.is_relative_to(source):
        raise SettingsRefused("the output folder lies in the input: choose one outside")
    if source.is_relative_to(destination):
        raise SettingsRefused("the input lies in the output folder: choose another output")
    if request.quarantine is not None:
        quarantine = request.quarantine.resolve()
        if quarantine == destination or quarantine.is_relative_to(destination):
            raise SettingsRefused("the quarantine lies in the output folder: it is identified data")
    if request.workers < 1:
        raise SettingsRefused(f"at least one process is needed, got {request.workers}")


def _inputs(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    return sorted(p for p in source.rglob("*") if p.is_file() and not p.is_symlink())


def _results(request: DeidentifyRequest, tasks: list[_Task]) -> Iterator[_Done]:
    """Results in the order of the tasks, with a bounded number of them under way."""
    batches = [tasks[i : i + BATCH] for i in range(0, len(tasks), BATCH)]
    workers = min(request.workers, max(1, len(batches)))
    arguments = (request.profile, request.pseudonymizer, request.verify)
    if workers == 1:
        for batch in batches:
            yield from _batch(batch, *arguments)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        waiting: list[Future[list[_Done]]] = []
        for batch in batches:
            waiting.append(pool.submit(_batch, batch, *arguments))
            if len(waiting) > 4 * workers:
                yield from waiting.pop(0).result()
        for future in waiting:
            yield from future.result()


def _batch(
    tasks: list[_Task], profile: Profile, pseudonymizer: Pseudonymizer, verify: bool
) -> list[_Done]:
    return [_one(task, profile, pseudonymizer, verify) for task in tasks]


def _one(task: _Task, profile: Profile, pseudonymizer: Pseudonymizer, verify: bool) -> _Done:
    sha256 = ""
    try:
        content = read_source(Path(task.path))
        sha256 = hashlib.sha256(content).hexdigest()
        encoded = deidentify_bytes(content, profile, pseudonymizer)
        if verify and leaks(encoded):
            raise DataRefused(LEAK)
        write_encoded(encoded, Path(task.part))
    except DataRefused as refused:
        return _Done(task, sha256, "", ({}, (), "", "", ""), str(refused))
    digest = hashlib.sha256()
    for part in encoded.parts:
        digest.update(part)
    return _Done(task, sha256, digest.hexdigest(), _plain(encoded.proof), "")


def _plain(proof: Proof) -> tuple[dict[str, int], tuple[str, ...], str, str, str]:
    return dict(proof.actions), proof.codes, proof.study, proof.series, proof.sop_instance


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
    """Moves outputs to their places and adds up."""

    def __init__(self, request: DeidentifyRequest) -> None:
        self._request = request
        self._seen: dict[str, str] = {}
        self._refused: list[Refused] = []
        self._actions: dict[tuple[str, str], Counter[str]] = {}
        self._instances: Counter[tuple[str, str]] = Counter()
        self._codes: dict[tuple[str, str], tuple[str, ...]] = {}
        self._duplicates = 0

    def take(self, done: _Done) -> None:
        """Take one result over."""
        if done.reason:
            self._refuse(done, done.reason)
            return
        actions, codes, study, series, instance = done.proof
        known = self._seen.get(instance)
        if known is not None:
            if known == done.written:
                self._duplicates += 1
            else:
                self._refuse(done, DIFFERS)
            return
        self._seen[instance] = done.written
        place = self._request.destination / study / series / f"{instance}.dcm"
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(done.task.part, place)
        key = (study, series)
        self._actions.setdefault(key, Counter()).update(actions)
        self._instances[key] += 1
        self._codes[key] = codes

    def summary(self, files: int, seconds: float) -> TreeSummary:
        """The result of the run."""
        series = tuple(
            SeriesProof(
                uid, study, self._instances[study, uid], dict(total), self._codes[study, uid]
            )
            for (study, uid), total in sorted(self._actions.items())
        )
        return TreeSummary(
            files=files,
            written=sum(self._instances.values()),
            duplicates=self._duplicates,
            refused=tuple(self._refused),
            series=series,
            seconds=seconds,
            profile_hash=self._request.profile.hash,
        )

    def _refuse(self, done: _Done, reason: str) -> None:
        self._refused.append(Refused(done.task.number, done.sha256, reason))
        folder = self._request.quarantine
        if folder is not None and done.sha256:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            shutil.copyfile(done.task.path, folder / f"{done.sha256}.dcm")
