"""Cuts lie where they should and look as radiologists expect; outlines lie on what they outline."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from appliance.imaging.volume import Volume
from appliance.reports.pictures import (
    Window,
    arrange,
    checkerboard,
    compose,
    edges,
    grey_webp,
    layer_png,
    lettered,
    outline,
    window_of,
)
from appliance.reports.planes import (
    VIEWS,
    Cut,
    Scene,
    is_oblique,
    label_cuts,
    mosaic_cuts,
    sampled,
    spread,
    three_planes,
)
from tests.appliance.reports.bodies import LEFT, SHAPE, body, stored

ORIENTATIONS = [
    (axes, flips)
    for axes in itertools.permutations(range(3))
    for flips in itertools.product((1, -1), repeat=3)
]


def scene_of(volume: Volume, brain: Volume | None = None) -> Scene:
    return Scene.of(volume, brain)


def brightest(values: np.ndarray) -> tuple[float, float]:
    """Centre (column share, row share) of the brightest ball of a picture."""
    rows, columns = np.nonzero(values > 800)
    return float(columns.mean() / values.shape[1]), float(rows.mean() / values.shape[0])


@pytest.mark.parametrize(("axes", "flips"), ORIENTATIONS)
def test_the_patients_left_is_on_the_right_however_it_is_stored(
    axes: tuple[int, int, int], flips: tuple[int, int, int]
) -> None:
    made = body()
    image = stored(made.image, axes, flips)
    brain = stored(made.brain, axes, flips)
    scene = scene_of(image, brain)
    axial, coronal, sagittal = three_planes(scene, height=60, width=400)
    assert axial.letters[:2] == coronal.letters[:2] == ("R", "L")
    assert sagittal.letters == ("A", "P", "S", "I")
    for cut in (axial, coronal):
        column, _ = brightest(scene.grey(cut))
        assert column > 0.7, "the ball on the patient's left"
    _, row = np.nonzero(scene.grey(axial) > 0)
    values = scene.grey(axial)
    front = np.argwhere((values > 600) & (values < 800))
    assert front[:, 0].mean() < values.shape[0] * 0.35, "the front is at the top"
    values = scene.grey(coronal)
    dark = np.argwhere((values > 100) & (values < 220))
    assert dark[:, 0].mean() < values.shape[0] * 0.45, "the top is at the top"
    reference = scene_of(made.image, made.brain)
    assert np.array_equal(scene.grey(axial), reference.grey(axial))
    assert scene.middle == reference.middle
    assert row.size


def test_thick_slices_are_drawn_as_thick_as_they_are() -> None:
    made = body((1.0, 1.0, 5.0))
    scene = scene_of(made.image, made.brain)
    assert scene.view == "axial"
    _, coronal, sagittal = three_planes(scene, height=200, width=900)
    assert made.image.shape[2] == 8
    assert coronal.size[0] / coronal.size[1] == pytest.approx(SHAPE[0] / 40, rel=0.02)
    assert sagittal.size[0] / sagittal.size[1] == pytest.approx(SHAPE[1] / 40, rel=0.02)


@pytest.mark.parametrize(("axis", "view"), [(0, "sagittal"), (1, "coronal"), (2, "axial")])
def test_thick_slices_are_shown_in_their_own_plane(axis: int, view: str) -> None:
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = 4.0
    made = body((spacing[0], spacing[1], spacing[2]))
    scene = scene_of(made.image, made.brain)
    assert scene.view == view
    assert {cut.view for cut in mosaic_cuts(scene, width=600, tile=80, rows=2)} == {view}


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 40)] * 3),
    spacing=st.tuples(*[st.floats(0.01, 60.0)] * 3),
)
def test_any_grid_can_be_drawn(
    shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    volume = Volume(np.zeros(shape, dtype=np.int16), np.diag([*spacing, 1.0]))
    scene = scene_of(volume)
    cuts = [
        *three_planes(scene, height=120, width=400),
        *mosaic_cuts(scene, width=400, tile=60, rows=2),
    ]
    sheet = arrange(cuts, 400)
    window = window_of(volume.data, None)
    picture = compose(sheet, [window.bytes(scene.grey(cut)) for cut in cuts])
    assert max(picture.shape) <= 12_000
    assert picture.max() == 0
    assert scene.points(cuts[0]).shape == (cuts[0].size[1], cuts[0].size[0], 3)


def test_points_are_where_the_picture_is() -> None:
    made = body()
    turned = stored(made.image, (2, 0, 1), (-1, 1, -1))
    scene = scene_of(turned)
    for cut in three_planes(scene, height=60, width=156):
        again = sampled(made.image, scene.points(cut), None)
        assert cut.size in {(48, 60), (48, 40), (60, 40)}
        assert np.allclose(again, scene.grey(cut), atol=1e-2)


def test_a_matrix_moves_what_is_read() -> None:
    made = body()
    scene = scene_of(made.image)
    cut = three_planes(scene, height=60, width=156)[0]
    shift = np.eye(4)
    shift[0, 3] = -5.0
    moved = sampled(made.image, scene.points(cut), shift)
    before = brightest(scene.grey(cut))[0] * cut.size[0]
    after = brightest(moved)[0] * cut.size[0]
    assert after == pytest.approx(before - 5.0, abs=0.6), "left is at larger columns"


def test_outside_of_the_other_image_is_black() -> None:
    made = body()
    points = np.full((4, 5, 3), 1e6)
    assert not sampled(made.image, points, None).any()


def test_slices_of_a_label_are_apart_and_hold_it() -> None:
    made = body()
    scene = scene_of(made.image, made.brain)
    cuts = label_cuts(scene, made.label.data > 0, count=4, tile=80)
    places = [cut.index for cut in cuts]
    assert places == sorted(places)
    assert all(b - a >= 6 for a, b in itertools.pairwise(places))
    assert all((made.label.data[:, :, n] > 0).any() for n in places)
    assert label_cuts(scene, made.label.data > 9, count=4, tile=80) == []


def test_spread_is_even_and_whole() -> None:
    assert spread(0, 3, 10) == [0, 1, 2]
    assert spread(5, 5, 3) == []
    found = spread(0, 1000, 7)
    assert len(set(found)) == 7
    assert found[0] > 0
    assert found[-1] < 999


def test_obliquity_is_told() -> None:
    tilted = np.eye(4)
    angle = np.radians(10)
    tilted[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    data = np.zeros((3, 3, 3))
    assert is_oblique(Volume(data, tilted))
    assert not is_oblique(Volume(data, np.eye(4)))


def test_the_window_shows_tissue() -> None:
    made = body()
    window = window_of(made.image.data, made.brain.data > 0)
    assert window.low < 60
    assert window.bytes(np.array([[400.0]], np.float32))[0, 0] > 90
    flat = np.full((4, 4, 4), 5.0, dtype=np.float32)
    for brain in (None, np.zeros(flat.shape, dtype=bool), np.ones(flat.shape, dtype=bool)):
        assert window_of(flat, brain).high > window_of(flat, brain).low


def test_an_outline_is_the_masks_own_border() -> None:
    mask = np.zeros((20, 20), dtype=bool)
    mask[5:10, 6:12] = True
    line = outline(mask)
    assert line.sum() == 2 * 6 + 2 * 3
    assert not (line & ~mask).any()
    assert not outline(np.zeros((4, 4), dtype=bool)).any()


def test_edges_lie_on_the_step_and_only_there() -> None:
    picture = np.zeros((30, 40), dtype=np.float32)
    picture[:, 17:] = 100.0
    columns = np.nonzero(edges(picture))[1]
    assert set(columns) <= {15, 16, 17}
    assert columns.size >= 28
    assert not edges(np.full((9, 9), 3.0, dtype=np.float32)).any()
    nowhere = np.zeros(picture.shape, dtype=bool)
    nowhere[:, 30:] = True
    assert not edges(picture, where=nowhere).any()


def test_a_checkerboard_begins_with_the_first() -> None:
    first, second = np.full((8, 8), 10, np.uint8), np.full((8, 8), 20, np.uint8)
    board = checkerboard(first, second, field=4)
    assert board[0, 0] == board[7, 7] == 10
    assert board[0, 7] == board[7, 0] == 20


def test_letters_stand_at_the_patients_sides() -> None:
    cut = Cut("axial", 0, (0, 1), (0, 1), (220, 240))
    sheet = arrange([cut], 300)
    empty = np.zeros((240, 220), dtype=np.uint8)
    marked = lettered(empty, sheet, [cut], ["12"])
    font = ImageFont.load_default(14)
    for place, letter, anchor in (
        ((3, 120), "R", "lm"),
        ((217, 120), "L", "rm"),
        ((110, 3), "A", "mt"),
        ((110, 237), "P", "mb"),
        ((4, 237), "12", "lb"),
    ):
        alone = Image.fromarray(empty)
        ImageDraw.Draw(alone).text(
            place, letter, fill=255, font=font, anchor=anchor, stroke_width=1, stroke_fill=0
        )
        ink = np.asarray(alone)
        assert ink.any()
        assert np.array_equal(marked[ink > 0], ink[ink > 0]), letter
    small = Cut("sagittal", 0, (0, 1), (0, 1), (90, 90))
    few = lettered(np.zeros((90, 90), np.uint8), arrange([small], 90), [small], [""])
    assert few[:, :45].any()
    assert few[:, 45:].any()
    assert not few[:20].any(), "small tiles have no letters at the top"


def test_the_same_picture_gives_the_same_bytes() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (60, 70), dtype=np.uint8)
    assert grey_webp(picture) == grey_webp(picture.copy())
    numbers = (picture > 250).astype(np.uint8)
    assert layer_png(numbers, [(1, 2, 3)]) == layer_png(numbers.copy(), [(1, 2, 3)])


def test_layers_are_transparent_but_for_their_colours() -> None:
    numbers = np.zeros((6, 7), dtype=np.uint8)
    numbers[2, 3], numbers[4, 5] = 1, 2
    image = Image.open(io.BytesIO(layer_png(numbers, [(10, 20, 30), (40, 50, 60)])))
    pixels = np.asarray(image.convert("RGBA"))
    assert pixels[2, 3].tolist() == [10, 20, 30, 255]
    assert pixels[4, 5].tolist() == [40, 50, 60, 255]
    assert (pixels[..., 3] > 0).sum() == 2


def test_windows_clip() -> None:
    window = Window(10.0, 20.0)
    values = np.array([[-5.0, 10.0, 15.0, 20.0, 99.0]], dtype=np.float32)
    assert window.bytes(values).tolist() == [[0, 0, 128, 255, 255]]


def test_views_are_named_once() -> None:
    assert len(set(VIEWS)) == 3
    assert LEFT[0] < 0, "RAS: left is negative"
