"""The search of outputs finds what is there, in every spelling, and raises no false alarm."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dicom_bridge.deid import Identifiers, residual_search
from dicom_bridge.deid.residual import date_spellings
from tests.dicom_bridge.deid.objects import mr_image

WANTED = Identifiers.from_datasets([mr_image()]) | Identifiers(
    names=frozenset({"muller", "lee"}), ids=frozenset({"4711"})
)


def _plain(text: str) -> bytes:
    return json.dumps({"note": text}, ensure_ascii=False).encode()


def _latin(text: str) -> bytes:
    return text.encode("latin-1", "replace")


def _wide(text: str) -> bytes:
    return b"\0\1\2" + text.encode("utf-16-le")


def _marked_wide(text: str) -> bytes:
    return text.encode("utf-16")


def _zipped(text: str) -> bytes:
    return gzip.compress(b"\0" * 100 + text.encode() + bytes(range(256)))


def _base64(text: str) -> bytes:
    return b"data:" + base64.b64encode(b"some words before " + text.encode() + b" and after")


def _base64_lines(text: str) -> bytes:
    return base64.encodebytes(b"x" * 70 + text.encode())


def _binary(text: str) -> bytes:
    return np.random.default_rng(2).bytes(90000) + text.encode() + b"\0"


FORMS = (_plain, _latin, _wide, _marked_wide, _zipped, _base64, _base64_lines, _binary)


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("value", ["Zykowiak", "ZYKOWIAK", "acc998877", "Hospital of Plant"])
def test_a_leak_planted_on_purpose_is_found(
    tmp_path: Path, form: Callable[[str], bytes], value: str
) -> None:
    (tmp_path / "clean.bin").write_bytes(form("nothing here"))
    (tmp_path / "leak.bin").write_bytes(form(value))
    hits = residual_search([tmp_path], WANTED)
    assert {hit.path.name for hit in hits} == {"leak.bin"}
    assert value.lower() not in repr(hits).lower()


@pytest.mark.parametrize(
    "text",
    [
        *("born 1964-02-29.", "29.02.1964", "02/29/1964", "29 Feb 1964", "19640229101112x"),
        *("Mrs. Lee", "MÜLLER came", "Mu\u0308ller", "pat-7731", "id=4711;"),
    ],
)
def test_other_spellings_are_found(tmp_path: Path, text: str) -> None:
    (tmp_path / "notes.txt").write_text(text.replace("101112x", " x"), encoding="utf-8")
    assert residual_search([tmp_path], WANTED)


@pytest.mark.parametrize(
    "text",
    ["she was asleep", "fleece", "3.14711", "147110", "1964022", "2.25.8471123", "muffle"],
)
def test_parts_of_other_words_and_numbers_are_no_hits(tmp_path: Path, text: str) -> None:
    (tmp_path / "notes.txt").write_text(text)
    (tmp_path / "notes.bin").write_bytes(b"\0\1" + text.encode() + b"\0")
    assert residual_search([tmp_path], WANTED) == []


def test_names_of_files_and_folders_are_searched(tmp_path: Path) -> None:
    (tmp_path / "zykowiak_eve").mkdir()
    (tmp_path / "zykowiak_eve" / "a.txt").write_text("clean")
    assert {hit.view for hit in residual_search([tmp_path], WANTED)} == {"name of the file"}


def test_noise_gives_no_hit_and_a_technical_name_none_either(tmp_path: Path) -> None:
    (tmp_path / "noise.bin").write_bytes(np.random.default_rng(5).bytes(4_000_000))
    (tmp_path / "sidecar.json").write_text('{"BodyPart": "BRAIN"}')
    assert residual_search([tmp_path], WANTED | Identifiers(names=frozenset({"brain"}))) == []


def test_identifiers_are_collected_from_headers_and_masked() -> None:
    assert "zykowiak" in WANTED.names
    assert "quitschmann" in WANTED.names
    assert {"acc998877", "pat-7731"} <= WANTED.ids
    assert {"19640229", "20210305"} <= WANTED.dates
    assert "hospital of plant" in WANTED.others
    assert "zykowiak" not in repr(WANTED)


def test_odd_dates_are_looked_for_as_they_are() -> None:
    assert date_spellings("1964") == ("1964",)
    assert "feb 9, 1964" in date_spellings("19640209")
