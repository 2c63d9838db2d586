"""Properties over generated data sets."""

from __future__ import annotations

import io
from datetime import date, timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataset import Dataset

from dicom_bridge.deid import Profile, Pseudonymizer, deidentify_bytes
from dicom_bridge.deid.rules import compile_rules
from dicom_bridge.deid.table import OPTION_CODES, Option, load_rows, resolve
from dicom_bridge.deid.values import fold, shift_date
from tests.dicom_bridge.deid.objects import BASIC, MR_IMAGE, file_bytes, mr_image, pseudonymizer

LETTERS = st.text("QXZJKVWYqxzjkvwy", min_size=6, max_size=12)
TEXTS = [
    tag
    for tag in sorted(load_rows())
    if tag >> 16 not in (0, 2)
    and dictionary_has_tag(tag)
    and dictionary_VR(tag) in ("LO", "SH", "PN", "LT", "ST", "UT", "AE")
]
SECRET = st.binary(min_size=16, max_size=40)
SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@given(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=30, unique=True), LETTERS)
@SETTINGS
def test_no_text_attribute_of_the_table_lets_a_name_through(tags: list[int], name: str) -> None:
    ds = mr_image()
    for tag in tags:
        ds.add_new(tag, dictionary_VR(tag), name)
    content = b"".join(deidentify_bytes(file_bytes(ds), BASIC, pseudonymizer()).parts)
    assert name.lower().encode() not in content.lower()


@given(st.sampled_from(sorted(load_rows())), st.sampled_from(["1", "1C", "2", "2C", "3"]))
@settings(max_examples=300, deadline=None)
def test_every_row_resolves_to_an_action_that_its_cell_allows(tag: int, kind: str) -> None:
    row = load_rows()[tag]
    action = resolve(row, frozenset(), kind)
    allowed = set(row.basic.replace("U*", "U").split("/"))
    instead = {("Z", "1"): {"D"}, ("X", "2"): {"Z"}}.get((row.basic, kind[0]), set())
    assert str(action) in allowed | instead
    for option, cell in row.options.items():
        assert resolve(row, frozenset({option}), kind) is cell


@given(SECRET, st.text(max_size=20), st.text(max_size=20), st.text(min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_pseudonyms_are_stable_and_well_formed(
    secret: bytes, issuer: str, number: str, uid: str
) -> None:
    one, again = Pseudonymizer(secret, "p"), Pseudonymizer(secret, "p")
    assert one.patient(issuer, number) == again.patient(issuer, number)
    assert one.patient(issuer, number).isalnum()
    assert one.study_key(uid).startswith("st")
    assert len(one.study_key(uid)) == 14
    offset = one.day_offset(issuer, number)
    assert offset % 7 == 0
    assert -3640 <= offset <= -7


@given(st.from_regex(r"[1-9][0-9]{0,8}(\.[1-9][0-9]{0,8}){1,5}", fullmatch=True))
@settings(max_examples=100, deadline=None)
def test_new_uids_are_valid_and_unlike_the_old(uid: str) -> None:
    new = pseudonymizer().uid(uid)
    assert new != uid
    assert new.startswith("2.25.")
    assert len(new) <= 64
    assert int(new[5:]) < 2**128


@given(st.dates(date(1900, 1, 1), date(2100, 1, 1)), st.integers(-4000, 4000))
def test_a_shift_of_dates_can_be_undone(day: date, days: int) -> None:
    text = day.strftime("%Y%m%d").encode()
    moved = shift_date(text, days).value
    assert moved is not None
    assert moved == (day + timedelta(days=days)).strftime("%Y%m%d").encode()
    assert shift_date(moved, -days).value == text


@given(st.text(max_size=40))
def test_folding_is_idempotent(text: str) -> None:
    assert fold(fold(text)) == fold(text)


def test_every_option_compiles_and_runs() -> None:
    for option in Option:
        if option in (Option.CLEAN_PIXEL_DATA, Option.CLEAN_RECOGNIZABLE_VISUAL_FEATURES):
            continue
        profile = Profile.basic({option})
        assert compile_rules(profile, MR_IMAGE).rules
        parts = deidentify_bytes(file_bytes(mr_image()), profile, pseudonymizer()).parts
        back = dcmread(io.BytesIO(b"".join(parts)))
        assert isinstance(back, Dataset)
        codes = [item.CodeValue for item in back.DeidentificationMethodCodeSequence]
        assert codes in (["113100"], ["113100", OPTION_CODES[option][0]])
