"""Receivers side by side: Orthanc moves, and DCMTK sends, the same instances to each in turn.

``python -m benchmarks.dicom [--instances N] [--frames N] [--repeats N] [--write FILE]``
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, generate_uid

from appliance.demo.namespace import free_ports
from appliance.demo.pacs import OrthancPacs
from benchmarks import dicom_receivers as receivers
from benchmarks.dicom_receivers import LOOPBACK, ORTHANC, SENDER, Contender
from benchmarks.table import markdown
from dicom_bridge.net import PacsClient, RemoteAE, Timeouts
from tests.pacs import StudyForm, write_small_study

os.environ["TCP_NODELAY"] = "1"  # DCMTK before 3.6.8 reads it; Orthanc is built on it
_TIMES = Timeouts(move_idle_s=300, move_total_s=1200, response_s=300)


@dataclass(frozen=True)
class Series:
    """What is sent: one study with one series per association."""

    name: str
    study_uid: str
    parts: tuple[tuple[str, tuple[Path, ...]], ...]

    @property
    def files(self) -> list[Path]:
        return [path for _, paths in self.parts for path in paths]


@dataclass
class Figures:
    """What was measured of one receiver in one setting."""

    per_second: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    peak: int = 0


def small_series(folder: Path, count: int, associations: int) -> Series:
    """130 kB MR slices: 256 x 256 x 16 bit."""
    form = StudyForm(series=associations, slices=count // associations, side=256)
    study = write_small_study(folder, form)
    parts = tuple((uid, tuple(paths)) for uid, paths in study.series.items())
    return Series("130 kB MR", study.study_uid, parts)


def frames_series(folder: Path, count: int) -> Series:
    """8 MB multi-frame objects: 64 frames of 256 x 256 x 16 bit."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    study_uid, series_uid = generate_uid(), generate_uid()
    paths = []
    for number in range(count):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study_uid, series_uid
        ds.PatientID, ds.PatientName, ds.Modality = "BENCH", "Bench^Mark", "MR"
        ds.StudyDate, ds.InstanceNumber, ds.NumberOfFrames = "20240101", number + 1, 64
        ds.Rows = ds.Columns = 256
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.PixelData = random.integers(0, 4096, (64, 256, 256), dtype=np.uint16).tobytes()
        path = folder / f"{number}.dcm"
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return Series("8 MB multi-frame", study_uid, ((series_uid, tuple(paths)),))


def move(pacs: RemoteAE, series: Series, target: Contender) -> None:
    """C-MOVE every series, each on an association of its own, all at once."""

    def one(series_uid: str, count: int) -> None:
        client = PacsClient(pacs, calling_ae=SENDER, timeouts=_TIMES)
        outcome = client.move_series(series.study_uid, series_uid, target.remote.ae_title)
        if outcome.completed != count:
            failures.append(f"{outcome.completed} of {count}: {outcome.words}")

    _in_threads(
        failures := [], [lambda u=uid, p=paths: one(u, len(p)) for uid, paths in series.parts]
    )


