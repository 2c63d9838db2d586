from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.sr._concepts_dict import concepts

from dicom_bridge.errors import SegRefused
from dicom_bridge.seg import Code, SegmentSpec, labels_of, load_labels, parse_labels
from dicom_bridge.seg.codes import SCHEMES, labels_toml, parse_code

OWN = {
    "value": 3,
    "name": "Own thing",
    "category": "SCT:49755003:Morphologically abnormal structure",
    "type": {"value": "X1", "scheme": "99SITE", "meaning": "Own thing"},
    "colour": [1, 2, 3],
}


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_known_sets_are_whole_and_numbered_without_gaps(scheme: str) -> None:
    labels = labels_of(scheme)
    assert [label.number for label in labels] == list(range(1, len(labels) + 1))
    assert len({label.colour for label in labels}) == len(labels)


def test_known_codes_that_the_dictionary_has_mean_the_same_there() -> None:
    known = {
        (scheme, value)
        for scheme, entries in concepts.items()
        for values in entries.values()
        for value in values
    }
    used = {
        (code.scheme, code.value)
        for labels in SCHEMES.values()
        for label in labels
        for code in (label.category, label.type, label.region, label.finding)
        if code is not None
    }
    assert used - known == set()


def test_a_projects_own_triplets() -> None:
    (label,) = parse_labels([OWN])
    assert label.type == Code("X1", "99SITE", "Own thing")
    assert label.colour == (1, 2, 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"type": {"value": "X1", "scheme": "", "meaning": "m"}}, "label 3, type: .*scheme"),
        ({"type": {"value": "X1", "scheme": "99SITE", "meaning": " "}}, "meaning"),
        ({"type": {"scheme": "99SITE", "meaning": "m"}}, "needs a value"),
        ({"type": "99SITE:X1"}, "scheme:value:meaning"),
        ({"type": 5}, "table"),
        ({"type": {"value": "V" * 17, "scheme": "S", "meaning": "m"}}, "16 characters"),
        ({"value": 0}, "1 to 255"),
        ({"value": True}, "1 to 255"),
        ({"name": " "}, "no name"),
        ({"colour": [1, 2]}, "colour"),
        ({"colour": [1, 2, 256]}, "colour"),
        ({"algorithm_type": "magic"}, "algorithm_type"),
        ({"color": [1, 2, 3]}, "nobody knows: color"),
    ],
)
def test_wrong_labels_are_refused_in_words(change: dict[str, object], words: str) -> None:
    with pytest.raises(SegRefused, match=words):
        parse_labels([{**OWN, **change}])


def test_no_label_and_two_of_a_value_are_refused() -> None:
    with pytest.raises(SegRefused, match="at least one"):
        parse_labels([])
    with pytest.raises(SegRefused, match="same value"):
        parse_labels([OWN, OWN])
    with pytest.raises(SegRefused, match="glioma-regions"):
        labels_of("liver")


def test_a_labels_file_there_and_back(tmp_path: Path) -> None:
    labels = (
        *SCHEMES["glioma-regions"],
        SegmentSpec(
            9,
            'Quo"te \\ and ä',
            algorithm_type="MANUAL",
            tracking_id="a 1",
            tracking_uid="2.25.1",
            finding=parse_code("DCM:110702:White Matter T2 Hyperintensity", "x"),
        ),
    )
    path = tmp_path / "labels.toml"
    path.write_text(labels_toml(labels), encoding="utf-8")
    assert load_labels(path) == labels


@pytest.mark.parametrize("text", ["label = 3", "[[label]\n", "x = 1", "\x00"])
def test_unusable_files(tmp_path: Path, text: str) -> None:
    path = tmp_path / "labels.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SegRefused, match="labels file"):
        load_labels(path)
    with pytest.raises(SegRefused, match="cannot be read"):
        load_labels(tmp_path / "absent.toml")
