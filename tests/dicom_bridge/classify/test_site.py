"""A site's own names: before the description, not before physics; bounded; never repeated."""

from __future__ import annotations

import time

import pytest
from pydicom.dataset import Dataset

from dicom_bridge.classify import NameAttribute, SeriesKind, SiteName, classify_series
from dicom_bridge.classify.site import MAX_PATTERN
from tests.dicom_bridge.classify.test_rules import IR, SE, header, mr

K = SeriesKind
N = NameAttribute
PLANTED = "Zzyzx^Private"


def rule(
    pattern: str, kind: SeriesKind, attribute: NameAttribute = N.SERIES_DESCRIPTION
) -> SiteName:
    return SiteName(pattern, attribute, kind)


def flair(**values: object) -> Dataset:
    return mr(90, 9000, 2500, ScanningSequence=IR, **values)


DECIDED = [
    # header, rules, kind, at least, at most
    (flair(SeriesDescription="H7 brain"), [rule("h7*", K.FLAIR)], K.FLAIR, 0.95, 1),
    (flair(SeriesDescription="T1 thing"), [rule("t1 thing", K.FLAIR)], K.FLAIR, 0.95, 1),
    (header(SeriesDescription="H7 brain"), [rule("h7*", K.FLAIR)], K.FLAIR, 0.9, 0.9),
    (flair(SeriesDescription="H7"), [rule("h7", K.T1W)], K.T1W, 0, 0.59),
    (flair(SeriesDescription="H7"), [rule("h7", K.IGNORED)], K.IGNORED, 1, 1),
    (flair(SeriesDescription="H7"), [rule("h7", K.LOCALISER)], K.LOCALISER, 0.9, 0.9),
    (flair(ProtocolName="a"), [rule("a", K.OTHER, N.PROTOCOL_NAME)], K.OTHER, 0.9, 0.9),
    (flair(SequenceName="*x"), [rule("[*]x", K.OTHER, N.SEQUENCE_NAME)], K.OTHER, 0.9, 0.9),
    (flair(PulseSequenceName="y"), [rule("y", K.OTHER, N.SEQUENCE_NAME)], K.OTHER, 0.9, 0.9),
    (flair(SeriesDescription="H7"), [rule("h8", K.T1W)], K.FLAIR, 0.9, 0.9),
    (
        flair(SeriesDescription="H7"),
        [rule("h?", K.IGNORED), rule("*", K.T1W)],
        *(K.IGNORED, 1, 1),
    ),
    (
        flair(SeriesDescription="H7", ImageType=["DERIVED", "SECONDARY", "MPR"]),
        [rule("h7", K.FLAIR)],
        *(K.FLAIR, 0.7, 0.7),
    ),
    (
        flair(SeriesDescription="H7", ImageType=["DERIVED", "SECONDARY", "MPR"]),
        [rule("h7", K.T2W)],
        *(K.T2W, 0, 0.59),
    ),
    (
        mr(9, 550, None, ScanningSequence=SE, SeriesDescription="k"),
        [rule("k", K.T1W_CE)],
        *(K.T1W_CE, 0.95, 1),
    ),
    (
        mr(9, 550, None, ScanningSequence=SE, SeriesDescription="k", ContrastBolusAgent="NONE"),
        [rule("k", K.T1W_CE)],
        *(K.T1W_CE, 0, 0.59),
    ),
    (
        mr(9, 550, None, ScanningSequence=SE, SeriesDescription="k", ContrastBolusAgent="GD"),
        [rule("k", K.T1W)],
        *(K.T1W, 0, 0.59),
    ),
    (
        mr(25, 40, None, ScanningSequence="GR", SeriesDescription="k"),
        [rule("k", K.SWI)],
        *(K.SWI, 0.9, 0.9),
    ),
]


@pytest.mark.parametrize(("dataset", "names", "kind", "least", "most"), DECIDED)
def test_site_rules(
    dataset: Dataset, names: list[SiteName], kind: SeriesKind, least: float, most: float
) -> None:
    found = classify_series([dataset], names)
    assert found.kind is kind
    assert least <= found.confidence <= most, found


def test_a_contradiction_is_shown_without_the_name() -> None:
    dataset = flair(SeriesDescription=PLANTED)
    found = classify_series([dataset], [rule(f"{PLANTED}*", K.T1W)])
    assert found.rule == "site-name-1-against-fluid-attenuated"
    assert found.remark == "the site's rule against the acquisition, which says FLAIR"
    assert PLANTED not in repr(found)
    assert PLANTED not in repr(rule(PLANTED, K.T1W))


def test_a_site_cannot_rename_objects() -> None:
    seg = header(SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4", Modality="SEG", SeriesDescription="a")
    assert classify_series([seg], [rule("a", K.FLAIR)]).kind is K.SEG
    assert classify_series([seg], [rule("a", K.IGNORED)]).kind is K.IGNORED


def test_patterns_are_bounded_and_cheap() -> None:
    with pytest.raises(ValueError, match="pattern"):
        rule("", K.FLAIR)
    with pytest.raises(ValueError, match="pattern"):
        rule("x" * (MAX_PATTERN + 1), K.FLAIR)
    hostile = rule("*a" * 63 + "*b", K.FLAIR)
    dataset = header()
    dataset.SeriesDescription = "a" * 60_000
    started = time.process_time()
    assert not hostile.matches(dataset)
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize("value", [None, "", ["a", "b"]])
def test_odd_names_match_nothing(value: object) -> None:
    dataset = header()
    dataset.SeriesDescription = value
    assert not rule("a*", K.FLAIR).matches(dataset)


def test_agent_and_its_time() -> None:
    spin = {"ScanningSequence": SE, "ContrastBolusAgent": "GD"}
    later = mr(9, 550, None, AcquisitionTime="101500", ContrastBolusStartTime="103000", **spin)
    assert classify_series([later]).kind is K.T1W
    after = mr(9, 550, None, AcquisitionTime="104500", ContrastBolusStartTime="103000", **spin)
    assert classify_series([after]).kind is K.T1W_CE
    before = classify_series([mr(9, 550, None, SeriesDescription="T1 w/o", **spin)])
    assert (before.kind, before.rival) == (K.T1W, K.T1W_CE)
    assert before.confidence < 0.6
    plain = {"ScanningSequence": SE, "SeriesDescription": "T1 post Gd"}
    named = classify_series([mr(9, 550, None, **plain)])
    assert (named.kind, named.confidence) == (K.T1W_CE, 0.7)
    denied = classify_series([mr(9, 550, None, ContrastBolusAgent="NO", **plain)])
    assert denied.confidence < 0.6
