"""``clinode tools deidentify`` as a stranger meets it: words, exit codes, resume, profile."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from appliance.cli.app import run_command
from dicom_bridge.deid import Option, Profile
from tests.dicom_bridge.deid.objects import mr_image, write
from tests.tools import REPOSITORY

GUIDE = REPOSITORY / "docs" / "deidentify.md"


def filled(folder: Path) -> Path:
    for number in (1, 2):
        write(mr_image(number), folder / f"{number}.dcm")
    capture = mr_image(3)
    capture.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    write(capture, folder / "capture.dcm")
    (folder / "notes.txt").write_text("of Mrs Zykowiak")
    return folder


def run(*arguments: object) -> int:
    return run_command(["tools", "deidentify", *map(str, arguments)])


def test_a_summary_by_reason_and_kind_and_going_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out, key = filled(tmp_path / "in"), tmp_path / "out", tmp_path / "key"
    report = tmp_path / "report.json"
    assert run(source, out, "--key", key, "--report", report) == 0
    said = capsys.readouterr()
    assert "2 of 4 files written, 1 refused" in said.out
    assert "1 x skipped: no DICOM file" in said.out
    assert "1 x refused: secondary capture" in said.out
    assert [line.split() for line in said.out.splitlines() if "MR Image" in line] == [
        ["MR", "Image", "2", "0"]
    ]
    assert "Zykowiak" not in said.out + said.err + report.read_text()
    proof = json.loads(report.read_text())["series"][0]
    assert proof["codes"] == ["113100"]
    assert proof["actions"]["X"] > 0
    assert run(source, out, "--key", key) == 0
    assert "0 of 4 files written, 2 were there already, verified" in capsys.readouterr().out
    assert run(source, out) == 2
    assert "another key" in capsys.readouterr().err


def test_a_dry_run_makes_neither_key_nor_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = filled(tmp_path / "in")
    assert run(source, tmp_path / "out", "--key", tmp_path / "key", "--dry-run") == 0
    assert "2 of 4 files would be written" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_bad_input_is_one_clear_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, archive, wrong = tmp_path / "a.txt", tmp_path / "a.zip", tmp_path / "wrong.toml"
    text.write_text("no DICOM")
    archive.write_bytes(b"PK\x03\x04" + bytes(60))
    wrong.write_text('options = ["retain-everything"]\n')
    for arguments, code, words in (
        ((text, tmp_path / "o1"), 1, "nothing could be written"),
        ((archive, tmp_path / "o2"), 2, "unpack it"),
        ((tmp_path / "none", tmp_path / "o3"), 2, "does not exist"),
        ((text, tmp_path / "o4", "--profile", wrong), 2, "unknown options retain-everything"),
        ((text, tmp_path / "o5", "--profile", tmp_path / "absent"), 2, "cannot be read"),
        ((text, text), 2, "is a file"),
    ):
        assert run(*arguments) == code
        said = capsys.readouterr().err.strip()
        assert words in said
        assert len(said.splitlines()) == 1


def test_the_printed_profile_and_the_guide_are_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--print-profile") == 0
    printed = tmp_path / "printed.toml"
    printed.write_text(capsys.readouterr().out)
    assert Profile.load(printed) == Profile.basic()
    guide = GUIDE.read_text(encoding="utf-8")
    example = tmp_path / "example.toml"
    example.write_text(guide.split("```toml\n")[1].split("```")[0])
    assert tomllib.loads(example.read_text())["documents"] == "replace"
    assert Profile.load(example).masks
    assert all(f"`{option}`" in guide for option in Option)
