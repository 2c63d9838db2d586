"""Fictitious people: distinct, rare, and silent in repr."""

from __future__ import annotations

import numpy as np
import pytest

from appliance.demo.phantom import STYLES
from appliance.demo.phantom.identity import (
    FAMILY,
    GIVEN_F,
    GIVEN_M,
    INSTITUTIONS,
    PHYSICIANS,
    Identity,
    make_identity,
)


def identity(style: str, index: int, seed: int = 0) -> Identity:
    rng = np.random.default_rng([seed, index])
    return make_identity(rng, style=style, index=index, station_prefix="XX")


def test_names_are_distinct_and_long_enough_for_a_byte_search() -> None:
    names = [*FAMILY, *GIVEN_F, *GIVEN_M, *PHYSICIANS]
    assert len({n.casefold() for n in names}) == len(names)
    assert min(len(n) for n in names) >= 6
    assert not any(a != b and a.casefold() in b.casefold() for a in names for b in names)


def test_no_two_patients_of_the_demonstration_share_a_name_or_number() -> None:
    people = [identity(style, index) for style in STYLES for index in range(14)]
    assert len({p.patient_name for p in people}) == len(people)
    assert len({p.patient_id for p in people}) == len(people)
    assert len({p.accession for p in people}) == len(people)


@pytest.mark.parametrize("style", sorted(STYLES))
def test_every_planted_string_can_be_searched(style: str) -> None:
    who = identity(style, 3)
    kinds = who.planted
    assert set(kinds) == {"names", "ids", "dates", "others"}
    for values in kinds.values():
        assert all(len(v) >= 6 for v in values)
        assert len(set(values)) == len(values)
    assert INSTITUTIONS[style][0] in kinds["others"]


def test_age_birth_date_and_study_date_agree() -> None:
    for index in range(40):
        who = identity("ge", index)
        years = (who.acquired.date() - who.birth_date).days / 365.25
        assert who.age_years <= years < who.age_years + 1.1


def test_repr_shows_nothing() -> None:
    who = identity("siemens", 1)
    shown = repr(who)
    for values in who.planted.values():
        assert not any(v in shown for v in values)
