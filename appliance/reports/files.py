"""A report from files, without a node: what `clinode tools report` does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import ImageRefused
from appliance.imaging.itk import load_matrix
from appliance.imaging.qc import read_site
from appliance.imaging.volume import Volume, load_volume
from appliance.reports.metrics import Quality, SiteFigures, read_quality
from appliance.reports.steps import versions
from appliance.reports.study import StudyContent
from appliance.reports.views import Input, Marked

MAX_JSON_BYTES = 1 << 22
NOTE = (
    "Drawn from files as they are: nothing was defaced here and nothing was searched for identity. "
    "For research, not for diagnosis."
)
_KINDS = (("flair", "FLAIR"), ("t1", "T1w"), ("t2", "T2w"), ("pd", "PDw"))


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """Files of one study.

    Attributes:
        images: NIfTI, the reference first.
        masks: brain masks in the order of the images; may be fewer.
        label: label values, or None.
        transforms: ITK transforms from the reference's points to those of each further image, in
            their order; may be fewer.
        quality: ``qc.json`` as ``clinode tools qc --json`` prints it, or None.
        site: folder ``derivatives/qc`` of other studies to compare with, or None.
        title: what to call the study.
    """

    images: tuple[Path, ...]
    masks: tuple[Path, ...] = ()
    label: Path | None = None
    transforms: tuple[Path, ...] = ()
    quality: Path | None = None
    site: Path | None = None
    title: str = "study"


def content_of(files: ReportFiles) -> StudyContent:
    """Read the files.

    Raises:
        ImageRefused: a file cannot be read, or there are more masks or transforms than images.
    """
    if not files.images:
        raise ImageRefused("a report needs at least one image")
    if len(files.masks) > len(files.images) or len(files.transforms) >= len(files.images):
        raise ImageRefused(
            f"{len(files.images)} images take as many masks and one transform fewer, got"
            f" {len(files.masks)} and {len(files.transforms)}"
        )
    inputs = [
        Input(
            kind=kind,
            volume=load_volume(path),
            brain=_mask(files.masks, number),
            matrix=load_matrix(files.transforms[number - 1])
            if 0 < number <= len(files.transforms)
            else None,
        )
        for number, (path, kind) in enumerate(
            zip(files.images, kinds_of(files.images), strict=True)
        )
    ]
    site = SiteFigures()
    if files.site is not None:
        found = read_site(files.site, files.title)
        site = SiteFigures.of(found.values, found.studies, found.limit)
    return StudyContent(
        title=files.title,
        inputs=tuple(inputs),
        label=None if files.label is None else Marked(load_volume(files.label)),
        quality=Quality() if files.quality is None else read_quality(read_json(files.quality)),
        site=site,
        versions=versions(),
        note=NOTE,
    )


def kinds_of(paths: Sequence[Path]) -> list[str]:
    """What to call images: the modality that a file's name tells, else a number; all different.

    File names themselves are not shown: they may hold a patient's name.

    Examples:
        >>> kinds_of([Path("x_FLAIR.nii"), Path("DOE_JANE.nii"), Path("t1.nii"), Path("t1b.nii")])
        ['FLAIR', 'image 2', 'T1w', 'T1w 4']
    """
    found: list[str] = []
    for number, path in enumerate(paths, start=1):
        name = path.name.lower()
        kind = next((kind for part, kind in _KINDS if part in name), f"image {number}")
        found.append(f"{kind} {number}" if kind in found else kind)
    return found


def read_json(path: Path) -> Mapping[str, object]:
    """A JSON object from a file of at most `MAX_JSON_BYTES`.

    Raises:
        ImageRefused: it is larger, not there, or no JSON object.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ImageRefused("the quality report is larger than 4 MiB")
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ImageRefused("the quality report cannot be read as JSON") from error
    if not isinstance(document, dict):
        raise ImageRefused("the quality report is no JSON object")
    return document


def _mask(masks: Sequence[Path], number: int) -> Volume | None:
    return load_volume(masks[number]) if number < len(masks) else None
