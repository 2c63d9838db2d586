"""Fingerprints: merging is exact whatever the order, and no single patient shows."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.errors import FingerprintRefused
from federation.fingerprint import (
    MAX_BYTES,
    UNITS_PER_HU,
    CaseFigures,
    Fingerprint,
    Rules,
    figures,
    make_fingerprint,
    merge,
)

OPEN = Rules(minimum_patients=1, intensity_step=1, spacing_step_um=1, shape_step=1)
STEPS = st.sampled_from([1, 2, 4, 8, 16, 32, 64])

intensities = st.dictionaries(
    st.integers(-1100 * UNITS_PER_HU, 3000 * UNITS_PER_HU), st.integers(1, 10**6), max_size=8
)


def case(
    patient: str,
    values: dict[int, int] | None = None,
    *,
    spacing: float = 1.0,
    shape: int = 160,
    modality: str = "CT",
) -> CaseFigures:
    return CaseFigures(patient, modality, (spacing,) * 3, (shape,) * 3, values)


cases = st.lists(
    st.builds(
        case,
        patient=st.sampled_from([f"p{n}" for n in range(9)]),
        values=intensities,
        spacing=st.floats(0.3, 6.0),
        shape=st.integers(1, 512),
        modality=st.just("CT"),
    ),
    min_size=1,
    max_size=12,
)
site_rules = st.builds(
    Rules,
    spacing_step_um=st.sampled_from([1, 10, 50, 100]),
    shape_step=st.sampled_from([1, 4, 8]),
    intensity_step=STEPS,
    minimum_patients=st.integers(1, 4),
    count_step=st.sampled_from([1, 5]),
)
prints = st.builds(make_fingerprint, cases, site_rules)


def split(given_cases: Sequence[CaseFigures], parts: int) -> list[list[CaseFigures]]:
    """Sites by patient: a patient is at one site."""
    found: list[list[CaseFigures]] = [[] for _ in range(parts)]
    for item in given_cases:
        found[int(item.patient[1:]) % parts].append(item)
    return [part for part in found if part]


@settings(deadline=None, max_examples=40)
@given(st.lists(prints, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_the_order_and_the_grouping_change_no_bit(
    sites: list[Fingerprint], random: st.DataObject
) -> None:
    whole = merge(sites).to_json()
    shuffled = list(sites)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert merge(shuffled).to_json() == whole
    cut = len(sites) // 2
    grouped = [merge(part) for part in (shuffled[:cut], shuffled[cut:]) if part]
    assert merge(grouped).to_json() == whole
    folded = shuffled[0]
    for site in shuffled[1:]:
        folded = merge([folded, site])
    assert folded.to_json() == whole


@settings(deadline=None, max_examples=40)
@given(cases, st.integers(1, 4), STEPS)
def test_merged_sites_are_the_pooled_data(
    everybody: list[CaseFigures], parts: int, step: int
) -> None:
    rules = replace(OPEN, intensity_step=step)
    merged = merge(make_fingerprint(part, rules) for part in split(everybody, parts))
    pooled = make_fingerprint(everybody, rules)
    ignored = {"sites", "cases"}  # cases: the most images of one modality, a sum over sites
    assert merged.model_dump(exclude=ignored) == pooled.model_dump(exclude=ignored)
    assert merged.cases == pooled.cases


@settings(deadline=None, max_examples=40)
@given(cases)
def test_moments_are_those_of_the_voxels(everybody: list[CaseFigures]) -> None:
    found = make_fingerprint(everybody, OPEN).channels["CT"].intensities
    voxels = [(v, n) for c in everybody for v, n in (c.intensities or {}).items()]
    if not voxels:
        assert found is None
        return
    assert found is not None
    number = sum(n for _, n in voxels)
    mean = Fraction(sum(v * n for v, n in voxels), number)
    variance = sum((v - mean) ** 2 * n for v, n in voxels) / number
    assert found.mean == float(mean / UNITS_PER_HU)
    assert found.variance == float(variance / UNITS_PER_HU**2)


def test_numpy_agrees() -> None:
    random = np.random.default_rng(3)
    values = random.normal(40.0, 300.0, 60_000).round(4).clip(-1000, 3000)
    units, counts = np.unique(np.rint(values * UNITS_PER_HU).astype(int), return_counts=True)
    one = case("p1", dict(zip(units.tolist(), counts.tolist(), strict=True)))
    found = make_fingerprint([one], replace(OPEN, intensity_step=2)).channels["CT"].intensities
    assert found is not None
    quantised = np.repeat(units, counts) / UNITS_PER_HU
    assert found.mean == pytest.approx(float(quantised.mean()), rel=1e-12)
    assert math.sqrt(found.variance) == pytest.approx(float(quantised.std()), rel=1e-12)
    for percent in (0.5, 50.0, 99.5):
        expected = float(np.percentile(quantised, percent))
        assert found.percentile(percent) == pytest.approx(expected, abs=2.0)


def pairwise(first: tuple[float, float], second: tuple[float, float]) -> tuple[float, float]:
    """How a known platform merges two sites: means of means and of standard deviations."""
    return (first[0] + second[0]) / 2, (first[1] + second[1]) / 2


def test_the_known_mistake_is_not_ours() -> None:
    """Merging (mean, SD) pair by pair is wrong and depends on the order; adding sums is neither."""
    site_values = ([0] * 90 + [160] * 10, [1600] * 50 + [3200] * 50, [16000] * 7 + [16] * 3)
    sites = [
        make_fingerprint([case(f"p{n}", {v: values.count(v) for v in set(values)})], OPEN)
        for n, values in enumerate(site_values)
    ]
    pooled = [value / UNITS_PER_HU for values in site_values for value in values]
    truth = statistics.fmean(pooled), statistics.pstdev(pooled)
    theirs, ours = set(), set()
    for order in itertools.permutations(sites):
        scales = [site.channels["CT"].intensities for site in order]
        simple = [(s.mean, math.sqrt(s.variance)) for s in scales if s is not None]
        theirs.add(pairwise(pairwise(simple[0], simple[1]), simple[2]))
        merged = merge([merge(order[:2]), order[2]]).channels["CT"].intensities
        assert merged is not None
        ours.add((merged.mean, math.sqrt(merged.variance)))
    assert len(theirs) == 3  # order-dependent
    assert all(abs(sd - truth[1]) > 10 for _, sd in theirs)  # and wrong
    ((mean, sd),) = ours
    assert mean == pytest.approx(truth[0], rel=1e-14)
    assert sd == pytest.approx(truth[1], rel=1e-14)


def patients_behind(everybody: Sequence[CaseFigures], low: int, width: int) -> int:
    return len(
        {c.patient for c in everybody if any(low <= v < low + width for v in c.intensities or {})}
    )


@settings(deadline=None, max_examples=40)
@given(cases, st.integers(2, 4), STEPS)
def test_no_figure_stands_for_fewer_patients(
    everybody: list[CaseFigures], minimum: int, step: int
) -> None:
    rules = Rules(minimum_patients=minimum, intensity_step=step)
    found = make_fingerprint(everybody, rules)
    patients = {c.patient for c in everybody}
    if len(patients) < minimum:
        assert (found.patients, found.cases, found.channels) == (0, 0, {})
        return
    channel = found.channels["CT"]
    for axis in range(3):
        for value, count in channel.spacing_um[axis]:
            near = {
                c.patient
                for c in everybody
                if abs(c.spacing_mm[axis] * 1000 - value) <= rules.spacing_step_um / 2 + 1
            }
            assert len(near) >= minimum
            assert count >= minimum
    if channel.intensities is not None:
        width = step * UNITS_PER_HU
        for number, _ in channel.intensities.bins:
            assert patients_behind(everybody, number * width, width) >= minimum


@settings(deadline=None, max_examples=40)
@given(cases, st.integers(2000, 30_000), st.integers(1, 10**6), STEPS)
def test_one_patients_outlier_is_invisible(
    everybody: list[CaseFigures], extreme: int, voxels: int, step: int
) -> None:
    """An implant: voxels that nobody else has change no byte."""
    rules = Rules(minimum_patients=2, intensity_step=step)
    plain = [replace(c, intensities=_below(c, 1900)) for c in everybody]
    first = plain[0]
    implant = {**(first.intensities or {}), extreme * UNITS_PER_HU: voxels}
    outlier = [replace(first, intensities=implant), *plain[1:]]
    assert make_fingerprint(outlier, rules) == make_fingerprint(plain, rules)


def _below(figure: CaseFigures, limit: int) -> dict[int, int]:
    return {v: n for v, n in (figure.intensities or {}).items() if v < limit * UNITS_PER_HU}


def test_one_patients_odd_spacing_and_shape_are_left_out() -> None:
    usual = [case(f"p{n}") for n in range(5)]
    odd = [*usual, case("p9", spacing=5.5, shape=400)]
    rules = Rules(minimum_patients=2)
    found = make_fingerprint(odd, rules).channels["CT"]
    assert found == make_fingerprint(usual, rules).channels["CT"]
    assert found.spacing_um[0] == ((1000, 5),)
    assert found.shape[0] == ((160, 5),)
    twice = make_fingerprint([*usual, *[case("p9", spacing=5.5)] * 4], rules).channels["CT"]
    assert twice.spacing_um[0] == ((1000, 5),)  # four visits are one patient


def test_sites_of_different_steps_meet_on_the_coarsest() -> None:
    fine = make_fingerprint([case("p1", {-1: 3, 0: 1, 17: 2})], replace(OPEN, intensity_step=1))
    coarse = make_fingerprint([case("p2", {0: 5})], replace(OPEN, intensity_step=64))
    merged = merge([fine, coarse]).channels["CT"].intensities
    assert merged is not None
    assert (merged.step, merged.bins) == (64, ((-1, 3), (0, 8)))
    assert merged.voxels == "11"


def test_mr_has_no_scale() -> None:
    found = make_fingerprint([case("p1", modality="FLAIR")], OPEN)
    assert found.channels["FLAIR"].intensities is None
    with pytest.raises(ValueError, match="only CT"):
        make_fingerprint([case("p1", {0: 1}, modality="FLAIR")], OPEN)


def test_figures_for_people() -> None:
    shown = figures(
        make_fingerprint([case("p1", {160: 1}), case("p2", {320: 1}, spacing=2.0)], OPEN)
    )
    assert shown["channels"] == {
        "CT": {
            "spacing_mm": [1.5, 1.5, 1.5],
            "shape": [160.0, 160.0, 160.0],
            "intensity_hu": {
                "voxels": 2,
                "mean": 15.0,
                "sd": 5.0,
                "p0.5": 10.01,
                "p50": 11.0,
                "p99.5": 20.99,
            },
        }
    }
    hidden = figures(
        make_fingerprint([case("p1", spacing=2.0), case("p2")], Rules(minimum_patients=2))
    )
    assert hidden["channels"]["CT"]["spacing_mm"] == [None] * 3  # type: ignore[call-overload, index]


@given(prints)
@settings(deadline=None, max_examples=40)
def test_what_travels_comes_back(found: Fingerprint) -> None:
    raw = found.to_json()
    assert Fingerprint.from_json(raw) == found
    for patient in range(9):
        assert f'"p{patient}"'.encode() not in raw


GOOD = make_fingerprint([case("p1", {160: 3, 320: 1})], OPEN)


def changed(**changes: object) -> bytes:
    document = json.loads(GOOD.to_json())
    for path, value in changes.items():
        holder, keys = document, path.split("__")
        for key in keys[:-1]:
            holder = holder[key]
        holder[keys[-1]] = value
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


HOSTILE = [
    b"",
    b"[]",
    b"null",
    b'{"format":1}',
    b"{" * 1000,
    b" " * (MAX_BYTES + 1),
    GOOD.to_json() + b" ",
    GOOD.to_json().replace(b'"sites":1', b'"sites":1,"sites":1'),
    changed(format=2),
    changed(extra=1),
    changed(sites=0),
    changed(sites=True),
    changed(sites=1.5),
    changed(patients=-1),
    changed(patients=10**12),
    changed(minimum_patients=0),
    changed(channels__PET={}),
    changed(channels__FLAIR=json.loads(GOOD.to_json())["channels"]["CT"]),
    changed(channels__CT__shape=[[[8, 1]], [[8, 1]]]),
    changed(channels__CT__shape=[[[8, 1]], [[8, 1]], [[8, 0]]]),
    changed(channels__CT__shape=[[[8, 1]], [[8, 1]], [[16, 1], [8, 1]]]),
    changed(channels__CT__shape=[[[8, 1]], [[8, 1]], [[0, 1]]]),
    changed(channels__CT__shape=[[[n, 1] for n in range(1, 5000)]] * 3),
    changed(channels__CT__intensities__step=3),
    changed(channels__CT__intensities__voxels="5"),
    changed(channels__CT__intensities__voxels="4e0"),
    changed(channels__CT__intensities__total="999999"),
    changed(channels__CT__intensities__squares="1"),
    changed(channels__CT__intensities__squares="9" * 41),
    changed(channels__CT__intensities__squares=float("inf")),
]


@pytest.mark.parametrize("raw", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_fingerprints_are_refused(raw: bytes) -> None:
    with pytest.raises(FingerprintRefused):
        Fingerprint.from_json(raw)


@given(st.binary(max_size=200))
def test_any_bytes(raw: bytes) -> None:
    with pytest.raises(FingerprintRefused):
        Fingerprint.from_json(raw)


def test_nothing_to_merge_and_too_much() -> None:
    with pytest.raises(FingerprintRefused, match="at least one"):
        merge([])
    with pytest.raises(FingerprintRefused, match="exceeds"):
        merge([GOOD.model_copy(update={"patients": 10**9})] * 2)


@pytest.mark.parametrize(
    "steps", [{"shape_step": 0}, {"intensity_step": 3}, {"minimum_patients": 0}]
)
def test_steps_that_cannot_be_merged(steps: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="steps"):
        Rules(**steps)
