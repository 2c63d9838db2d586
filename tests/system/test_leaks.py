"""The search that the system tests rely on finds what is planted, in every disguise."""

from __future__ import annotations

import base64
import gzip
from pathlib import Path

import pydicom
import pytest

from tests.system.leaks import needles_of, search


def header() -> pydicom.Dataset:
    ds = pydicom.Dataset()
    ds.PatientName = "Quaxelrod^Zephyrine"
    ds.PatientID = "ID-7734411"
    ds.PatientBirthDate = "19610412"
    ds.StudyInstanceUID = "1.2.826.0.1.99.7"
    return ds


PLANTS = {
    "plain": b"log line for QUAXELROD today",
    "name in lower case": b"\x00\x01quaxelrod\xff",
    "utf-16": "Zephyrine".encode("utf-16-le"),
    "gzip": gzip.compress(b"x" * 50 + b"ID-7734411"),
    "base64": b'{"blob": "' + base64.b64encode(b"some text with ID-7734411 inside it") + b'"}',
    "base64 in gzip": gzip.compress(base64.b64encode(b"padding padding 19610412 padding")),
    "gzip in base64": base64.b64encode(gzip.compress(b"padding Zephyrine padding padding")),
    "date with dashes": b"born 1961-04-12.",
    "date and time": b'"taken": "19610412123000.5"',
    "date in a uid": b"study 1.2.826.19610412.7!",
    "uid": b"study 1.2.826.0.1.99.7!",
}


@pytest.mark.parametrize("name", PLANTS)
def test_planted_leak_is_found(tmp_path: Path, name: str) -> None:
    (tmp_path / "file.bin").write_bytes(PLANTS[name])
    assert search([tmp_path], needles_of([header()]))


def test_leak_in_a_file_name_is_found(tmp_path: Path) -> None:
    (tmp_path / "sub-quaxelrod.json").write_bytes(b"{}")
    assert search([tmp_path], needles_of([header()]))


def test_clean_files_have_no_hit(tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text('{"EchoTime": 0.1, "case": "sub-ab12"}', encoding="utf-8")
    (tmp_path / "round.json").write_text('{"mean": 0.6196104122946063}', encoding="utf-8")
    (tmp_path / "image.gz").write_bytes(gzip.compress(bytes(range(256)) * 400))
    assert search([tmp_path], needles_of([header()])) == []
