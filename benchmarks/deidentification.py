"""De-identifiers side by side on real series: instances per second of one core, and leaks.

``python -m benchmarks.deidentification [--instances N] [--repeats N] [--write FILE]``

Everything runs on one core in turn. The figure is instances per second of processor time, since
other work may run on the machine; of Orthanc only the server's own time counts.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import statistics
import sys
import tarfile
import tempfile
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path

import psutil
import pydicom
from pydicom.dataset import Dataset

from appliance.demo.namespace import free_ports
from appliance.demo.pacs import OrthancPacs, find_orthanc
from appliance.demo.phantom import PhantomRequest, make_study, write_study
from benchmarks.table import Row, in_turn, markdown
from dicom_bridge.deid import Profile, Pseudonymizer, deidentify_bytes, deidentify_file
from dicom_bridge.deid.engine import read_source, write_encoded
from dicom_bridge.deid.tree import leaks
from dicom_bridge.errors import DataRefused
from tests.dicom_bridge.deid.objects import SURNAME, file_bytes
from tests.dicom_bridge.deid.plant import outside_the_data_set, planted, plants
from tests.tools import shared_dir

SERIES = ("siemens_prisma_mprage", "ge_pioneer_mprage_phantom")
FLOOR, REFERENCE, OURS = "pydicom read and save", "dicom-anonymizer", "clinode"
PSEUDONYMIZER = Pseudonymizer(bytes(range(32)), "bench")
NOT_SAFE_TO_SEND = "00280010"  # Rows with another VR: no reader takes the plant as an image

Work = Callable[[Path, Path], None]


@dataclass
class Contender:
    """One de-identifier.

    Attributes:
        name: what it is. version: as it says itself. work: from one file to another.
        server: the process that works, None for this one.
        rates: instances per second of processor time, by series.
        leaked: places that leaked: at top level and around the data set, and in sequences.
        failed: plants on which it gave nothing.
    """

    name: str
    version: str
    work: Work
    server: psutil.Process | None = None
    rates: dict[str, list[float]] = field(default_factory=dict)
    leaked: list[int] = field(default_factory=list)
    failed: int = 0

    def cpu_seconds(self) -> float:
        """Processor time so far."""
        if self.server is None:
            return time.process_time()
        times = self.server.cpu_times()
        return float(times.user + times.system)


def floor(source: Path, target: Path) -> None:
    """Read everything, write everything, remove nothing."""
    pydicom.dcmread(source).save_as(target)


def clinode(profile: Profile, *, second_pass: bool) -> Work:
    """This engine, as ``tools deidentify`` calls it."""

    def work(source: Path, target: Path) -> None:
        encoded = deidentify_bytes(read_source(source), profile, PSEUDONYMIZER)
        if second_pass and leaks(encoded):
            raise DataRefused("the second pass found an identifier")
        write_encoded(encoded, target)

    return work


def peers() -> Iterator[Contender]:
    """The Python packages of the extra ``bench``, in their default settings."""
    # Here, not above: `make bench` runs without the extra.
    from deid.dicom import replace_identifiers  # type: ignore[import-untyped]
    from deid.logger import bot  # type: ignore[import-untyped]
    from dicognito.anonymizer import Anonymizer
    from dicomanonymizer import anonymize_dicom_file  # type: ignore[import-untyped]

    bot.level = 0
    dicognito = Anonymizer(seed="bench")

    def by_dicom_anonymizer(source: Path, target: Path) -> None:
        anonymize_dicom_file(str(source), str(target))

    def by_dicognito(source: Path, target: Path) -> None:
        dataset = pydicom.dcmread(source)
        dicognito.anonymize(dataset)
        dataset.save_as(target)

    def by_deid(source: Path, target: Path) -> None:
        (result,) = replace_identifiers(str(source), save=False)
        result.save_as(target)

    for name, package, work in (
        (REFERENCE, "dicom-anonymizer", by_dicom_anonymizer),
        ("dicognito", "dicognito", by_dicognito),
        ("pydicom deid", "deid", by_deid),
    ):
        yield Contender(name, metadata.version(package), work)


@contextmanager
def orthanc(folder: Path) -> Iterator[Contender | None]:
    """Orthanc's ``/anonymize`` on a server of its own; None where it is not installed."""
    if find_orthanc() is None:
        yield None
        return
    pacs = OrthancPacs()
    dicom_port, http_port = free_ports(2)
    try:
        extra = {"OverwriteInstances": True}  # all plants have one UID
        pacs.start(folder, "BENCH", dicom_port, http_port, [], extra)
        server = psutil.Process(pacs.pid)
        os.sched_setaffinity(pacs.pid, os.sched_getaffinity(0))
        known: dict[Path, str] = {}

        def work(source: Path, target: Path) -> None:
            instance = known.get(source)
            if instance is None:
                answer = _post(f"{pacs.rest_url}/instances", source.read_bytes())
                instance = known[source] = str(json.loads(answer)["ID"])
            target.write_bytes(_post(f"{pacs.rest_url}/instances/{instance}/anonymize", b"{}"))

        yield Contender("Orthanc /anonymize", pacs.version, work, server)
    finally:
        pacs.stop()


def _post(url: str, body: bytes) -> bytes:
    with urllib.request.urlopen(url, data=body, timeout=60) as answer:
        return bytes(answer.read())


