"""Every figure of the quality check on an image with a known answer, and the decision."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.imaging.qc import (
    ImageInput,
    Metric,
    Protocol,
    QcReport,
    border_shares,
    check_geometry,
    check_grid,
    check_quality,
    label_figures,
)
from appliance.imaging.qc.air import air_mask, ghosting
from appliance.imaging.qc.geometry import head_shares
from appliance.imaging.qc.judge import judge_metrics
from appliance.imaging.qc.signal import (
    entropy_focus,
    mean_inside,
    noise_level,
    signal_to_noise,
    slice_axis_of,
    slice_jumps,
    thinned,
    tissue_and_fluid,
)
from appliance.imaging.registration import Registration
from appliance.imaging.volume import Volume

SHAPE = (80, 90, 60)
AFFINE = np.diag([-2.0, -2.0, 3.0, 1.0])
AFFINE.setflags(write=False)


def ball(
    centre: tuple[float, float, float], radius_mm: float, shape: tuple[int, int, int] = SHAPE
) -> NDArray[np.bool_]:
    index = np.moveaxis(np.indices(shape), 0, -1)
    far = (((index - centre) * [2.0, 2.0, 3.0]) ** 2).sum(axis=-1)
    return np.asarray(far <= radius_mm**2, dtype=np.bool_)


def head(noise: float = 20.0) -> tuple[Volume, Volume]:
    """Brain 1000 with a fluid core of 200 in a dark world, with Rician noise."""
    centre = (40.0, 45.0, 26.0)
    brain = ball(centre, 62.0)
    signal = brain * 1000.0 - ball(centre, 20.0) * 800.0
    rng = np.random.default_rng(7)
    data = np.hypot(signal + rng.normal(0, noise, SHAPE), rng.normal(0, noise, SHAPE))
    return Volume(data.astype(np.float32), AFFINE), Volume(brain.astype(np.uint8), AFFINE)


def aligned(quality: float = 0.5) -> Registration:
    return Registration(np.eye(4), quality, -1.0)


def test_noise_and_snr_are_what_was_put_in() -> None:
    image, brain = head(noise=25.0)
    tissue, fluid = tissue_and_fluid(image.data, brain.data > 0)
    noise = noise_level(image.data, tissue)
    assert noise == pytest.approx(25.0, rel=0.05)
    assert mean_inside(image.data, tissue) == pytest.approx(1000.0, rel=0.01)
    assert signal_to_noise(mean_inside(image.data, tissue), noise) == pytest.approx(40.0, rel=0.06)
    assert signal_to_noise(mean_inside(image.data, fluid), noise) == pytest.approx(8.0, rel=0.1)


def test_noise_level_is_blind_to_a_ramp() -> None:
    ramp = np.add.outer(np.add.outer(np.arange(40.0), np.arange(50.0)), np.zeros(12))
    inside = np.zeros(ramp.shape, dtype=bool)
    inside[3:-3, 3:-3] = True
    assert noise_level(ramp, inside) == pytest.approx(0.0, abs=1e-4)
    assert noise_level(ramp, np.zeros_like(inside)) is None
    assert signal_to_noise(5.0, 0.0) is None
    assert signal_to_noise(None, 2.0) is None
    empty, _ = tissue_and_fluid(ramp, np.zeros_like(inside))
    assert not empty.any()


@pytest.mark.parametrize("level", [0.5, 5.0, 50.0])
def test_white_noise_is_no_ghost_whatever_its_strength(level: float) -> None:
    image, brain = head(noise=level)
    found = ghosting(image.data, air_mask(image, brain.data > 0), brain.data > 0)
    assert found is not None
    assert found < 0.0005


def test_ghosts_are_found_in_proportion() -> None:
    """Stripes all over the air, as motion during phase encoding makes them."""
    figures = []
    image, brain = head()
    inside = brain.data > 0
    waves = np.sin(np.arange(SHAPE[1]) * 2.0 * np.pi / 9.0)[None, :, None]
    for strength in (40.0, 100.0, 200.0):
        data = (image.data + strength * waves * ~inside).astype(np.float32)
        found = ghosting(data, air_mask(image, inside), inside)
        assert found is not None
        figures.append(found)
    assert figures[0] < figures[1] < figures[2]
    assert figures[1] > 0.003


def test_air_that_was_masked_away_gives_no_figure() -> None:
    image, brain = head()
    masked = image.with_data(np.where(brain.data > 0, image.data, 0))
    air = air_mask(masked, brain.data > 0)
    assert not air.any()
    assert ghosting(masked.data, air, brain.data > 0) is None
    assert not air_mask(image, np.zeros(SHAPE, dtype=bool)).any()


def test_entropy_focus_ends() -> None:
    one = np.zeros((10, 10, 10))
    one[5, 5, 5] = 3.0
    assert entropy_focus(one) == pytest.approx(0.0, abs=1e-12)
    assert entropy_focus(np.full((10, 10, 10), 4.0)) == pytest.approx(1.0)
    assert entropy_focus(np.zeros((4, 4, 4))) is None


def test_slice_jumps_measure_alternating_brightness() -> None:
    data = np.full((40, 40, 20), 100.0)
    data[..., ::2] *= 1.1
    inside = np.ones(data.shape, dtype=bool)
    assert slice_jumps(data, inside, 2) == pytest.approx(10.0 / 105.0, rel=1e-6)
    assert slice_jumps(data, inside, 0) == pytest.approx(0.0)
    assert slice_jumps(data[..., :4], inside[..., :4], 2) is None


def test_slices_lie_across_the_longest_edge() -> None:
    assert slice_axis_of(Volume(np.zeros((2, 2, 2)), np.diag([3.0, 1, 1, 1]))) == 0
    assert slice_axis_of(Volume(np.zeros((2, 2, 2)), np.diag([1.0, 1, 1, 1]))) == 2


def test_thinning_keeps_places() -> None:
    volume = Volume(np.arange(4**3).reshape(4, 4, 4), np.diag([1.0, 1, 4, 1]))
    thin, mask = thinned(volume, volume.data > 20)
    assert thin.shape == mask.shape == (2, 2, 4)
    np.testing.assert_allclose(thin.spacing, (2.0, 2.0, 4.0))
    assert thin.data[1, 1, 1] == volume.data[2, 2, 1]


def test_border_shares_name_the_side() -> None:
    brain = ball((40.0, 45.0, 59.0), 55.0)
    image = Volume(brain * 100 + np.random.default_rng(0).random(SHAPE), AFFINE)
    shares = border_shares(image, Volume(brain.astype(np.uint8), AFFINE))
    assert shares["top"] == pytest.approx(1.0)
    assert {side for side, share in shares.items() if share > 0} == {"top"}
    padded = np.zeros((*SHAPE[:2], 70), dtype=np.float64)
    padded[..., :60] = image.data
    wide = np.pad(brain, ((0, 0), (0, 0), (0, 10)))
    again = border_shares(Volume(padded, AFFINE), Volume(wide.astype(np.uint8), AFFINE))
    assert again["top"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("axis", "low", "high"), [(0, "right", "left"), (1, "front", "back"), (2, "bottom", "top")]
)
def test_cropping_is_said_with_its_side(axis: int, low: str, high: str) -> None:
    for place, side in ((0.0, low), (SHAPE[axis] - 1.0, high)):
        centre = [40.0, 45.0, 30.0]
        centre[axis] = place
        brain = ball((centre[0], centre[1], centre[2]), 60.0)
        image = Volume(brain * 100 + np.random.default_rng(0).random(SHAPE), AFFINE)
        findings = check_geometry(image, None, Volume(brain.astype(np.uint8), AFFINE))
        assert {f.decision for f in findings} == {"fail"}
        words = [f.words for f in findings]
        assert any(f"cropped: it cuts the brain at the {side}" in word for word in words)
        heads = [word for word in words if "cuts the head" in word]
        assert len(heads) == (side in ("top", "left", "right"))
        assert all(f"at the {side} (" in word for word in heads)


def test_a_complete_head_is_not_cropped() -> None:
    image, brain = head()
    assert check_geometry(image, None, brain) == []
    assert max(head_shares(image).values()) == 0.0
    assert set(head_shares(image.with_data(np.zeros(SHAPE))).values()) == {0.0}


def test_geometry_against_a_protocol() -> None:
    good = Volume(np.zeros((160, 192, 160), np.uint8), np.diag([1.0, 1.0, 1.0, 1.0]))
    assert check_geometry(good, Protocol(spacing_mm=(1.0, 1.05, 1.0))) == []
    other = check_geometry(good, Protocol(spacing_mm=(0.9, 0.9, 1.2)))
    assert [f.decision for f in other] == ["review"]
    assert "protocol" in other[0].words
    few = Volume(np.zeros((160, 192, 8), np.uint8), np.diag([1.0, 1.0, 9.0, 1.0]))
    words = " ".join(f.words for f in check_geometry(few))
    assert "outside of the allowed" in words
    assert "at least 12" in words
    small = Volume(np.zeros((90, 90, 90), np.uint8), np.diag([0.5, 0.5, 0.5, 1.0]))
    assert "field of view is 45" in check_geometry(small)[0].words
    coarse = Volume(np.zeros((70, 70, 40), np.uint8), np.diag([3.0, 3.0, 3.0, 1.0]))
    assert "coarser in plane" in check_geometry(coarse)[0].words
    flat = Volume(np.zeros((400, 400, 30), np.uint8), np.diag([0.5, 0.5, 6.0, 1.0]))
    assert "longer than wide" in check_geometry(flat)[0].words


def pair(
    image: Volume, brain: Volume, other: Volume, found: Registration | None = None
) -> QcReport:
    """The report of one image as FLAIR and as T1, with two masks."""
    return check_quality(
        [
            ImageInput("flair", image, brain),
            ImageInput("t1w", image, other, registration=found or aligned()),
        ]
    )


def test_a_good_pair_passes() -> None:
    flair, brain = head()
    report = pair(flair, brain, brain)
    assert report.decision == "pass", report.reasons
    assert report.reasons == ()
    assert report.findings == ()
    assert report.value("brain_volume_agreement") == 1.0
    assert report.value("brain_overlap") == 1.0
    assert report.value("flair_brain_volume") == pytest.approx(4 / 3 * np.pi * 6.2**3, rel=0.02)
    assert all(metric.unit for metric in report.metrics)
    assert len({metric.name for metric in report.metrics}) == len(report.metrics)
    judged = {metric.name: metric.verdict for metric in report.metrics if metric.threshold}
    assert judged["flair_snr"] == judged["brain_overlap"] == judged["t1w_border_top"] == "pass"
    with pytest.raises(KeyError):
        report.value("nothing")


def test_disagreeing_masks_and_bad_registrations_fail() -> None:
    flair, brain = head()
    smaller = Volume(ball((40.0, 45.0, 26.0), 50.0).astype(np.uint8), AFFINE)
    report = pair(flair, brain, smaller, aligned(0.05))
    assert report.decision == "fail"
    expected = 50.0**3 / 62.0**3
    assert report.value("brain_volume_agreement") == pytest.approx(expected, rel=0.03)
    failed = {found.metric for found in report.findings if found.decision == "fail"}
    assert {"brain_volume_agreement", "registration_quality"} <= failed
    verdicts = {metric.name: metric.verdict for metric in report.metrics}
    assert verdicts["registration_quality"] == "fail"
    assert report.reasons == tuple(found.words for found in report.findings)
    nothing = brain.with_data(np.zeros(SHAPE, np.uint8))
    empty = pair(flair, brain, nothing)
    assert empty.value("brain_overlap") == 0.0
    assert empty.decision == "fail"


def test_only_one_image_is_judged_by_itself() -> None:
    flair, brain = head()
    report = check_quality([ImageInput("t1w", flair, brain, head=0.4)])
    assert {m.name.split("_")[0] for m in report.metrics} == {"t1w"}
    assert report.decision == "review"
    assert report.reasons[0].startswith("the T1 does not look like a whole head")
    assert check_quality([]).decision == "pass"


def test_other_modalities_are_measured_and_named() -> None:
    flair, brain = head()
    report = check_quality(
        [
            ImageInput("flair", flair, brain),
            ImageInput("t2w", flair, brain, registration=aligned(0.05)),
        ]
    )
    assert report.value("t2w_registration_quality") == 0.05
    assert "the registration of T2 to the reference is doubtful" in report.reasons[0]
    assert report.value("t2w_snr") is not None


def test_bounds_decide_in_their_direction_and_can_be_switched_off() -> None:
    bounds = {"t1w_snr": (10.0, 5.0), "flair_ghosting": (0.01, 0.02)}
    good = [
        Metric("t1w_snr", 11.0, "ratio", "higher"),
        Metric("flair_ghosting", 0.005, "share", "lower"),
        Metric("t1w_ghosting", None, "share", "lower"),
        Metric("unknown", 1.0, "1", "none"),
    ]
    judged, findings = judge_metrics(good, bounds)
    assert findings == []
    assert [metric.verdict for metric in judged] == ["pass", "pass", None, None]
    assert judged[0].threshold == (10.0, 5.0)
    bad = [
        Metric("t1w_snr", 7.0, "ratio", "higher"),
        Metric("flair_ghosting", 0.03, "share", "lower"),
    ]
    assert [found.decision for found in judge_metrics(bad, bounds)[1]] == ["review", "fail"]
    off = {"t1w_snr": (None, None), "flair_ghosting": (None, None)}
    judged, findings = judge_metrics(bad, off)
    assert findings == []
    assert [metric.verdict for metric in judged] == [None, None]


def test_a_declared_protocol_is_compared_whatever_the_order_of_axes() -> None:
    flair, brain = head()
    close = Protocol(spacing_mm=(3.05, 2.0, 2.0))
    report = check_quality([ImageInput("flair", flair, brain, protocol=close)])
    assert report.value("flair_spacing_gap") == pytest.approx(0.05)
    assert report.decision == "pass"
    strict = Protocol(spacing_mm=(1.0, 1.0, 1.0), mismatch="fail")
    report = check_quality([ImageInput("flair", flair, brain, protocol=strict)])
    assert report.decision == "fail"
    assert "differ from the protocol's 1.00 x 1.00 x 1.00 mm" in report.reasons[0]
    own = {"flair_spacing_gap": (3.0, None)}
    report = check_quality([ImageInput("flair", flair, brain, protocol=strict)], own)
    assert report.decision == "pass"


def test_where_no_head_is_expected_nothing_is_said_of_one() -> None:
    image = Volume(np.random.default_rng(1).random((40, 40, 6)), np.diag([0.5, 0.5, 3.0, 1.0]))
    loose = Protocol(matrix=(3, 16, 16), extent_mm=(3, 16, 16), head=False)
    report = check_quality([ImageInput("t2w", image, protocol=loose)])
    assert report.decision == "pass"
    assert not any("head" in metric.name or "border" in metric.name for metric in report.metrics)
    assert [found.decision for found in check_grid(image)] == ["fail", "fail"]


def test_a_label_outside_the_brain_is_found() -> None:
    flair, brain = head()
    inside = Volume(ball((40.0, 45.0, 26.0), 12.0).astype(np.uint8), AFFINE)
    outside = Volume(ball((4.0, 4.0, 4.0), 6.0).astype(np.uint8), AFFINE)
    images = [ImageInput("flair", flair, brain)]
    good = check_quality(images, extra=label_figures(inside, brain))
    assert good.decision == "pass"
    assert good.value("label_lesions") == 1
    assert good.value("label_volume_ml") == pytest.approx(4 / 3 * np.pi * 1.2**3, rel=0.1)
    bad = check_quality(images, extra=label_figures(outside, brain))
    assert bad.decision == "fail"
    assert bad.reasons[0].startswith("the label lies outside the brain: label_outside_brain is 1")
    elsewhere = label_figures(outside, Volume(np.ones((2, 2, 2)), np.eye(4)))
    assert "label_outside_brain" not in {metric.name for metric in elsewhere}
