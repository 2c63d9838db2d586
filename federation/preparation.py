"""The section of a plan that says how a study becomes arrays; loads neither torch nor numpy."""

import math
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from federation.plan_part import PlanPart

MAX_PREPARED_VOXELS: Final = 128_000_000
"""Largest prepared grid that a plan may ask for by size (512 MB per float32 channel)."""

Normalisation = Literal[
    "zscore-brain", "zscore-foreground", "zscore-image", "white-stripe", "percentile", "ct"
]
NORMALISATIONS: Final[tuple[str, ...]] = (
    "zscore-brain",
    "zscore-foreground",
    "zscore-image",
    "white-stripe",
    "percentile",
    "ct",
)
STRIPE_MODALITIES: Final = frozenset({"T1w", "T2w", "FLAIR"})
"""Images whose peak of white matter is defined."""
SCALE_FREE: Final = frozenset({"CT"})
"""Images on an absolute scale, for which alone fixed values make sense."""

_Spacing = Annotated[float, Field(ge=0.25, le=10.0)]
_Extent = Annotated[int, Field(ge=8, le=1024)]
_Percent = Annotated[float, Field(ge=0.0, le=100.0)]
_Hounsfield = Annotated[float, Field(ge=-32768.0, le=32767.0)]


class FixedIntensities(PlanPart):
    """Clipping and scaling by the plan's fixed values, in the images' own unit (CT: HU).

    After nnU-Net (Isensee et al., Nature Methods 18:203, 2021): the 0.5 and 99.5 percentile, mean
    and standard deviation of the training cases' foreground, as a fingerprint gives them.

    Attributes:
        low: Values below become this value.
        high: Values above become this value.
        mean: What is subtracted after clipping.
        sd: What is divided by.
    """

    low: _Hounsfield
    high: _Hounsfield
    mean: _Hounsfield
    sd: Annotated[float, Field(ge=1e-3, le=65536.0)]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError("low must lie below high")
        return self


class Preparation(PlanPart):
    """How a study becomes arrays. Its hash names the folder of prepared cases.

    The keys from ``axes`` on came later than the others: they are written only where they differ
    from their defaults, so that plans signed before them keep their bytes, hash and signature.

    Attributes:
        spacing_mm: Voxel edge lengths along R, A, S in mm.
        orientation: Axes of the prepared grid; only RAS.
        n4: Bias-field correction by N4.
        denoise: Denoising before resampling.
        normalisation: ``zscore-brain``: mean 0 and SD 1 over the brain's voxels;
            ``zscore-foreground``: over the voxels above Otsu's threshold; ``zscore-image``: over
            all voxels; ``white-stripe``: mean 0 and SD 1 over the normal-appearing white matter
            (T1w, T2w and FLAIR); ``percentile``: two percentiles become 0 and 1; ``ct``: the fixed
            values of ``intensities``. Per channel.
        skull_strip: Set voxels outside the brain to 0 after normalisation.
        crop: ``brain``: the brain's bounding box with a margin; ``centre``: ``size`` voxels about
            the centre of the reference image, padded with 0; ``none``: the whole grid.
        profile: ``quick`` or ``full`` effort of masks and registration.
        axes: ``reference``: the grid's axes are the reference image's own, permuted and flipped to
            lie nearest to R, A, S, so that an image that has the plan's voxel size already is not
            interpolated; ``world``: they are the scanner's R, A, S.
        interpolation: of grey values, ``linear`` or ``cubic`` (B-spline, clipped to the image's
            range); either low-passes first where the grid is coarser than the image.
        crop_margin_mm: Border kept around the brain.
        size: Voxels along R, A, S for the crop ``centre``.
        stripe_width: Half width of the white stripe, as a share of the intensities' distribution.
        percentiles: Which percentiles become 0 and 1; values beyond them are clipped.
        intensities: The fixed values for ``ct``.
    """

    spacing_mm: tuple[_Spacing, _Spacing, _Spacing] = (1.0, 1.0, 1.0)
    orientation: Literal["RAS"] = "RAS"
    n4: bool = False
    denoise: bool = False
    normalisation: Normalisation = "zscore-brain"
    skull_strip: bool = True
    crop: Literal["brain", "none", "centre"] = "brain"
    profile: Literal["quick", "full"] = "full"
    axes: Literal["reference", "world"] = "reference"
    interpolation: Literal["linear", "cubic"] = "linear"
    crop_margin_mm: Annotated[float, Field(ge=0.0, le=100.0)] = 6.0
    size: tuple[_Extent, _Extent, _Extent] | None = None
    stripe_width: Annotated[float, Field(ge=0.005, le=0.25)] = 0.05
    percentiles: tuple[_Percent, _Percent] = (1.0, 99.0)
    intensities: FixedIntensities | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        problems = []
        if (self.crop == "centre") != (self.size is not None):
            problems.append("size is given with crop 'centre', and only then")
        if self.size is not None and math.prod(self.size) > MAX_PREPARED_VOXELS:
            problems.append(f"size exceeds the limit of {MAX_PREPARED_VOXELS} voxels")
        if (self.normalisation == "ct") != (self.intensities is not None):
            problems.append("intensities are given with normalisation 'ct', and only then")
        if self.percentiles[1] - self.percentiles[0] < 1.0:
            problems.append("percentiles must rise by at least 1")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        return {
            key: value
            for key, value in written.items()
            if key not in LATER_KEYS or getattr(self, key) != fields[key].default
        }

    @property
    def needs_brain(self) -> tuple[str, ...]:
        """What of the section cannot be done without a brain mask, in words; empty for none."""
        wanted = {
            "crop 'brain'": self.crop == "brain",
            "skull_strip": self.skull_strip,
            f"normalisation '{self.normalisation}'": self.normalisation
            in ("zscore-brain", "white-stripe"),
        }
        return tuple(words for words, needed in wanted.items() if needed)

    def problems_with(self, modalities: frozenset[str]) -> list[str]:
        """Contradictions with the plan's inputs.

        Args:
            modalities: canonical modalities of the plan's inputs.
        """
        problems = []
        if self.normalisation == "white-stripe" and not modalities <= STRIPE_MODALITIES:
            known = ", ".join(sorted(STRIPE_MODALITIES))
            problems.append(f"preparation.normalisation: white-stripe is defined for {known} only")
        if self.normalisation == "ct" and not modalities <= SCALE_FREE:
            problems.append("preparation.normalisation: ct needs inputs of the modality CT only")
        return problems


LATER_KEYS: Final = frozenset(
    {"axes", "interpolation", "crop_margin_mm", "size"}
    | {"stripe_width", "percentiles", "intensities"}
)
"""Keys that came after the first plans: left out of the canonical form at their defaults."""
