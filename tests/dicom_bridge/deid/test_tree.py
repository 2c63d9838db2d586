"""Whole folders: outputs by new UIDs, refusals listed, nothing identifying in the report."""

from __future__ import annotations

import json
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_bridge.deid import (
    DeidentifyRequest,
    Identifiers,
    Option,
    Profile,
    deidentify_tree,
    residual_search,
    tree,
)
from dicom_bridge.deid.profile_text import profile_text
from dicom_bridge.errors import DicomBridgeError, SettingsRefused
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
def test_a_folder(tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "BATCH", 1)
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
    assert summary.skipped == {"no DICOM file": 1}
    assert len(summary.refused) == 2
    assert seen[-1] == (6, 6)
    files = sorted(out.rglob("*.dcm"))
    assert len(files) == 2
    for path in files:
        ds = dcmread(path)
        assert path.name == f"{ds.SOPInstanceUID}.dcm"
        assert path.parent.name == ds.SeriesInstanceUID
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["series"][0]["instances"] == 2
    assert report["series"][0]["residual_hits"] == 0
    assert report["kinds"] == {"MR Image": 2}
    assert {entry["file"] for entry in report["quarantine"]} == {5, 6}
    assert {entry["kind"] for entry in report["quarantine"]} == {"MR Image"}
    assert len(list((tmp_path / "held").iterdir())) == 2
    assert not list(out.rglob("*incoming*"))
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


def asked(tmp_path: Path, **changes: object) -> DeidentifyRequest:
    request = DeidentifyRequest(tmp_path / "in", tmp_path / "out", pseudonymizer(), workers=1)
    return replace(request, **changes)  # type: ignore[arg-type]


def digests(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.rglob("*.dcm")}


def test_a_stopped_run_goes_on_and_a_damaged_output_is_made_again(tmp_path: Path) -> None:
    for number in range(1, 6):
        write(mr_image(number), tmp_path / "in" / f"{number}.dcm")

    def stop(done: int, _total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deidentify_tree(asked(tmp_path), stop)
    before = digests(tmp_path / "out")
    assert len(before) == 3
    damaged = sorted((tmp_path / "out").rglob("*.dcm"))[0]
    damaged.write_bytes(b"damaged")
    journal = tmp_path / "out" / ".clinode" / "journal.jsonl"
    with journal.open("ab") as stream:
        stream.write(b'{"source":"torn')
    summary = deidentify_tree(asked(tmp_path))
    assert (summary.written, summary.unchanged) == (3, 2)
    assert summary.series[0].instances == 5
    assert before.items() <= digests(tmp_path / "out").items()
    again = deidentify_tree(asked(tmp_path))
    assert (again.written, again.unchanged, again.series) == (0, 5, summary.series)


def test_without_a_journal_equal_files_are_taken_as_they_are_and_others_are_left(
    tmp_path: Path,
) -> None:
    for number in (1, 2):
        write(mr_image(number), tmp_path / "in" / f"{number}.dcm")
    deidentify_tree(asked(tmp_path))
    (tmp_path / "out" / ".clinode" / "journal.jsonl").unlink()
    other = sorted((tmp_path / "out").rglob("*.dcm"))[0]
    other.write_bytes(b"somebody's")
    summary = deidentify_tree(asked(tmp_path))
    assert (summary.written, summary.unchanged) == (0, 1)
    assert "already holds another file" in summary.refused[0].reason
    assert other.read_bytes() == b"somebody's"


def test_one_folder_never_mixes_keys_or_profiles(tmp_path: Path) -> None:
    write(mr_image(), tmp_path / "in" / "a.dcm")
    deidentify_tree(asked(tmp_path))
    with pytest.raises(SettingsRefused, match="another key"):
        deidentify_tree(asked(tmp_path, pseudonymizer=pseudonymizer("other")))
    with pytest.raises(SettingsRefused, match="another profile"):
        deidentify_tree(asked(tmp_path, profile=Profile(trust_annotation_no=True)))


def test_a_dry_run_counts_and_writes_nothing(tmp_path: Path) -> None:
    fill(tmp_path / "in")
    held = tmp_path / "held"
    summary = deidentify_tree(asked(tmp_path, dry_run=True, quarantine=held))
    assert (summary.written, len(summary.refused), summary.dry_run) == (2, 2, True)
    assert not (tmp_path / "out").exists()
    assert not held.exists()


def test_other_files_are_named_for_what_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write(mr_image(), folder / "a.dcm")
    (folder / "all.zip").write_bytes(b"PK\x03\x04" + bytes(200))
    (folder / "DICOMDIR").write_bytes((folder / "a.dcm").read_bytes())
    (folder / "bare").write_bytes((folder / "a.dcm").read_bytes()[132 + 200 :])
    (folder / "bare").write_bytes(b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100" + bytes(200))
    (folder / "empty").write_bytes(b"")
    summary = deidentify_tree(asked(tmp_path))
    assert summary.written == 1
    assert summary.skipped == {"a DICOMDIR (not copied: it lists names)": 1, "no DICOM file": 1}
    assert len(summary.refused) == 2
    assert any("unpack it" in reason for reason in summary.reasons)
    assert any("without the file header" in reason for reason in summary.reasons)
    for name, words in (("all.zip", "an archive"), ("DICOMDIR", "a DICOMDIR")):
        with pytest.raises(SettingsRefused, match=words):
            deidentify_tree(asked(tmp_path, source=folder / name))
    with pytest.raises(SettingsRefused, match="is a file"):
        deidentify_tree(asked(tmp_path, destination=folder.parent / "in" / "a.dcm"))
    with pytest.raises(SettingsRefused, match="quarantine lies in the input"):
        deidentify_tree(asked(tmp_path, quarantine=folder / "held"))
    with pytest.raises(SettingsRefused, match="folder for the report"):
        deidentify_tree(asked(tmp_path, report=tmp_path / "none" / "r.json"))


def test_the_printed_profile_is_the_default(tmp_path: Path) -> None:
    path = tmp_path / "profile.toml"
    path.write_text(profile_text())
    assert Profile.load(path).hash == Profile.basic().hash
    wanted = profile_text().replace('#  "retain-modified-dates"', '   "retain-modified-dates"')
    path.write_text(wanted)
    assert Profile.load(path).options == {Option.RETAIN_MODIFIED_DATES}
    assert all(option in wanted for option in Option)


def test_a_killed_process_is_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_arguments: object, **_settings: object) -> None:
        raise BrokenProcessPool("a process in the process pool was terminated abruptly")

    for number in range(1, 6):
        write(mr_image(number), tmp_path / "in" / f"{number}.dcm")
    monkeypatch.setattr(tree, "BATCH", 1)
    monkeypatch.setattr(tree.ProcessPoolExecutor, "submit", killed)
    with pytest.raises(DicomBridgeError, match="fewer --workers"):
        deidentify_tree(asked(tmp_path, workers=2))