def contenders(server: Contender | None) -> list[Contender]:
    """The floor, this engine with and without its checks, and the peers."""
    full, blind = Profile.basic(), replace(Profile.basic(), detect_text=False)
    ours = metadata.version("clinode")
    found = [
        Contender(FLOOR, metadata.version("pydicom"), floor),
        Contender(OURS, ours, clinode(full, second_pass=True)),
        Contender(f"{OURS}, no second pass", ours, clinode(full, second_pass=False)),
        Contender(f"{OURS}, no text detection", ours, clinode(blind, second_pass=True)),
        Contender(f"{OURS}, neither", ours, clinode(blind, second_pass=False)),
        *peers(),
    ]
    return [*found, server] if server is not None else found


def real_series(name: str, folder: Path, count: int) -> list[Path]:
    """The first instances of a packed series of the shared data."""
    with tarfile.open(shared_dir("data", "dicom", f"{name}.tar.xz")) as packed:
        members = sorted((m for m in packed if m.isfile()), key=lambda m: m.name)[:count]
        packed.extractall(folder, members, filter="data")
    return [folder / member.name for member in members]


def measure_series(
    entrants: Sequence[Contender], name: str, files: Sequence[Path], out: Path, repeats: int
) -> None:
    """Every contender in turn, ``repeats`` times, after one round that is not counted."""
    for number in range(repeats + 1):
        for entrant in entrants:
            begun = entrant.cpu_seconds()
            for place, path in enumerate(files):
                entrant.work(path, out / f"{place}.dcm")
            used = entrant.cpu_seconds() - begun
            if number:
                entrant.rates.setdefault(name, []).append(len(files) / max(used, 1e-3))


def count_leaks(entrants: Sequence[Contender], folder: Path) -> tuple[int, int]:
    """Plant one surname in every place in turn and look for it in what comes out.

    Returns:
        How many places there are at top level and around the data set, and in sequences.
    """
    around = [content for _, content in outside_the_data_set()]
    top = [_bytes(planted(i, 0, kept=True)) for n, i in plants() if n != NOT_SAFE_TO_SEND]
    nested = [_bytes(planted(i, d, kept=True)) for _, i in plants() for d in (1, 2)]
    levels = ([*around, *top], nested)
    for level, contents in enumerate(levels):
        files = [folder / f"{level}-{place}.dcm" for place in range(len(contents))]
        for path, content in zip(files, contents, strict=True):
            path.write_bytes(content)
        for entrant in entrants:
            entrant.leaked.append(sum(_leaks(entrant, path, folder / "out.dcm") for path in files))
    return len(levels[0]), len(levels[1])


def _bytes(dataset: Dataset) -> bytes:
    return file_bytes(dataset)


def _leaks(entrant: Contender, source: Path, target: Path) -> bool:
    target.unlink(missing_ok=True)
    try:
        entrant.work(source, target)
    except Exception:  # edge: a peer that fails on a plant leaks nothing
        entrant.failed += 1
        return False
    content, name = target.read_bytes().lower(), SURNAME.lower()
    return name.encode() in content or name.encode("utf-16-le") in content


def report(entrants: Sequence[Contender], series: Sequence[str], places: tuple[int, int]) -> str:
    """The table, as Markdown."""
    reference = next(e for e in entrants if e.name == REFERENCE)
    heads = ["", "version", *(f"{name}: instances/s" for name in series)]
    heads += [f"times {REFERENCE}", f"leaks of {places[0]}, top", f"leaks of {places[1]}, nested"]
    heads.append("plants refused or failed")
    rows = []
    for entrant in entrants:
        medians = [statistics.median(entrant.rates[name]) for name in series]
        others = [statistics.median(reference.rates[name]) for name in series]
        ratio = statistics.geometric_mean(m / o for m, o in zip(medians, others, strict=True))
        cells = [f"{rate:.0f}" for rate in medians]
        counts = map(str, (*entrant.leaked, entrant.failed))
        rows.append([entrant.name, entrant.version, *cells, f"{ratio:.2f}", *counts])
    return markdown(heads, rows)


def measure() -> list[Row]:
    """One half-resolution GE study's FLAIR, next to pydicom's bare read and save."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study = make_study(PhantomRequest(index=0, style="ge"))
        files = write_study(study, folder / "dicom", segmentation=False).flair
        out = folder / "out"
        out.mkdir()

        def bare() -> str:
            for path in files:
                floor(path, out / path.name)
            return f"{len(files)} instances, nothing removed"

        def ours() -> str:
            for path in files:
                deidentify_file(path, out / path.name, Profile.basic(), PSEUDONYMIZER)
            return "full Basic Profile"

        return in_turn({FLOOR: bare, OURS: ours})


def main() -> int:
    """Measure, print and, where asked, write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.deidentification")
    parser.add_argument("--instances", type=int, default=64, help="of each series")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--write", type=Path, help="write the table there too")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        out = folder / "out"
        out.mkdir()
        with orthanc(folder / "orthanc") as server:
            entrants = contenders(server)
            for series in SERIES:
                files = real_series(series, folder / "in", options.instances)
                measure_series(entrants, series, files, out, options.repeats)
            places = count_leaks(entrants, out)
    table = report(entrants, SERIES, places)
    head = (
        f"{options.instances} instances of each series, median of {options.repeats} rounds in turn,"
        f" one core, {platform.machine()}, Python {platform.python_version()}\n"
    )
    print(f"{head}\n{table}")
    if options.write is not None:
        options.write.write_text(f"{head}\n{table}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
