"""Whole folders: outputs by new UIDs, refusals listed, nothing identifying in the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_bridge.deid import DeidentifyRequest, Identifiers, deidentify_tree, residual_search
from dicom_bridge.errors import SettingsRefused
from tests.dicom_bridge.deid.objects import file_bytes, mr_image, pseudonymizer, write


def fill(folder: Path) -> Path:
    """Two good images, one twice, one with the same UID and another content, and bad ones."""
    inner = folder / "Zykowiak" / "19640229"
    for number in (1, 2):
        write(mr_image(number), inner / f"{number}.dcm")
    write(mr_image(1), inner / "again.dcm")
    other = mr_image(2)
    other.EchoTime = "99"
    write(other, inner / "other.dcm")
    write(mr_image(3), inner / "short.dcm")
    content = (inner / "short.dcm").read_bytes()
    (inner / "short.dcm").write_bytes(content[:-200])
    (inner / "notes.txt").write_text("no DICOM")
    (inner / "link.dcm").symlink_to(inner / "1.dcm")
    return folder


@pytest.mark.parametrize("workers", [1, 2])
def test_a_folder(tmp_path: Path, workers: int) -> None:
    source, out = fill(tmp_path / "in"), tmp_path / "out"
    seen: list[tuple[int, int]] = []
    request = DeidentifyRequest(
        source,
        out,
        pseudonymizer(),
        report=tmp_path / "report.json",
        quarantine=tmp_path / "held",
        workers=workers,
    )
    summary = deidentify_tree(request, lambda done, total: seen.append((done, total)))
    assert (summary.files, summary.written, summary.duplicates) == (6, 2, 1)
    assert len(summary.refused) == 3
    assert seen[-1] == (6, 6)
    files = sorted(p for p in out.rglob("*") if p.is_file())
    assert len(files) == 2
    for path in files:
        ds = dcmread(path)
        assert path.name == f"{ds.SOPInstanceUID}.dcm"
        assert path.parent.name == ds.SeriesInstanceUID
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["series"][0]["instances"] == 2
    assert report["series"][0]["residual_hits"] == 0
    assert {entry["file"] for entry in report["quarantine"]} == {4, 5, 6}
    assert len(list((tmp_path / "held").iterdir())) == 3
    wanted = Identifiers.from_datasets([mr_image()])
    assert residual_search([out, tmp_path / "report.json"], wanted) == []
    assert residual_search([source], wanted)


def test_a_leak_that_the_rules_let_through_is_stopped_by_the_second_pass(tmp_path: Path) -> None:
    ds = mr_image()
    ds.PixelData = b"ZYKOWIAK".ljust(len(ds.PixelData), b"\0")
    ds.BitsStored, ds.HighBit = 16, 15
    write(ds, tmp_path / "in" / "a.dcm")
    request = DeidentifyRequest(tmp_path / "in", tmp_path / "out", pseudonymizer(), workers=1)
    summary = deidentify_tree(request)
    assert summary.written == 0
    assert "identifier was still in the output" in summary.refused[0].reason


def test_one_file_and_wrong_folders(tmp_path: Path) -> None:
    path = tmp_path / "in" / "a.dcm"
    path.parent.mkdir()
    path.write_bytes(file_bytes(mr_image()))
    one = DeidentifyRequest(path, tmp_path / "out", pseudonymizer(), workers=1)
    assert deidentify_tree(one).written == 1
    for source, out, words in (
        (tmp_path / "in", tmp_path / "in" / "out", "in the input"),
        (tmp_path / "in", tmp_path, "in the output folder"),
        (tmp_path / "none", tmp_path / "out", "does not exist"),
    ):
        with pytest.raises(SettingsRefused, match=words):
            deidentify_tree(DeidentifyRequest(source, out, pseudonymizer()))
    wrong = DeidentifyRequest(
        path, tmp_path / "out", pseudonymizer(), quarantine=tmp_path / "out" / "held"
    )
    with pytest.raises(SettingsRefused, match="quarantine"):
        deidentify_tree(wrong)
    with pytest.raises(SettingsRefused, match="at least one process"):
        deidentify_tree(DeidentifyRequest(path, tmp_path / "o", pseudonymizer(), workers=0))
