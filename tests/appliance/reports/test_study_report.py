"""A study's report: sound HTML, pictures that show the right thing, all text escaped."""

from __future__ import annotations

import time

import numpy as np
import pytest

from appliance.imaging.volume import Volume
from appliance.reports.figures import strip
from appliance.reports.histograms import histogram_of
from appliance.reports.metrics import (
    Distribution,
    Quality,
    Row,
    SiteFigures,
    figure_words,
    read_quality,
    robust_scores,
)
from appliance.reports.page import Html, data_uri, page, tag
from appliance.reports.pictures import BRAIN_COLOUR, LABEL_COLOURS, arrange
from appliance.reports.planes import Scene, label_cuts, mosaic_cuts, three_planes
from appliance.reports.study import (
    LABEL_TILE,
    LABEL_TILES,
    MOSAIC_ROWS,
    TILE,
    StudyContent,
    render_study,
)
from appliance.reports.views import WIDTH, Input, LabelView, Marked
from tests.appliance.reports.bodies import SHAPE, Page, body, decoded, stored

EVIL = '<script>alert("x")</script>&amp;"\'><img src=x onerror=y>'

METRICS = [
    {
        "name": "flair_snr",
        "value": 24.0,
        "unit": "ratio",
        "direction": "higher",
        "threshold": [10.0, 5.0],
        "verdict": "pass",
        "z": 0.4,
    },
    {
        "name": "flair_ghosting",
        "value": 0.0014,
        "unit": "share",
        "direction": "lower",
        "threshold": [0.001, 0.002],
        "verdict": "review",
    },
    {"name": "t1w_cjv", "value": 0.9, "unit": "ratio", "direction": "lower", "z": 7.5},
    {"name": "t1w_qi2", "value": None, "unit": "share", "direction": "lower"},
    {"name": "a_new_figure", "value": 1, "unit": "1", "direction": "none"},
]
DOCUMENT = {
    "format": 1,
    "decision": "review",
    "reasons": ["the FLAIR shows motion or ghosts: flair_ghosting is 0.0014, above 0.001"],
    "released": False,
    "metrics": METRICS,
}


def pair() -> tuple[Input, Input]:
    made = body()
    turned = stored(made.image, (1, 2, 0), (1, -1, 1))
    brain = stored(made.brain, (1, 2, 0), (1, -1, 1))
    return (
        Input("FLAIR", made.image, made.brain, facts=(("TE", "0.09 s"),)),
        Input("T1w", turned, brain, np.eye(4)),
    )


