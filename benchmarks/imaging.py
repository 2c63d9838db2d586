"""Images side by side: from DICOM to ready images by stage, and registration next to its peers.

``python -m benchmarks.imaging [--quick] [--threads N] [--write FILE]``

Every figure comes from a process of its own, one after the other; peak memory is the largest
resident memory of that process and its children together. Registration is timed without starting
Python and reading files. Peers that are not installed are named and left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.demo.phantom import PhantomRequest, make_study, write_study
from appliance.imaging.grid import grid_of, resample
from appliance.imaging.itk import load_matrix
from appliance.imaging.rigid import best_rigid, mean_displacement
from appliance.imaging.volume import Affine, apply_affine, inverse, load_volume, save_volume
from appliance.pipeline.pool import WorkerPool
from benchmarks import imaging_jobs
from benchmarks.table import markdown
from tests.studies import RawPair, raw_ms_pairs, write_raw_ms_study
from tests.tools import shared_dir

LIMIT_S = 600.0
STYLES = ("siemens", "ge", "philips")
BROKEN_MASK = "patient19"
"""Its brain mask is broken: the FLAIR's own head is used."""


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A pair with its reference transform.

    Attributes:
        name: What it is called in the tables.
        folder: Holds ``fixed.nii`` and ``moving.nii``.
        truth: 4 x 4, RAS mm, FLAIR to T1.
        points: (N, 3), RAS mm, over the brain.
        phantom: Whether the truth is exact; else it is the authors' affine.
    """

    name: str
    folder: Path
    truth: Affine
    points: NDArray[np.float64]
    phantom: bool


def job(name: str, *arguments: str) -> dict[str, Any]:
    """Figures of one job in a process of its own; ``error`` where it failed."""
    command = [sys.executable, "-m", "benchmarks.imaging_jobs", name, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return {"error": f"more than {LIMIT_S:.0f} s"}
    for line in done.stdout.splitlines():
        if line.startswith("FIGURES "):
            figures: dict[str, Any] = json.loads(line.removeprefix("FIGURES "))
            return figures
    last = (done.stderr.strip().splitlines() or ["no figures"])[-1]
    return {"error": last[:120]}


def phantom_case(style: str, seed: int, root: Path, *, half: bool) -> Case:
    """A phantom's pair."""
    made = make_study(PhantomRequest(index=0, style=style, seed=seed, half_resolution=half))
    name = f"{style}{' half' if half else ''} {seed}"
    folder = root / name.replace(" ", "-")
    save_volume(made.flair, folder / "fixed.nii")
    save_volume(made.t1w, folder / "moving.nii")
    places = np.argwhere(made.brain.data > 0)
    points = apply_affine(made.flair.affine, places[:: max(1, len(places) // 3000)])
    return Case(name, folder, made.flair_to_t1w, points, phantom=True)


def real_case(pair: RawPair, root: Path) -> Case:
    """A raw MS pair with the authors' transform."""
    folder = root / f"{pair.patient}-{pair.study}"
    flair, t1w = load_volume(pair.flair), load_volume(pair.t1w)
    save_volume(flair, folder / "fixed.nii")
    save_volume(t1w, folder / "moving.nii")
    if pair.patient == BROKEN_MASK:
        brain = flair.data > flair.data.mean()
    else:
        source = shared_dir("data", "ms", "longitudinal_raw", pair.patient)
        back = inverse(load_matrix(source / f"study{pair.study}_FLAIR_to_common_space.txt"))
        mask = load_volume(source / "brainmask.nii.gz")
        brain = resample(mask, grid_of(flair), matrix=back, interpolation="nearest").data > 0
    places = np.argwhere(brain)
    points = apply_affine(flair.affine, places[:: max(1, len(places) // 3000)])
    return Case(
        f"{pair.patient} {pair.study}", folder, load_matrix(pair.transform), points, phantom=False
    )


def registration(cases: Sequence[Case], threads: int) -> str:
    """Seconds, memory and error of every engine on every pair."""
    rows, missing = [], []
    base = 0.0
    for engine in imaging_jobs.ENGINES:
        errors: dict[bool, list[float]] = {True: [], False: []}
        walls, cpus, peaks, failed = [], [], [], ""
        for case in cases:
            figures = job("register", engine, str(case.folder), str(threads))
            if "error" in figures:
                failed = f"{case.name}: {figures['error']}"
                if "ModuleNotFound" in failed:
                    break
                continue
            error = mean_displacement(np.array(figures["matrix"]), case.truth, case.points)
            errors[case.phantom].append(error)
            walls.append(figures["wall"])
            cpus.append(figures["cpu"])
            peaks.append(figures["peak_mib"])
            said = f"{error:.3f} mm, {walls[-1]:.1f} s wall, {cpus[-1]:.1f} s cpu"
            print(f"  {engine}: {case.name}: {said}", flush=True)
        if failed:
            missing.append(f"- {engine}: {failed}")
        if not walls:
            continue
        base = base or float(np.mean(walls))
        rows.append(
            [
                engine,
                f"{np.mean(walls):.1f} ({min(walls):.1f} to {max(walls):.1f})",
                f"{np.mean(walls) / base:.1f} x",
                f"{np.mean(cpus):.1f}",
                f"{max(peaks):.0f}",
                _range(errors[True]),
                _range(errors[False]),
            ]
        )
    headings = ["engine", "wall s", "ratio", "cpu s", "peak MiB", "phantoms mm", "real pairs mm"]
    table = markdown(headings, rows)
    return table + ("\nFailed or not installed:\n\n" + "\n".join(missing) + "\n" if missing else "")


def floors(cases: Sequence[Case]) -> str:
    """How near any rigid motion can come to the authors' affine transforms."""
    rows = []
    for case in cases:
        if not case.phantom:
            nearest = best_rigid(case.truth, case.points)
            floor = mean_displacement(nearest, case.truth, case.points)
            start = mean_displacement(np.eye(4), case.truth, case.points)
            rows.append([case.name, f"{floor:.3f}", f"{start:.2f}"])
    return markdown(["pair", "best rigid mm", "headers mm"], rows)


def studies(folders: dict[str, Path], threads: int, profile: str) -> str:
    """Seconds by stage and peak memory from DICOM to ready images."""
    rows = []
    for name, source in folders.items():
        with fresh(source) as folder:
            figures = job("study", str(folder), str(threads), profile)
        if "error" in figures:
            rows.append([name, *["-"] * len(imaging_jobs.STAGES), figures["error"], "", ""])
            continue
        split = figures["split"]
        total = sum(split.values())
        parts = [f"{split[stage]:.1f}" for stage in imaging_jobs.STAGES]
        note = figures["note"] or "ready"
        rows.append([name, *parts, f"{total:.1f}", f"{figures['peak_mib']:.0f}", note[:60]])
        print(f"  {name}: {total:.1f} s", flush=True)
    return markdown(["study", *imaging_jobs.STAGES, "total s", "peak MiB", "outcome"], rows)


def conversion(folders: dict[str, Path]) -> str:
    """Both series of each study to NIfTI."""
    rows = []
    for name, source in folders.items():
        base = 0.0
        for engine in ("clinode", "dcm2niix"):
            with fresh(source) as folder:
                figures = job("convert", engine, str(folder))
            if "error" in figures:
                rows.append([name, engine, figures["error"], "", ""])
                continue
            base = base or figures["wall"]
            ratio = f"{figures['wall'] / base:.2f} x"
            rows.append([name, engine, f"{figures['wall']:.2f}", ratio, _mib(figures)])
    return markdown(["study", "engine", "wall s, with start", "ratio", "peak MiB"], rows)


def throughput(source: Path, count: int, profile: str) -> str:
    """Studies per minute of one and of two single-threaded workers."""
    rows = []
    base = 0.0
    for workers in (1, 2):
        pool = WorkerPool(workers=workers, threads=1)
        try:
            with tempfile.TemporaryDirectory() as name:
                folders = [copied(source, Path(name) / str(n)) for n in range(count + workers)]
                _all(pool, folders[:workers], profile)  # processes start, modules load
                begun = time.perf_counter()
                _all(pool, folders[workers:], profile)
                rate = 60.0 * count / (time.perf_counter() - begun)
        finally:
            pool.close()
        base = base or rate
        rows.append([str(workers), f"{rate:.2f}", f"{rate / base:.2f} x"])
    return markdown(["single-threaded workers", "studies a minute", "ratio"], rows)


def _all(pool: WorkerPool, folders: Sequence[Path], profile: str) -> None:
    running: list[Future[Any]] = [
        pool.submit(imaging_jobs.study, str(folder), "1", profile) for folder in folders
    ]
    for future in running:
        answer = future.result()
        if answer.refused or answer.failed:
            raise RuntimeError(answer.refused or answer.failed)


class fresh:  # noqa: N801
    """A copy of a study's DICOM files in an empty folder, for the time of a block."""

    def __init__(self, source: Path) -> None:
        self._source = source

    def __enter__(self) -> Path:
        self._folder = Path(tempfile.mkdtemp())
        return copied(self._source, self._folder)

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def copied(source: Path, folder: Path) -> Path:
    """A work folder with the study's files in ``dicom/``."""
    shutil.copytree(source, folder / "dicom", copy_function=os.link)
    return folder


def write_studies(root: Path, *, quick: bool) -> dict[str, Path]:
    """DICOM folders by name: phantom studies and a raw MS pair."""
    folders = {}
    requests = [("siemens", True)] if quick else [("siemens", True), ("siemens", False)]
    for style, half in requests:
        made = make_study(PhantomRequest(index=0, style=style, seed=5, half_resolution=half))
        name = f"phantom {style}, {'half' if half else 'full'} resolution"
        folders[name] = root / f"{style}-{half}"
        write_study(made, folders[name], segmentation=False)
    pair = raw_ms_pairs()[0]
    name = f"raw MS pair {pair.patient} {pair.study}"
    folders[name] = root / "raw"
    write_raw_ms_study(pair, folders[name])
    return folders


def cases_of(root: Path, *, quick: bool) -> Iterator[Case]:
    """The pairs: all raw ones and phantoms of every style; quick: one raw pair, three phantoms."""
    for seed in (5,) if quick else (5, 6, 7):
        for style in STYLES:
            yield phantom_case(style, seed, root, half=True)
    if not quick:
        yield phantom_case("siemens", 5, root, half=False)
    for pair in raw_ms_pairs()[:1] if quick else raw_ms_pairs():
        yield real_case(pair, root)


def _range(values: Sequence[float]) -> str:
    return f"{np.mean(values):.2f} (worst {max(values):.2f})" if values else "-"


def _mib(figures: dict[str, Any]) -> str:
    return f"{figures['peak_mib']:.0f}"


def main() -> int:
    """Measure, print, and write the tables where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.imaging", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer pairs: about four minutes")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--profile", choices=("quick", "full"), default="full")
    parser.add_argument("--only", choices=("registration", "studies", "conversion", "throughput"))
    parser.add_argument("--write", type=Path, help="Markdown file to write")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        text = "\n".join(sections(root, asked))
    print(text)
    if asked.write:
        asked.write.write_text(text, encoding="utf-8")
    return 0


def sections(root: Path, asked: argparse.Namespace) -> Iterator[str]:
    """The tables, one after the other."""
    cores = f"{os.cpu_count()} cores, load at the start {os.getloadavg()[0]:.1f}"
    yield f"# Images, measured\n\n{time.strftime('%Y-%m-%d')}, {platform.machine()}, {cores}.\n"
    wanted = {asked.only} if asked.only else {"registration", "studies", "conversion", "throughput"}
    if wanted - {"registration"}:
        folders = write_studies(root / "studies", quick=asked.quick)
    if "studies" in wanted:
        yield f"## From DICOM to ready images, {asked.threads} threads, seconds by stage\n"
        yield studies(folders, asked.threads, asked.profile)
    if "conversion" in wanted:
        yield "## Conversion\n"
        yield conversion(folders)
    if "throughput" in wanted:
        yield "## Two workers against one\n"
        yield throughput(next(iter(folders.values())), 2 if asked.quick else 4, asked.profile)
    if "registration" in wanted:
        yield f"## Registration of T1 to FLAIR, {asked.threads} threads\n"
        cases = list(cases_of(root / "pairs", quick=asked.quick))
        yield registration(cases, asked.threads)
        yield "## How near a rigid motion can come to the authors' affine\n"
        yield floors(cases)


if __name__ == "__main__":
    sys.exit(main())
