"""Grey values of an image inside and outside the brain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from appliance.imaging.volume import Array
from appliance.reports.figures import Scale, axis, svg
from appliance.reports.page import Html, tag
from appliance.reports.planes import Bools

HISTOGRAM = (460, 190)
BINS = 72


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """Counts of grey values inside and outside the brain.

    Attributes:
        low: left edge of the first bin.
        high: right edge of the last bin.
        inside: counts in the brain (or in the whole image where there is no mask).
        outside: counts outside of it, or None where there is no mask.
    """

    low: float
    high: float
    inside: NDArray[np.int64]
    outside: NDArray[np.int64] | None


def histogram_of(data: Array, brain: Bools | None) -> Histogram:
    """Counts in `BINS` bins from the lowest value to the 99.8th percentile.

    Voxels with the image's lowest value are left out outside the brain: that is padding, and what
    defacing took away.

    Args:
        data: the image.
        brain: its mask or None.
    """
    step = max(1, round((data.size / 2_000_000) ** (1 / 3)))
    values = data[::step, ::step, ::step].astype(np.float32)
    low, high = float(values.min()), float(np.percentile(values, 99.8))
    if high <= low:
        high = low + 1.0
    bins = np.linspace(low, high, BINS + 1)
    if brain is None:
        return Histogram(low, high, np.histogram(values[values > low], bins)[0], None)
    inner = brain[::step, ::step, ::step]
    outer = values[~inner]
    inside, outside = np.histogram(values[inner], bins), np.histogram(outer[outer > low], bins)
    return Histogram(low, high, inside[0], outside[0])


def histogram(found: Histogram, title: str) -> Html:
    """The histogram; each curve has its own height."""
    width, height = HISTOGRAM
    bottom, top = height - 26, 8
    scale = Scale(found.low, found.high, width, 10)
    edges = np.linspace(found.low, found.high, BINS + 1)
    middles = [scale(float(v)) for v in (edges[:-1] + edges[1:]) / 2]
    parts = [axis(scale, bottom, height)]
    for counts, kind in ((found.inside, "inside"), (found.outside, "outside")):
        if counts is None or counts.max(initial=0) == 0:
            continue
        share = counts / counts.max()
        points = [
            f"{x:.1f},{bottom - s * (bottom - top):.1f}"
            for x, s in zip(middles, share, strict=True)
        ]
        if kind == "inside":
            points = [f"{middles[0]:.1f},{bottom}", *points, f"{middles[-1]:.1f},{bottom}"]
            parts.append(tag("polygon", points=" ".join(points), class_=kind))
        else:
            parts.append(tag("polyline", points=" ".join(points), class_=kind))
    return svg(HISTOGRAM, f"histogram of {title}", *parts)