def content(**changes: object) -> StudyContent:
    site = SiteFigures.of({"flair_snr": [20.0 + n for n in range(12)]}, 12, 6.0)
    given: dict[str, object] = {
        "title": "sub-1 ses-2",
        "inputs": pair(),
        "label": Marked(body().label, {1: "lesion"}),
        "quality": read_quality(DOCUMENT),
        "site": site,
        "steps": (("convert", "FLAIR by dicom2nifti 2.6.2"),),
        "versions": (("clinode", "0.1.0"),),
        "note": "a note",
    }
    return StudyContent(**{**given, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def whole() -> Page:
    return Page(render_study(content()))


def test_the_page_is_sound(whole: Page) -> None:
    whole.assert_sound()
    assert len(whole.text) < 2_000_000
    assert [h for h in whole.headings if h == "h2"]


def test_decision_and_reasons_come_first(whole: Page) -> None:
    shown = whole.shown
    reason = "the FLAIR shows motion or ghosts"
    assert shown.index("Review") < shown.index(reason) < shown.index("Images")
    assert "12 other studies of this site" in shown
    assert "T1 coefficient of joint variation" in shown, "unusual ones are named on top"


def test_what_was_done_is_told(whole: Page) -> None:
    assert "dicom2nifti 2.6.2" in whole.shown
    assert "clinode 0.1.0" in whole.shown


def test_every_picture_decodes_and_shows_something(whole: Page) -> None:
    bases = whole.pictures("base")
    assert len(bases) == 7, "two images, twice each; two of registration; one of the label"
    for picture in bases:
        assert picture.max() > 150
        assert picture.std() > 20
    for layer in whole.pictures("layer"):
        shown = layer if layer.ndim == 2 else layer[..., 3]
        assert shown.any()
    sizes = [(int(i["width"]), int(i["height"])) for i in whole.images]
    assert all(
        decoded_size == size for decoded_size, size in zip(_sizes(whole), sizes, strict=True)
    )
    assert all(i["alt"] for i in whole.images if "base" in i["class"])


def _sizes(page: Page) -> list[tuple[int, int]]:
    return [(p.shape[1], p.shape[0]) for p in (decoded(i["src"]) for i in page.images)]


def test_the_labels_outline_lies_on_the_label(whole: Page) -> None:
    made = body()
    scene = Scene.of(made.image, made.brain)
    groups = (
        three_planes(scene, height=300, width=WIDTH),
        mosaic_cuts(scene, width=WIDTH, tile=TILE, rows=MOSAIC_ROWS),
        label_cuts(scene, made.label.data > 0, count=LABEL_TILES, tile=LABEL_TILE),
    )
    layers = whole.pictures("label")
    assert len(layers) == len(groups)
    for cuts, layer in zip(groups, layers, strict=True):
        sheet = arrange(cuts, WIDTH)
        assert layer.shape[:2] == (sheet.size[1], sheet.size[0])
        for (x, y), cut in zip(sheet.places, cuts, strict=True):
            tile = layer[y : y + cut.size[1], x : x + cut.size[0]]
            drawn = tile[..., 3] > 0
            mask = scene.mask(cut, made.label.data)
            assert drawn.any() == mask.any()
            assert not (drawn & ~mask).any(), "within the label"
            if mask.any():
                assert tile[drawn][0].tolist() == [*LABEL_COLOURS[0], 255]
                rows, columns = np.nonzero(drawn)
                if cut.view != "sagittal":
                    assert columns.mean() > cut.size[0] / 2, "the patient's left is on the right"
                inside_rows, _ = np.nonzero(mask)
                assert (rows.min(), rows.max()) == (inside_rows.min(), inside_rows.max())


def test_the_brains_outline_lies_on_its_border(whole: Page) -> None:
    made = body()
    scene = Scene.of(made.image, made.brain)
    cuts = three_planes(scene, height=300, width=WIDTH)
    sheet = arrange(cuts, WIDTH)
    layer = whole.pictures("brain")[0]
    assert layer[layer[..., 3] > 0][0].tolist() == [*BRAIN_COLOUR, 255]
    for (x, y), cut in zip(sheet.places, cuts, strict=True):
        drawn = layer[y : y + cut.size[1], x : x + cut.size[0], 3] > 0
        mask = scene.mask(cut, made.brain.data)
        rows, columns = np.nonzero(drawn)
        inside = np.nonzero(mask)
        assert (rows.min(), rows.max()) == (inside[0].min(), inside[0].max())
        assert (columns.min(), columns.max()) == (inside[1].min(), inside[1].max())


def test_a_wrong_registration_shows(whole: Page) -> None:
    shifted = np.eye(4)
    shifted[1, 3] = 12.0
    flair, t1 = pair()
    wrong = Input("T1w", t1.volume, t1.brain, shifted)
    other = Page(render_study(content(inputs=(flair, wrong))))
    good, bad = whole.pictures("moving")[0], other.pictures("moving")[0]
    fixed = whole.pictures("base")[4]
    assert np.abs(good.astype(int) - fixed).mean() < 3, "the same image lies on itself"
    assert np.abs(bad.astype(int) - fixed).mean() > 15
    assert np.abs(whole.pictures("base")[5].astype(int) - fixed).mean() < 3, "checkerboard"
    lines = [p.pictures("edges")[0][..., 3] > 0 for p in (whole, other)]
    assert (lines[0] & lines[1]).sum() < 0.5 * lines[0].sum()


def test_nothing_is_read_as_markup() -> None:
    quality = read_quality(
        {**DOCUMENT, "reasons": [EVIL], "metrics": [{**METRICS[0], "name": EVIL}]}
    )
    flair, t1 = pair()
    odd = Input(EVIL, flair.volume, flair.brain, facts=((EVIL, EVIL),))
    shown = Page(
        render_study(
            content(
                title=EVIL,
                note=EVIL,
                inputs=(odd, t1),
                quality=quality,
                label=Marked(body().label, {1: EVIL}),
                steps=((EVIL, EVIL),),
                versions=((EVIL, EVIL),),
            )
        )
    )
    shown.assert_sound()
    assert "<script>" in shown.shown, "as text"


def test_long_words_do_not_break_it() -> None:
    long = "x" * 5000
    quality = read_quality({**DOCUMENT, "reasons": [long] * 50})
    shown = Page(render_study(content(title=long, quality=quality)))
    shown.assert_sound()
    assert len(max(quality.reasons, key=len)) <= 400


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"inputs": ()}, "No image could be shown"),
        ({"inputs": (pair()[0],)}, "1 × 1 × 1 mm"),
        ({"inputs": (pair()[1],)}, "T1w"),
        ({"label": None}, "No expert label came with this study"),
        ({"quality": Quality()}, "The study was not checked"),
        ({"site": SiteFigures()}, "no other studies yet"),
        ({"steps": (), "versions": ()}, "Figures of quality"),
    ],
)
def test_what_is_absent_is_said(changes: dict[str, object], words: str) -> None:
    shown = Page(render_study(content(**changes)))
    shown.assert_sound()
    assert words in shown.shown
    assert ("Registration" in shown.shown) == (len(changes.get("inputs", (1, 2))) == 2)  # type: ignore[arg-type]