def send(series: Series, target: Contender) -> None:
    """DCMTK's dcmsend, one per series, all at once."""
    remote = target.remote

    def one(paths: Sequence[Path]) -> None:
        listing = paths[0].with_name(f"list-{paths[0].stem}.txt")
        listing.write_text("\n".join(str(path) for path in paths))
        command = ["/usr/bin/dcmsend", "-aet", SENDER, "-aec", remote.ae_title, "--max-send-pdu"]
        done = subprocess.run(
            [*command, "131072", remote.host, str(remote.port), *(str(p) for p in paths)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            failures.append(done.stderr[-300:])

    _in_threads(failures := [], [lambda p=paths: one(p) for _, paths in series.parts])


def _in_threads(failures: list[str], tasks: Sequence[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=task) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise RuntimeError("; ".join(failures))


def measure(
    contenders: Sequence[Contender], series: Series, work: Callable[[Contender], None], repeats: int
) -> dict[str, Figures]:
    """Every contender in turn, ``repeats`` times, after one round that is not counted."""
    figures = {contender.name: Figures() for contender in contenders}
    count = len(series.files)
    for number in range(repeats + 1):
        for contender in contenders:
            contender.empty()
            os.sync()
            cpu, begun = contender.cpu_seconds(), time.perf_counter()
            work(contender)
            seconds = time.perf_counter() - begun
            while not contender.settled(count):
                time.sleep(0.02)
            if number:
                mine = figures[contender.name]
                mine.per_second.append(count / seconds)
                mine.cpu_ms.append((contender.cpu_seconds() - cpu) / count * 1000)
                mine.peak = max(mine.peak, contender.peak_bytes())
        print(".", end="", flush=True, file=sys.stderr)
    return figures


def rows_of(contenders: Sequence[Contender], figures: dict[str, Figures]) -> list[list[str]]:
    """Table rows; the share is the median of the ratios within each repeat."""
    reference = figures["DCMTK storescp"].per_second
    rows = []
    for contender in contenders:
        mine = figures[contender.name]
        ratios = [a / b for a, b in zip(mine.per_second, reference, strict=True)]
        rows.append(
            [
                contender.name,
                f"{statistics.median(mine.per_second):.0f}",
                f"{min(mine.per_second):.0f} to {max(mine.per_second):.0f}",
                f"{statistics.median(ratios):.2f}",
                f"{statistics.median(mine.cpu_ms):.2f}",
                f"{mine.peak / 2**20:.0f}",
                contender.durable,
            ]
        )
    return rows


HEADINGS = (
    "receiver",
    "instances/s",
    "range",
    "share of storescp",
    "CPU ms/instance",
    "peak MiB",
    "durable before the answer",
)


@contextlib.contextmanager
def everything(
    root: Path, files: Sequence[Path], only: str
) -> Iterator[tuple[RemoteAE, list[Contender]]]:
    """The sending Orthanc, filled, and all receivers."""
    ports = free_ports(7)
    callers = frozenset({SENDER, ORTHANC})
    with contextlib.ExitStack() as stack:
        made: list[Contender] = []
        for processes, port in ((1, ports[0]), (2, ports[1])):
            home = root / f"clinode{processes}"
            made.append(
                stack.enter_context(receivers.clinode(home, port, processes, files, callers))
            )
        made.append(stack.enter_context(receivers.storescp(root / "a", ports[2], fork=False)))
        made.append(stack.enter_context(receivers.storescp(root / "b", ports[3], fork=True)))
        made.append(stack.enter_context(receivers.orthanc(root / "o", ports[4], callers)))
        made.append(stack.enter_context(receivers.pynetdicom(root / "p", ports[5])))
        for contender in made:
            receivers.wait_until_it_listens(contender)
        sender = OrthancPacs()
        stack.callback(sender.stop)
        peers = [RemoteAE(SENDER, LOOPBACK, ports[6]), *(c.remote for c in made)]
        [dicom, http] = free_ports(2)
        sender.start(root / "pacs", ORTHANC, dicom, http, peers)
        outcomes = PacsClient(sender.remote, calling_ae=SENDER).send(files)
        if not all(outcome.ok for outcome in outcomes):
            raise RuntimeError("the sending Orthanc did not take every instance")
        yield sender.remote, [c for c in made if not only or only in c.name]


def main() -> int:
    """Measure and print, or write the tables to a file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dicom", description=__doc__)
    parser.add_argument("--instances", type=int, default=1000)
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--sizes", default="small,frames")
    parser.add_argument("--senders", default="orthanc,dcmsend")
    arguments = parser.parse_args()
    texts = []
    with tempfile.TemporaryDirectory(dir=Path.cwd().parent) as name:
        root = Path(name)
        sizes = []
        if "small" in arguments.sizes:
            sizes.append(small_series(root / "one", arguments.instances, 1))
            sizes.append(small_series(root / "two", arguments.instances, 2))
        if "frames" in arguments.sizes:
            sizes.append(frames_series(root / "frames", arguments.frames))
        files = [path for series in sizes for path in series.files]
        with everything(root, files, "") as (pacs, contenders):
            for series in sizes:
                for sender in arguments.senders.split(","):
                    work = (
                        (lambda c, s=series: move(pacs, s, c))
                        if sender == "orthanc"
                        else (lambda c, s=series: send(s, c))
                    )
                    figures = measure(contenders, series, work, arguments.repeats)
                    how = "C-MOVEd from Orthanc" if sender == "orthanc" else "sent by DCMTK dcmsend"
                    title = (
                        f"{len(series.files)} × {series.name}, {how}, "
                        f"{len(series.parts)} association{'s' if len(series.parts) > 1 else ''}"
                    )
                    table = markdown(HEADINGS, rows_of(contenders, figures))
                    texts.append(f"### {title}\n\n{table}")
                    print(f"\n{texts[-1]}", flush=True)
    if arguments.write:
        place = f"{platform.system()}, Python {platform.python_version()}, {os.cpu_count()} cores"
        body = "\n".join(texts)
        arguments.write.write_text(f"{place}; {arguments.repeats} repeats, in turn.\n\n{body}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
