"""Contours against analytic bodies and against matplotlib's polygon test."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.path import Path as Polygon
from numpy.typing import NDArray

from dicom_bridge.convert import SourceSeries
from dicom_bridge.rtstruct import Contour, StructuresRefused, fill_region
from dicom_bridge.rtstruct.polygons import CROSSED, REPEATED, fill, region
from tests.dicom_bridge.convert.phantom import Layout, cosines, series
from tests.dicom_bridge.rtstruct.structures import ball, circle, voxel_places

SHAPE = (40, 30)
THIN = Layout(rows=64, columns=60, slices=41, spacing=(1.2, 1.0), distance=1.5, thickness=1.5)


def source_of(folder: Path, layout: Layout) -> SourceSeries:
    return SourceSeries.from_files(series(folder, layout))


def whole(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    plane = np.zeros(SHAPE, dtype=np.bool_)
    patch = fill(points, SHAPE)
    patch.of(plane)[...] = patch.mask
    return plane


def square(low: float, high: float) -> NDArray[np.float64]:
    return np.array([[low, low], [high, low], [high, high], [low, high]])


@pytest.mark.parametrize("seed", range(20))
def test_any_polygon_agrees_with_matplotlib(seed: int) -> None:
    random = np.random.default_rng(seed)
    points = random.uniform(-6, 46, (int(random.integers(3, 40)), 2))
    centres = np.stack(np.meshgrid(np.arange(40.0), np.arange(30.0), indexing="ij"), -1)
    angle = np.sort(random.uniform(0, 2 * np.pi, len(points)))
    star = 20 + random.uniform(3, 22, len(points))[:, None] * np.c_[np.cos(angle), np.sin(angle)]
    inside = Polygon(star).contains_points(centres.reshape(-1, 2)).reshape(SHAPE)
    assert np.array_equal(whole(star), inside)
    # one that crosses itself, by crossing numbers written out edge by edge
    start, end = points, np.roll(points, -1, axis=0)
    count = np.zeros(SHAPE, dtype=int)
    for (x0, y0), (x1, y1) in zip(start, end, strict=True):
        between = (y0 <= centres[..., 1]) != (y1 <= centres[..., 1])
        x = x0 + (centres[..., 1] - y0) * (x1 - x0) / (y1 - y0)
        count += between & (x <= centres[..., 0])
    assert np.array_equal(whole(points), count % 2 == 1)


def test_regions_that_share_an_edge_share_no_pixel() -> None:
    left = np.array([[2.0, 2], [10, 2], [10, 20], [2, 20]])
    right = np.array([[10.0, 2], [18, 2], [18, 20], [10, 20]])
    assert not np.any(whole(left) & whole(right))
    assert np.count_nonzero(whole(left)) == 8 * 18
    both, notes = region([left, right], SHAPE, xor=False)
    assert np.count_nonzero(both) == 16 * 18
    assert notes == ()


def test_holes_islands_keyholes_crossings_and_repetitions() -> None:
    outer, hole, island = square(2.5, 22.5), square(6.5, 18.5), square(10.5, 14.5)
    nested, notes = region([island, outer, hole], SHAPE, xor=False)
    assert np.count_nonzero(nested) == 20**2 - 12**2 + 4**2
    assert notes == ()
    assert np.array_equal(nested, region([hole, island, outer], SHAPE, xor=True)[0])
    keyhole = np.vstack([outer, outer[:1], hole[:1], hole[::-1], outer[:1]])
    assert np.count_nonzero(region([keyhole], SHAPE, xor=False)[0]) == 20**2 - 12**2
    moved = outer + np.array([10, 0])
    crossed, notes = region([outer, moved], SHAPE, xor=False)
    assert np.count_nonzero(crossed) == 30 * 20
    assert notes == (CROSSED,)
    assert np.count_nonzero(region([outer, moved], SHAPE, xor=True)[0]) == 20 * 20
    twice, notes = region([outer, outer, hole], SHAPE, xor=False)
    assert np.count_nonzero(twice) == 20**2 - 12**2
    assert notes == (REPEATED,)
    two_holes = [square(6.5, 12.5), square(10.5, 16.5)]
    overlapping, notes = region([outer, *two_holes], SHAPE, xor=False)
    assert np.count_nonzero(overlapping) == 20**2 - 6**2 - 6**2 + 2**2
    assert notes == (CROSSED,)


@pytest.mark.parametrize("orientation", ["axial", "sagittal", "coronal", "oblique"])
def test_a_ball_with_a_hole_has_the_right_voxels(tmp_path: Path, orientation: str) -> None:
    source = source_of(tmp_path, replace(THIN, orientation=cosines(orientation)))
    heights = source.positions() @ source.normal()
    drawn = [*ball(source, 21.3, heights), *ball(source, 9.7, heights)]
    mask, filled = fill_region([Contour(p, "CLOSED_PLANAR") for p in drawn], source)
    distance = np.linalg.norm(voxel_places(source), axis=-1)
    truth = (distance < 21.3) & (distance >= 9.7)
    wrong = np.count_nonzero((mask > 0) != truth)
    assert wrong < 0.004 * np.count_nonzero(truth), "only where the polygon cuts the circle"
    ml = filled.voxels * 1.2 * 1.0 * 1.5 / 1000
    assert ml == pytest.approx(4 / 3 * np.pi * (21.3**3 - 9.7**3) / 1000, rel=0.01)
    assert filled.notes == ()
    assert filled.slices == int(np.count_nonzero(truth.any(axis=(0, 1))))


@pytest.mark.parametrize(("distance", "offset"), [(0.5, 0.0), (0.2, 0.05), (1.5, 0.7), (3.0, 0.0)])
def test_planes_between_slices_keep_the_volume(
    tmp_path: Path, distance: float, offset: float
) -> None:
    source = source_of(tmp_path, THIN)
    drawn = ball(source, 20.0, np.arange(-30, 30, distance) + offset)
    mask, filled = fill_region([Contour(p, "CLOSED_PLANAR") for p in drawn], source)
    ml = filled.voxels * 1.2 * 1.0 * 1.5 / 1000
    assert ml == pytest.approx(4 / 3 * np.pi * 20**3 / 1000, rel=0.03)
    rows = np.flatnonzero(mask.any(axis=(0, 1)))
    assert np.array_equal(np.diff(rows), np.ones(len(rows) - 1)), "no slice is skipped"


def test_a_missing_plane_stays_missing_and_is_told(tmp_path: Path) -> None:
    source = source_of(tmp_path, THIN)
    heights = source.positions() @ source.normal()
    drawn = ball(source, 12.0, np.delete(heights, 20))
    mask, filled = fill_region([Contour(p, "CLOSED_PLANAR") for p in drawn], source)
    assert not mask[:, :, 20].any()
    assert mask[:, :, 19].any()
    assert "gaps" in filled.notes[0]
    single, _ = fill_region([Contour(circle(source, 0.1, 8.0), "CLOSED_PLANAR")], source)
    assert np.count_nonzero(single.any(axis=(0, 1))) == 1


def test_what_lies_elsewhere_is_refused_in_words(tmp_path: Path) -> None:
    source = source_of(tmp_path, THIN)
    flat = circle(source, 0.0, 8.0)
    cases = {
        "another orientation": [Contour(flat[:, [2, 1, 0]], "CLOSED_PLANAR")],
        "above or below": [Contour(flat + np.array([0, 0, 40]), "CLOSED_PLANAR")],
        "outside the series' images": [Contour(flat + np.array([60.0, 0, 0]), "CLOSED_PLANAR")],
        "no closed contour": [Contour(flat, "OPEN_PLANAR"), Contour(flat[:1], "POINT")],
        "mixes": [Contour(flat, "CLOSED_PLANAR"), Contour(flat, "CLOSEDPLANAR_XOR")],
        "beyond all measure": [
            Contour(np.tile(np.array([[0.0, -20, 0], [0, 20, 0]]), (300_000, 1)), "CLOSED_PLANAR")
        ],
    }
    for words, contours in cases.items():
        with pytest.raises(StructuresRefused, match=words):
            fill_region(contours, source)
    mask, filled = fill_region([Contour(flat, "CLOSED_PLANAR"), Contour(flat[:2], "POINT")], source)
    assert mask.any()
    assert "no area" in filled.notes[0]