def test_an_image_that_was_not_registered_is_named() -> None:
    flair, t1 = pair()
    shown = Page(render_study(content(inputs=(flair, Input("T1w", t1.volume)))))
    shown.assert_sound()
    assert "T1w was not registered to FLAIR" in shown.shown


def test_without_a_brain_mask() -> None:
    made = body()
    shown = Page(render_study(content(inputs=(Input("T2w", made.image),))))
    shown.assert_sound()
    assert "no brain mask" in shown.shown
    assert not shown.pictures("brain")


def test_an_empty_label_and_many_labels() -> None:
    made = body()
    none = made.label.with_data(np.zeros_like(made.label.data))
    shown = Page(render_study(content(label=Marked(none))))
    assert "empty: no voxel is marked" in shown.shown
    many = made.label.with_data(
        (np.arange(made.label.data.size) % 9).reshape(made.label.data.shape).astype(np.uint8)
    )
    shown = Page(render_study(content(label=Marked(many, {1: "a", 7: "b"}))))
    shown.assert_sound()
    assert shown.shown.count("unnamed") == 6
    crowd = made.label.with_data((np.arange(made.label.data.size) % 200).reshape(SHAPE))
    assert LabelView.of(Marked(crowd), made.image).present == tuple(range(1, 65))


def test_a_label_on_another_grid_lands_in_place() -> None:
    made = body()
    turned = Marked(stored(made.label, (2, 1, 0), (-1, 1, -1)), {1: "lesion"})
    straight = Page(render_study(content()))
    other = Page(render_study(content(label=turned)))
    for one, two in zip(straight.pictures("label"), other.pictures("label"), strict=True):
        assert np.array_equal(one, two)


@pytest.mark.parametrize("value", [0.0, 7.5, -1000.0])
def test_a_constant_image(value: float) -> None:
    made = body()
    flat = made.image.with_data(np.full(made.image.shape, value, dtype=np.float32))
    shown = Page(render_study(content(inputs=(Input("FLAIR", flat, made.brain),))))
    shown.assert_sound()


def test_the_same_study_gives_the_same_bytes() -> None:
    assert render_study(content()) == render_study(content())


def test_it_is_fast_and_small_at_clinical_size() -> None:
    rng = np.random.default_rng(1)
    data = rng.integers(0, 900, (256, 256, 44), dtype=np.int16)
    noise = Volume(data, np.diag([0.9, 0.9, 3.6, 1.0]))
    brain = np.zeros(data.shape, dtype=np.uint8)
    brain[40:210, 30:220, 4:40] = 1
    label = noise.with_data((rng.random(data.shape) > 0.999).astype(np.uint8))
    mask = noise.with_data(brain)
    given = content(
        inputs=(Input("FLAIR", noise, mask), Input("T1w", noise, mask, np.eye(4))),
        label=Marked(label),
    )
    begin = time.process_time()
    text = render_study(given)
    assert time.process_time() - begin < 6.0, "about 1 s on an idle core"
    assert len(text) < 2_000_000, "noise compresses worst"


