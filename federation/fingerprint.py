"""Fingerprints of data sets: what a site tells about its images, and how sites' are merged.

After nnU-Net (Isensee et al., Nature Methods 18:203, 2021): histograms of voxel spacings and of
cropped shapes, and for CT the moments and a histogram of the intensities in the foreground (MR is
z-scored case by case, so its intensities are nobody's business). No voxel, no case, no extreme
travels: a figure that fewer patients share than the site's smallest count is left out, and what
is left out touches no other figure.

Every number is an integer: merging adds integers, so the order of sites, and which of them were
merged before, changes no bit. Pooled mean and variance follow exactly from voxel counts, sums and
sums of squares. Loads no numpy.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from federation.canonical import JSON, canonical_json
from federation.errors import FingerprintRefused

FORMAT: Final = 1
MAX_BYTES: Final = 262_144
"""Largest fingerprint that is read."""
MAX_BINS: Final = 4096
UNITS_PER_HU: Final = 16
"""Intensities are counted in sixteenths of a Hounsfield unit."""
LOWEST_HU, HIGHEST_HU = -32768, 32767
PERCENTILES: Final = (0.5, 50.0, 99.5)
"""What nnU-Net clips CT by, and the median."""
AXES: Final = ("R", "A", "S")

Modality = Literal["FLAIR", "T1w", "T1wCE", "T2w", "PDw", "DWI", "ADC", "SWI", "CT"]
_Count = Annotated[int, Field(ge=1, le=10**15)]
_Total = Annotated[int, Field(ge=0, le=10**9)]
_Exact = Annotated[str, Field(pattern=r"\A(0|-?[1-9][0-9]{0,39})\z")]
Histogram = Annotated[
    tuple[tuple[Annotated[int, Field(ge=-(2**31), le=2**31)], _Count], ...],
    Field(max_length=MAX_BINS),
]
"""Value and count, by rising value."""
PerAxis = tuple[Histogram, Histogram, Histogram]
"""One histogram for each of R, A, S."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class Rules:
    """How a site coarsens its figures.

    Attributes:
        spacing_step_um: spacings are rounded to multiples of this, micrometres.
        shape_step: shapes are rounded to multiples of this, voxels.
        intensity_step: width of a bin of intensities, HU; a power of two up to 64.
        minimum_patients: a figure of fewer distinct patients is left out.
        count_step: counts of cases and patients are rounded to multiples of this.
    """

    spacing_step_um: int = 50
    shape_step: int = 8
    intensity_step: int = 8
    minimum_patients: int = 5
    count_step: int = 1

    def __post_init__(self) -> None:
        """Refuse steps that cannot be merged."""
        steps = (self.spacing_step_um, self.shape_step, self.minimum_patients, self.count_step)
        if min(steps) < 1 or self.intensity_step not in (1, 2, 4, 8, 16, 32, 64):
            raise ValueError("expected steps of at least 1, and a power of two up to 64 for HU")


@dataclass(frozen=True, slots=True)
class CaseFigures:
    """What one image of a case contributes; never leaves the site.

    Attributes:
        patient: the patient's label: several visits count as one patient.
        modality: canonical modality.
        spacing_mm: voxel edges along R, A, S.
        shape: voxels along R, A, S of the cropped image.
        intensities: CT only: voxels of the foreground by value in sixteenths of a HU.
    """

    patient: str
    modality: str
    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int]
    intensities: Mapping[int, int] | None = None


