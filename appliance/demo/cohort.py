"""The studies that fill each hospital's PACS: phantoms made by workers, real ones found."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from appliance.demo.phantom import (
    STYLES,
    Fault,
    PhantomRequest,
    WrittenStudy,
    make_study,
    write_study,
)
from appliance.errors import ApplianceError
from appliance.log import configure_log

TRAINING, VALIDATION, TEST, UNLABELLED = 6, 1, 2, 1
LABELLED = TRAINING + VALIDATION + TEST
FEWEST_LABELLED = 5
"""With fewer labelled patients a site draws none for testing (`split.minimum_labelled`)."""
VALIDATION_SHARE = 0.2
"""The plan's share of the labelled patients that are not for testing."""
STYLE_ORDER = ("ge", "siemens", "philips")
SEED_STRIDE = 1000


class NoStudies(ApplianceError):
    """A folder given with ``--dicom`` holds no DICOM study."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One phantom study to make.

    Attributes:
        hospital: index of the hospital.
        request: what to make.
        segmentation: whether the expert's SEG goes to the PACS with it.
        folder: where its DICOM files go.
    """

    hospital: int
    request: PhantomRequest
    segmentation: bool
    folder: Path


@dataclass(frozen=True, slots=True)
class Made:
    """A phantom study on disk."""

    planned: Planned
    written: WrittenStudy


def style_of(hospital: int) -> str:
    """The scanner style of a hospital: GE, Siemens, Philips, and again from the start.

    >>> [style_of(n) for n in range(4)]
    ['ge', 'siemens', 'philips', 'ge']
    """
    return STYLE_ORDER[hospital % len(STYLE_ORDER)]


def scanner_words(hospital: int) -> str:
    """The style as a person reads it: maker and field strength."""
    style = STYLES[style_of(hospital)]
    maker = {"ge": "GE", "siemens": "Siemens", "philips": "Philips"}[style.key]
    return f"{maker} {style.field_t:g} T"


@dataclass(frozen=True, slots=True)
class Uses:
    """What a hospital's labelled studies are for, one patient each.

    Attributes:
        training: studies that train.
        validation: studies that the rounds are judged by.
        test: studies that never train.
    """

    training: int
    validation: int
    test: int


def uses_of(labelled: int) -> Uses:
    """What so many labelled studies are for, by the settings' and the plan's default shares.

    Args:
        labelled: at least :data:`FEWEST_LABELLED`, so that there is one of each use.

    >>> uses_of(LABELLED) == Uses(TRAINING, VALIDATION, TEST)
    True
    >>> uses_of(FEWEST_LABELLED)
    Uses(training=3, validation=1, test=1)
    """
    test = max(1, round(labelled * TEST / LABELLED))
    validation = max(1, round((labelled - test) * VALIDATION_SHARE))
    return Uses(labelled - test - validation, validation, test)


def plan_studies(
    hospitals: int, folder: Path, *, seed: int, half: bool, labelled: int = LABELLED
) -> list[Planned]:
    """All phantom studies of the demonstration.

    Every hospital has the same number of labelled and :data:`UNLABELLED` unlabelled studies; each
    planted fault occurs once in the whole demonstration.

    Args:
        hospitals: how many.
        folder: below it one folder per study is made.
        seed: of the whole demonstration.
        half: half resolution.
        labelled: labelled studies of each hospital.
    """
    faults = list(Fault)
    studies = []
    for hospital in range(hospitals):
        kinds: list[tuple[bool, Fault | None]] = [(True, None)] * labelled
        kinds += [(False, None)] * UNLABELLED
        kinds += [(False, fault) for fault in faults[hospital::hospitals]]
        for index, (segmentation, fault) in enumerate(kinds):
            request = PhantomRequest(
                index=index,
                style=style_of(hospital),
                seed=seed + SEED_STRIDE * hospital,
                half_resolution=half,
                fault=fault,
            )
            name = f"hospital-{hospital}/study-{index:02d}"
            studies.append(Planned(hospital, request, segmentation, folder / name))
    return studies


def make_one(planned: Planned) -> Made:
    """Make and write one study; runs in a worker process."""
    study = make_study(planned.request)
    written = write_study(study, planned.folder, segmentation=planned.segmentation)
    return Made(planned, written)


def _quiet() -> None:
    """Warnings only, and to standard error: standard output is the demonstration's own."""
    configure_log(level="warning")


def make_studies(
    planned: Sequence[Planned], *, workers: int, done: Callable[[Made], None]
) -> list[Made]:
    """Make all studies in worker processes; ``done`` hears of each as it is finished."""
    made = []
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["appliance.demo.phantom"])
    with ProcessPoolExecutor(workers, context, initializer=_quiet) as pool:
        for future in as_completed([pool.submit(make_one, item) for item in planned]):
            made.append(future.result())
            done(made[-1])
    return sorted(made, key=lambda m: (m.planned.hospital, m.planned.request.index))


def expert_segmentation(made: Made, folder: Path) -> Path:
    """The expert's SEG of a study that was written without one.

    The study is made again, with its segmentation; it is the same study by its seed, so the SEG
    references what the PACS holds.
    """
    study = make_study(made.planned.request)
    written = write_study(study, folder, segmentation=True)
    if written.segmentation is None:
        raise ApplianceError("the phantom writer gave no segmentation object")
    return written.segmentation


@dataclass(frozen=True, slots=True)
class RealStudy:
    """A study found in a folder that the operator gave: its UID and its files."""

    StudyInstanceUID: str
    files: tuple[Path, ...]

    def __repr__(self) -> str:
        return f"RealStudy({len(self.files)} files)"


def find_real_studies(folder: Path) -> list[RealStudy]:
    """The DICOM studies below a folder; other files are passed over.

    Raises:
        NoStudies: there is none.
    """
    import pydicom
    from pydicom.errors import InvalidDicomError

    studies: dict[str, list[Path]] = {}
    for path in _files(folder):
        try:
            header = pydicom.dcmread(
                path, stop_before_pixels=True, specific_tags=["StudyInstanceUID", "SOPInstanceUID"]
            )
        except (InvalidDicomError, OSError, ValueError, EOFError):
            continue
        uid = str(header.get("StudyInstanceUID", ""))
        if uid and header.get("SOPInstanceUID"):
            studies.setdefault(uid, []).append(path)
    if not studies:
        raise NoStudies(
            f"{folder} holds no DICOM file with study and instance UIDs: give a folder of studies"
        )
    return [RealStudy(uid, tuple(files)) for uid, files in sorted(studies.items())]


def _files(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise NoStudies(f"{folder} is no folder: give one folder of DICOM studies per hospital")
    yield from (path for path in sorted(folder.rglob("*")) if path.is_file())