def test_a_mask_on_another_grid_is_left_out() -> None:
    made = body()
    other = body((2.0, 2.0, 2.0))
    assert Scene.of(made.image, other.brain).brain is None


def test_figures_are_read_tolerantly() -> None:
    assert read_quality({}) == Quality()
    odd = {
        "decision": "perhaps",
        "reasons": "no list",
        "metrics": [
            7,
            {"value": 1},
            {"name": "flair_snr", "value": "24"},
            {"name": "flair_snr", "value": float("nan")},
            {"name": "flair_snr", "value": True},
            {"name": "flair_snr", "value": 4.0, "direction": "higher"},
            {"name": "flair_snr", "value": 4.0, "threshold": "10"},
        ],
    }
    found = read_quality(odd)
    assert found.decision == ""
    assert found.reasons == ()
    assert [row.value for row in found.rows] == [None, None, None, 4.0, 4.0]
    old = found.rows[3]
    assert (old.review, old.fail, old.verdict) == (10.0, 5.0, "fail"), "the table's bounds"


@pytest.mark.parametrize(
    ("direction", "value", "verdict"),
    [
        ("higher", 24.0, "pass"),
        ("higher", 9.0, "review"),
        ("higher", 4.0, "fail"),
        ("lower", 4.0, "pass"),
        ("lower", 10.5, "fail"),
    ],
)
def test_bounds_give_a_verdict(direction: str, value: float, verdict: str) -> None:
    bounds = (10.0, 5.0) if direction == "higher" else (5.0, 10.0)
    assert Row("x", value, "", direction, *bounds).verdict == verdict


def test_a_strip_places_value_bounds_and_site_in_order() -> None:
    spread = Distribution.of([20.0, 22.0, 24.0, 26.0, 28.0])
    drawing = strip(Row("flair_snr", 8.0, "", "higher", 10.0, 5.0), spread)
    x = {
        name: float(
            drawing.split(f'class="{name}"')[0].rsplit("<", 1)[1].split('="')[1].split('"')[0]
        )
        for name in ("limit review", "limit fail", "mid")
    }
    assert x["limit fail"] < x["limit review"] < x["mid"]
    assert "dot review" in drawing
    assert "review beyond 10" in drawing
    assert strip(Row("x", 1.0), None) == ""
    assert strip(Row("x", None, "", "higher", 1.0), spread) == ""


def test_few_studies_are_no_distribution() -> None:
    assert Distribution.of([1.0] * 4) is None
    assert SiteFigures.of({"a": [1.0] * 4}, 4).spreads == {}
    assert robust_scores([5.0] * 9) == [None] * 9
    assert Distribution.of([float("nan"), float("inf"), *range(5)]) is not None


def test_the_histogram_counts_brain_and_outside() -> None:
    made = body()
    found = histogram_of(made.image.data, made.brain.data > 0)
    assert found.outside is not None
    assert found.inside.sum() == pytest.approx(int(made.brain.data.sum()), rel=0.03)
    bins = np.linspace(found.low, found.high, found.inside.size + 1)
    assert bins[int(found.inside.argmax())] == pytest.approx(400, abs=20)
    assert bins[int(found.outside.argmax())] == pytest.approx(30, abs=20)


def test_text_is_escaped_wherever_it_stands() -> None:
    assert str(tag("p", EVIL, title=EVIL)).count("<") == 2
    assert tag("p", Html("<b></b>")) == "<p><b></b></p>"
    assert tag("p", hidden=True, title=None, x=False) == "<p hidden></p>"
    assert data_uri(b"a", "image/png") == "data:image/png;base64,YQ=="
    Page(page(EVIL, tag("h1", EVIL))).assert_sound()


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-9, -12345.678, 1e300, 5e-324])
def test_any_figure_has_words(value: float) -> None:
    assert float(figure_words(value)) == pytest.approx(value, rel=1e-3)
