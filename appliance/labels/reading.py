"""Reading an expert's label from DICOM: SEG and RT Structure Set, onto the series it refers to.

A label belongs to the series that it references, whatever its geometry looks like. Bringing it to
the reference image is a later step (`appliance.labels.staged`), when the registration is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from pydicom.dataset import Dataset

from appliance.errors import ImageRefused
from appliance.imaging.volume import Affine
from appliance.labels.regions import LabelMap, combine
from appliance.settings_imaging import LabelsSection
from dicom_bridge.classify import SeriesKind, StudyScan
from dicom_bridge.convert.frames import attribute, read_dataset, sop_class
from dicom_bridge.convert.source import SourceSeries
from dicom_bridge.rtstruct import (
    RTSTRUCT_STORAGE,
    Contour,
    Roi,
    StructuresRefused,
    check_belongs,
    check_images,
    contours_of,
    creator_of,
    expert_rois,
    fill_region,
    open_structures,
    referenced_series,
    rois_of,
)
from dicom_bridge.seg import SegContent, read_seg
from dicom_bridge.seg.expert import ExpertPolicy, OwnMarks, codes_of, judge_header
from dicom_bridge.seg.read import open_seg, referenced_series_of

Form = Literal["SEG", "RTSTRUCT", "NIfTI"]
EMPTY = "an expert's label is empty: it may be a true negative, and a person decides"
ELSEWHERE = "it refers to a series that is not among the study's inputs"


class LabelPassed(ImageRefused):
    """An object that is no label here; the study goes on without it, with the reason as a note."""


@dataclass(frozen=True, slots=True, eq=False)
class ReadLabel:
    """One expert's label as read.

    Attributes:
        kind: canonical modality of the series that it belongs to.
        values: (I, J, K) the site's label values on that series' own grid.
        affine: (4, 4) of that grid, RAS mm.
        rater: who made it: the named person, else tool and equipment; empty where unknown.
        made_at: content date and time as written; orders what came together, and is not kept.
        form: what it was read from.
        notes: what was decided on the way, in words.
    """

    kind: str
    values: LabelMap = field(repr=False)
    affine: Affine = field(repr=False)
    rater: str = field(repr=False)
    made_at: str = field(repr=False)
    form: Form
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LabelRules:
    """What decides about labels.

    Attributes:
        section: the site's settings.
        own: what this node's results can be recognised by.
    """

    section: LabelsSection
    own: OwnMarks | None = field(default=None, repr=False)

    @property
    def policy(self) -> ExpertPolicy:
        """Which segmentations count as an expert's.

        Corrected copies of this node's results count also where the viewer names nobody.
        """
        codes = frozenset((scheme, value) for scheme, value in map(_code, self.section.codes))
        creators = frozenset(self.section.creators)
        own = self.own
        return ExpertPolicy(codes, creators, unnamed=own is not None, own=own or OwnMarks())


def _code(text: str) -> tuple[str, str]:
    scheme, _, value = text.partition(":")
    return scheme, value


def expert_files(scan: StudyScan, rules: LabelRules) -> tuple[list[Path], tuple[str, ...]]:
    """The files of a study that count as an expert's, and why the others were passed over."""
    accepted: list[Path] = []
    notes: list[str] = []
    for series in scan.series:
        if series.kind not in (SeriesKind.SEG, SeriesKind.RTSTRUCT):
            continue
        for path in series.files:
            try:
                expert, words = judge_file(path, rules)
            except StructuresRefused as error:  # most are no labels at all: the study goes on
                expert, words = False, str(error)
            if expert:
                accepted.append(path)
            else:
                notes.append(words)
    return accepted, tuple(notes)


def judge_file(path: Path, rules: LabelRules) -> tuple[bool, str]:
    """Whether a SEG or a structure set counts as an expert's, and why.

    Raises:
        DataRefused: unreadable, or another class of object.
    """
    if _is_structure_set(path):
        section = rules.section
        found, words = expert_rois(open_structures(path), rules.policy, section.rois, section.codes)
        return bool(found), words
    return judge_header(open_seg(path, pixels=False), rules.policy)


def _is_structure_set(path: Path) -> bool:
    return sop_class(read_dataset(path, pixels=False)) == RTSTRUCT_STORAGE


def labels_of(
    path: Path, sources: Mapping[str, SourceSeries], rules: LabelRules
) -> tuple[ReadLabel, ...]:
    """Judge a SEG or structure set and read it onto the grid of its series.

    Args:
        path: the file.
        sources: canonical modality to the original headers of the study's inputs.
        rules: what counts.

    Returns:
        One label; of a structure set whose regions name different interpreters one for each.

    Raises:
        LabelPassed: no expert's, no mapped code or name, or of a series that is no input.
        DataRefused: damaged, or it does not fit the series that it refers to.
        ImageRefused: it is empty.
    """
    if _is_structure_set(path):
        found = _structures(path, sources, rules)
    else:
        found = (_segmentation(path, sources, rules),)
    drawn = tuple(label for label in found if label.values.any())
    if not drawn:
        raise ImageRefused(EMPTY)
    return drawn


