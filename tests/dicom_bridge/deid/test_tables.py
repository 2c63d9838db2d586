"""The standard's tables are whole, and the generated ones are what the generator gives."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from dicom_bridge.deid.rules import compile_rules, sop_classes
from dicom_bridge.deid.table import OPTION_CODES, Option, load_rows, read_table
from dicom_bridge.deid.tables import generate
from dicom_bridge.errors import DataRefused
from tests.dicom_bridge.deid.objects import BASIC
from tests.tools import shared_dir

HERE = Path(generate.__file__).parent


@pytest.mark.integration
def test_the_tables_are_the_generators() -> None:
    assert read_table("iod_attributes.json").decode() == generate.build()
    assert read_table("codes.json").decode() == generate.build_codes()


def test_the_profile_is_the_standards() -> None:
    for name in ("confidentiality_profile_attributes.json", "additions_2024b_to_2026c.json"):
        assert read_table(name) == shared_dir("standard", name).read_bytes()


def test_all_rows_and_columns_are_read() -> None:
    rows = load_rows()
    assert len(rows) == 621 - 4 + 35
    counts = Counter(option for row in rows.values() for option in row.options)
    expected = {
        Option.CLEAN_DESCRIPTORS: 125,
        Option.RETAIN_FULL_DATES: 165,
        Option.RETAIN_MODIFIED_DATES: 165,
        Option.RETAIN_PATIENT_CHARACTERISTICS: 13,
        Option.RETAIN_DEVICE_IDENTITY: 57,
        Option.RETAIN_UIDS: 59,
        Option.RETAIN_INSTITUTION_IDENTITY: 10,
        Option.CLEAN_STRUCTURED_CONTENT: 3,
        Option.CLEAN_GRAPHICS: 1,
    }
    assert {option: counts[option] for option in expected} == expected
    assert set(OPTION_CODES) == set(Option)


def test_every_listed_class_compiles_and_others_are_refused() -> None:
    for sop_class in sop_classes():
        assert 0x00080018 in compile_rules(BASIC, sop_class).rules
    for unknown in ("", "1.2.3"):
        with pytest.raises(DataRefused):
            compile_rules(BASIC, unknown)


def test_licences_name_every_table() -> None:
    text = read_table("licences.json").decode()
    for path in HERE.glob("*.json"):
        if path.name not in ("licences.json", "vocabulary.json"):
            assert path.name in text