class Intensities(_Part):
    """CT intensities of the foreground: a histogram, and exact moments of the same voxels.

    Attributes:
        step: width of a bin, HU.
        bins: number of the bin (lower edge divided by ``step``) and its voxels.
        voxels: their number, as decimal text (as ``total`` and ``squares``).
        total: sum of the values, in sixteenths of a HU.
        squares: sum of the squared values, in 1/256 HU squared.
    """

    step: Literal[1, 2, 4, 8, 16, 32, 64]
    bins: Histogram
    voxels: _Exact
    total: _Exact
    squares: _Exact

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        voxels, total, squares = int(self.voxels), int(self.total), int(self.squares)
        _check_order(self.bins)
        if voxels < 1 or voxels != sum(count for _, count in self.bins):
            raise ValueError("the voxels of the bins and of the moments differ")
        if squares * voxels < total * total:
            raise ValueError("the sum of squares is smaller than the sum allows")
        width = self.step * UNITS_PER_HU
        low = sum(number * width * count for number, count in self.bins)
        if not low <= total <= low + (width - 1) * voxels:
            raise ValueError("the sum does not fit the histogram")
        return self

    @property
    def mean(self) -> float:
        """Mean in HU, correctly rounded."""
        return float(Fraction(int(self.total), int(self.voxels) * UNITS_PER_HU))

    @property
    def variance(self) -> float:
        """Population variance in HU squared, from exact integers; 0 for constant values."""
        voxels, total = int(self.voxels), int(self.total)
        spread = int(self.squares) * voxels - total * total
        return float(Fraction(spread, (voxels * UNITS_PER_HU) ** 2))

    def percentile(self, percent: float) -> float:
        """A percentile in HU, linear within a bin.

        Args:
            percent: 0 to 100.
        """
        wanted = Fraction(percent).limit_denominator(1000) / 100 * int(self.voxels)
        below = 0
        for number, count in self.bins:
            if below + count >= wanted:
                share = (wanted - below) / count
                return round(float((number + share) * self.step), 6)
            below += count
        return float((self.bins[-1][0] + 1) * self.step)

    def coarsened(self, step: int) -> Counter[int]:
        """The bins on a coarser step, a multiple of the own."""
        found: Counter[int] = Counter()
        for number, count in self.bins:
            found[number * self.step // step] += count
        return found


class Channel(_Part):
    """The figures of one modality.

    Attributes:
        spacing_um: cases by rounded spacing in micrometres, along R, A, S.
        shape: cases by rounded cropped shape in voxels, along R, A, S.
        intensities: of CT; None for MR, or where too few patients share them.
    """

    spacing_um: PerAxis
    shape: PerAxis
    intensities: Intensities | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for histogram in (*self.spacing_um, *self.shape):
            _check_order(histogram)
            if any(value < 1 for value, _ in histogram):
                raise ValueError("a spacing or a shape is not positive")
        return self


class Fingerprint(_Part):
    """What travels.

    Attributes:
        format: version of this layout.
        sites: data sets that were merged.
        patients: of all of them; one who was seen at two sites counts twice, for nobody can know.
        cases: of all of them.
        minimum_patients: no figure stands for fewer patients than this at its site.
        channels: figures by modality.
    """

    format: Literal[1] = FORMAT
    sites: Annotated[int, Field(ge=1, le=100_000)]
    patients: _Total
    cases: _Total
    minimum_patients: Annotated[int, Field(ge=1, le=1_000_000)]
    channels: Annotated[dict[Modality, Channel], Field(max_length=16)]

    @model_validator(mode="after")
    def _only_ct_has_a_scale(self) -> Self:
        for modality, channel in self.channels.items():
            if channel.intensities is not None and modality != "CT":
                raise ValueError("only CT has intensities that can be compared")
        return self

    def to_json(self) -> bytes:
        """Canonical JSON (RFC 8785)."""
        return canonical_json(self.model_dump(mode="json"))

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        """Read a fingerprint that came from elsewhere.

        Raises:
            FingerprintRefused: too large, not canonical JSON, or not as described here.
        """
        if len(raw) > MAX_BYTES:
            raise FingerprintRefused(f"a fingerprint has at most {MAX_BYTES} bytes, got {len(raw)}")
        try:
            found = cls.model_validate_json(raw)
        except ValidationError as error:
            where = {".".join(map(str, item["loc"][:2])) or "whole" for item in error.errors()}
            names = ", ".join(sorted(where)[:4])
            raise FingerprintRefused(f"a fingerprint is not as described: {names}") from None
        if found.to_json() != raw:
            raise FingerprintRefused("a fingerprint is not written as canonical JSON")
        return found


def _check_order(histogram: Sequence[tuple[int, int]]) -> None:
    if any(a >= b for (a, _), (b, _) in pairwise(histogram)):
        raise ValueError("the values of a histogram do not rise")


def rounded(value: int, step: int) -> int:
    """The nearest positive multiple of a step, halves up, in integers.

    Examples:
        >>> rounded(1024, 50), rounded(1025, 50), rounded(3, 8)
        (1000, 1050, 8)
    """
    return max(step, (value + step // 2) // step * step)


def make_fingerprint(cases: Iterable[CaseFigures], rules: Rules) -> Fingerprint:
    """The fingerprint of one site's cases.

    Args:
        cases: one entry for each image; read once.
        rules: the site's rounding and smallest count.

    Returns:
        Figures that at least ``rules.minimum_patients`` patients share; with fewer patients in all
        it has no channel and counts of 0.
    """
    by_modality: dict[str, _Gathered] = defaultdict(lambda: _Gathered(rules))
    patients: set[str] = set()
    images: Counter[str] = Counter()
    for case in cases:
        patients.add(case.patient)
        images[case.modality] += 1
        by_modality[case.modality].add(case)
    enough = len(patients) >= rules.minimum_patients
    channels = {
        modality: gathered.channel()
        for modality, gathered in sorted(by_modality.items())
        if len(gathered.patients) >= rules.minimum_patients
    }
    return Fingerprint.model_validate(
        {
            "sites": 1,
            "patients": rounded(len(patients), rules.count_step) if enough else 0,
            "cases": rounded(max(images.values()), rules.count_step) if enough else 0,
            "minimum_patients": rules.minimum_patients,
            "channels": channels,
        }
    )


class _Shared:
    """A histogram that knows which patients stand behind each value."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self.patients: dict[int, set[str]] = defaultdict(set)

    def add(self, value: int, patient: str, count: int = 1) -> None:
        self.counts[value] += count
        self.patients[value].add(patient)

    def values(self, minimum: int) -> list[int]:
        """Values that enough patients share, rising."""
        return sorted(value for value, who in self.patients.items() if len(who) >= minimum)


@dataclass(slots=True)
class _Bin:
    """One bin of intensities in the making: exact moments, and who stands behind them."""

    voxels: int = 0
    total: int = 0
    squares: int = 0
    patients: set[str] = field(default_factory=set)


class _Gathered:
    """One modality of one site in the making."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self.patients: set[str] = set()
        self._spacing = (_Shared(), _Shared(), _Shared())
        self._shape = (_Shared(), _Shared(), _Shared())
        self._bins: dict[int, _Bin] = defaultdict(_Bin)

    def add(self, case: CaseFigures) -> None:
        rules = self._rules
        self.patients.add(case.patient)
        for axis in range(3):
            spacing = rounded(round(case.spacing_mm[axis] * 1000), rules.spacing_step_um)
            self._spacing[axis].add(spacing, case.patient)
            self._shape[axis].add(rounded(case.shape[axis], rules.shape_step), case.patient)
        width = rules.intensity_step * UNITS_PER_HU
        for value, count in (case.intensities or {}).items():
            if LOWEST_HU * UNITS_PER_HU <= value <= HIGHEST_HU * UNITS_PER_HU and count > 0:
                found = self._bins[value // width]
                found.voxels += count
                found.total += value * count
                found.squares += value * value * count
                found.patients.add(case.patient)

    def channel(self) -> Channel:
        return Channel(
            spacing_um=self._axes(self._spacing),
            shape=self._axes(self._shape),
            intensities=self._intensities(),
        )

    def _axes(self, found: tuple[_Shared, _Shared, _Shared]) -> PerAxis:
        first, second, third = (self._released(shared) for shared in found)
        return first, second, third

    def _released(self, shared: _Shared) -> Histogram:
        step = self._rules.count_step
        values = shared.values(self._rules.minimum_patients)[:MAX_BINS]
        return tuple((value, rounded(shared.counts[value], step)) for value in values)

    def _intensities(self) -> Intensities | None:
        """Bins that enough patients share, and the moments of the voxels in just these bins."""
        minimum = self._rules.minimum_patients
        shared = {n: b for n, b in sorted(self._bins.items()) if len(b.patients) >= minimum}
        if not shared:
            return None
        moments = (
            sum(item.voxels for item in shared.values()),
            sum(item.total for item in shared.values()),
            sum(item.squares for item in shared.values()),
        )
        bins = [(number, item.voxels) for number, item in shared.items()]
        return _intensities(self._rules.intensity_step, bins, moments)


def _intensities(
    step: int, bins: Iterable[tuple[int, int]], moments: tuple[int, int, int]
) -> Intensities:
    voxels, total, squares = (str(value) for value in moments)
    return Intensities.model_validate(
        {
            "step": step,
            "bins": tuple(bins),
            "voxels": voxels,
            "total": total,
            "squares": squares,
        }
    )


def merge(fingerprints: Iterable[Fingerprint]) -> Fingerprint:
    """The fingerprint of all data sets together, the same whatever the order or the grouping.

    Histograms of different steps meet on the coarsest one. Figures that a site left out are
    missing here too.

    Args:
        fingerprints: at least one; merged ones may be merged again.

    Raises:
        FingerprintRefused: none was given, or together they exceed what a fingerprint holds.
    """
    given = list(fingerprints)
    if not given:
        raise FingerprintRefused("expected at least one fingerprint to merge")
    names = sorted({name for item in given for name in item.channels})
    try:
        channels = {
            name: _merged_channel([item.channels[name] for item in given if name in item.channels])
            for name in names
        }
        return Fingerprint.model_validate(
            {
                "sites": sum(item.sites for item in given),
                "patients": sum(item.patients for item in given),
                "cases": sum(item.cases for item in given),
                "minimum_patients": min(item.minimum_patients for item in given),
                "channels": channels,
            }
        )
    except ValidationError:
        raise FingerprintRefused("the merged fingerprint exceeds what one may hold") from None


def _merged_channel(channels: Sequence[Channel]) -> Channel:
    scaled = [item.intensities for item in channels if item.intensities is not None]
    return Channel(
        spacing_um=_merged_axes([item.spacing_um for item in channels]),
        shape=_merged_axes([item.shape for item in channels]),
        intensities=_merged_intensities(scaled) if scaled else None,
    )


def _merged_axes(axes: Sequence[PerAxis]) -> PerAxis:
    first, second, third = (_added(item[axis] for item in axes) for axis in range(3))
    return first, second, third


def _added(histograms: Iterable[Iterable[tuple[int, int]]]) -> Histogram:
    found: Counter[int] = Counter()
    for histogram in histograms:
        for value, count in histogram:
            found[value] += count
    return tuple(sorted(found.items()))


def _merged_intensities(parts: Sequence[Intensities]) -> Intensities:
    step = max(part.step for part in parts)
    bins: Counter[int] = Counter()
    for part in parts:
        bins.update(part.coarsened(step))
    moments = (
        sum(int(part.voxels) for part in parts),
        sum(int(part.total) for part in parts),
        sum(int(part.squares) for part in parts),
    )
    return _intensities(step, sorted(bins.items()), moments)


def figures(fingerprint: Fingerprint) -> dict[str, JSON]:
    """What people read: medians of spacing (mm) and shape (voxels), and CT's intensities (HU).

    Args:
        fingerprint: of a site, or merged.
    """
    return {
        "sites": fingerprint.sites,
        "patients": fingerprint.patients,
        "cases": fingerprint.cases,
        "minimum_patients": fingerprint.minimum_patients,
        "channels": {name: _figures(channel) for name, channel in fingerprint.channels.items()},
    }


def _figures(channel: Channel) -> dict[str, JSON]:
    found: dict[str, JSON] = {
        "spacing_mm": [_scaled(median(axis), 1000) for axis in channel.spacing_um],
        "shape": [median(axis) for axis in channel.shape],
    }
    scale = channel.intensities
    if scale is not None:
        found["intensity_hu"] = {
            "voxels": int(scale.voxels),
            "mean": round(scale.mean, 6),
            "sd": round(scale.variance**0.5, 6),
            **{f"p{percent:g}": scale.percentile(percent) for percent in PERCENTILES},
        }
    return found


def figure_rows(fingerprint: Fingerprint) -> list[tuple[str, str, str, str, str]]:
    """A table for people: modality, figure, and its values along R, A, S."""
    rows: list[tuple[str, str, str, str, str]] = []
    for name, channel in fingerprint.channels.items():
        spacing = [_shown(_scaled(median(axis), 1000)) for axis in channel.spacing_um]
        shape = [_shown(median(axis)) for axis in channel.shape]
        rows.append((name, "median spacing, mm", *_three(spacing)))
        rows.append((name, "median cropped shape, voxels", *_three(shape)))
        scale = channel.intensities
        if scale is not None:
            low, middle, high = (scale.percentile(percent) for percent in PERCENTILES)
            rows.append(
                (
                    *(name, "intensity, HU", f"mean {scale.mean:.2f}"),
                    f"SD {scale.variance**0.5:.2f}",
                    f"{low:.1f}, {middle:.1f}, {high:.1f} (0.5, 50, 99.5 %)",
                )
            )
    return rows


def _shown(value: float | None) -> str:
    return "left out" if value is None else f"{value:g}"


def _three(values: Sequence[str]) -> tuple[str, str, str]:
    return values[0], values[1], values[2]


def median(histogram: Sequence[tuple[int, int]]) -> float | None:
    """The median of a histogram, the mean of the middle two; None where all was left out.

    Examples:
        >>> median([(800, 2), (1000, 2)]), median([(1000, 3)]), median([])
        (900.0, 1000.0, None)
    """
    total = sum(count for _, count in histogram)
    if not total:
        return None
    return (_at(histogram, (total - 1) // 2) + _at(histogram, total // 2)) / 2


def _at(histogram: Sequence[tuple[int, int]], rank: int) -> int:
    for value, count in histogram:
        if rank < count:
            return value
        rank -= count
    raise AssertionError("unreachable: the rank lies within the histogram")


def _scaled(value: float | None, scale: int) -> float | None:
    return None if value is None else value / scale