def _segmentation(path: Path, sources: Mapping[str, SourceSeries], rules: LabelRules) -> ReadLabel:
    header = open_seg(path, pixels=False)
    accepted, words = judge_header(header, rules.policy)
    if not accepted:
        raise LabelPassed(words)
    kind = _kind_of({referenced_series_of(header)}, sources)
    content = read_seg(path, sources[kind], resample=True)
    meanings = codes_of(header, rules.policy)
    values = label_values(content, rules.section.codes, meanings, rules.section.precedence)
    if values is None:
        raise LabelPassed("no segment with a mapped code has a voxel")
    notes = ("it stood on another grid than its series and was resampled",)
    return ReadLabel(
        kind=kind,
        values=values,
        affine=content.affine,
        rater=str(attribute(header, "ContentCreatorName") or "").strip() or _equipment(header),
        made_at=_moment(header, "ContentDate", "ContentTime"),
        form="SEG",
        notes=notes if content.resampled else (),
    )


def label_values(
    content: SegContent,
    codes: Mapping[str, int],
    meanings: Mapping[int, tuple[str, str]],
    precedence: Sequence[int] = (),
) -> LabelMap | None:
    """The site's label values of a SEG on its source's grid.

    Args:
        content: the segments; they may overlap (see `appliance.labels.regions.combine`).
        codes: ``SCHEME:VALUE`` of the property type to the label value.
        meanings: SegmentNumber to (scheme, value), as `dicom_bridge.seg.expert.codes_of` gives it.
        precedence: values that win where segments overlap, the strongest first.

    Returns:
        uint8 (I, J, K), or None where no segment has a mapped code.
    """
    mapped = [
        (codes[":".join(meanings[segment.number])], segment.mask)
        for segment in content.segments
        if ":".join(meanings.get(segment.number, ())) in codes
    ]
    return combine(mapped, mapped[0][1].shape, precedence) if mapped else None


def _structures(
    path: Path, sources: Mapping[str, SourceSeries], rules: LabelRules
) -> tuple[ReadLabel, ...]:
    dataset = open_structures(path)
    section = rules.section
    numbers, words = expert_rois(dataset, rules.policy, section.rois, section.codes)
    if not numbers:
        raise LabelPassed(words)
    maker = creator_of(dataset) or _equipment(dataset)
    by_rater: dict[str, list[Roi]] = {}
    for roi in rois_of(dataset):
        if roi.number in numbers:
            by_rater.setdefault(roi.interpreter or maker, []).append(roi)
    return tuple(
        _regions(dataset, rois, rater, numbers, sources, section.precedence)
        for rater, rois in by_rater.items()
    )


def _regions(
    dataset: Dataset,
    rois: Sequence[Roi],
    rater: str,
    numbers: Mapping[int, int],
    sources: Mapping[str, SourceSeries],
    precedence: Sequence[int],
) -> ReadLabel:
    """One rater's regions as one label."""
    drawn = {roi.number: contours_of(dataset, roi.number) for roi in rois}
    kinds = {_series_of(dataset, roi, drawn[roi.number], sources) for roi in rois}
    if len(kinds) > 1:
        raise StructuresRefused("a rater's mapped regions belong to several series")
    kind = kinds.pop()
    source = sources[kind]
    masks = []
    notes: list[str] = []
    for number, contours in drawn.items():
        if not contours:
            continue
        check_images(contours, source)
        mask, filled = fill_region(contours, source)
        notes += filled.notes
        masks.append((numbers[number], mask))
    return ReadLabel(
        kind=kind,
        values=combine(masks, source.geometry.shape, precedence),
        affine=source.geometry.affine,
        rater=rater,
        made_at=_moment(dataset, "StructureSetDate", "StructureSetTime"),
        form="RTSTRUCT",
        notes=tuple(dict.fromkeys(notes)),
    )


def _series_of(
    dataset: Dataset,
    roi: Roi,
    contours: Sequence[Contour],
    sources: Mapping[str, SourceSeries],
) -> str:
    """The input that a region was drawn on."""
    named = referenced_series(dataset, roi.frame_of_reference)
    candidates = [k for k, source in sources.items() if source.SeriesInstanceUID in named]
    if not candidates:
        raise LabelPassed(ELSEWHERE)
    for kind in candidates[:-1]:
        try:
            check_belongs(dataset, roi, contours, sources[kind].SeriesInstanceUID)
        except StructuresRefused:
            continue
        return _same_frame(roi, kind, sources)
    check_belongs(dataset, roi, contours, sources[candidates[-1]].SeriesInstanceUID)
    return _same_frame(roi, candidates[-1], sources)


def _same_frame(roi: Roi, kind: str, sources: Mapping[str, SourceSeries]) -> str:
    own = sources[kind].FrameOfReferenceUID
    if own and roi.frame_of_reference and own != roi.frame_of_reference:
        raise StructuresRefused("a region stands in another frame of reference than its series")
    return kind


def _kind_of(series: set[str], sources: Mapping[str, SourceSeries]) -> str:
    for kind, source in sources.items():
        if source.SeriesInstanceUID in series:
            return kind
    raise LabelPassed(ELSEWHERE)


def _equipment(header: Dataset) -> str:
    texts = [
        str(attribute(header, k) or "").strip() for k in ("Manufacturer", "DeviceSerialNumber")
    ]
    return " ".join(texts).strip()


def _moment(header: Dataset, date: str, time: str) -> str:
    return "".join(str(attribute(header, keyword) or "") for keyword in (date, time))


def voxels_of(values: LabelMap) -> int:
    """Labelled voxels."""
    return int(np.count_nonzero(values))
