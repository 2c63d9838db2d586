"""The custodian's table: what it may look like and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.errors import NotAllowed
from appliance.labels.table import BadRow, Row, parse_table, parse_values, read_table

HEAD = "mask,StudyInstanceUID,SeriesInstanceUID,rater,values,accept\n"


def test_every_separator_and_way_of_naming(tmp_path: Path) -> None:
    by_uid = "mask,StudyInstanceUID,SeriesInstanceUID\na.nii.gz,1.2.3,1.2.3.1\n"
    (row,) = parse_table(by_uid, tmp_path)
    assert isinstance(row, Row)
    assert (row.line, row.mask, row.values) == (2, tmp_path / "a.nii.gz", None)
    assert (row.StudyInstanceUID, row.SeriesInstanceUID) == ("1.2.3", "1.2.3.1")
    assert row.rater == "imported"
    text = (
        "\ufeffMASK\tpatientid\tStudyDate\tModality\tnote\n/x/b.nii\t007\t2026-01-02\tT1w\tHEIDI\n"
    )
    (row,) = parse_table(text.lstrip("\ufeff"), tmp_path)
    assert isinstance(row, Row)
    assert (row.PatientID, row.StudyDate, row.mask) == ("007", "20260102", Path("/x/b.nii"))
    assert "007" not in repr(row)
    assert "b.nii" not in repr(row), "file names may name patients"
    table = tmp_path / "t.csv"
    table.write_bytes(b"\xef\xbb\xbfmask;study;modality;values\nc.nii;st00;FLAIR;1=1 4=3\n\n")
    (row,) = read_table(table)
    assert isinstance(row, Row)
    assert row.values == {1: 1, 4: 3}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "first line"),
        ("mask,modality\na,FLAIR\n", "names no study"),
        ("mask,PatientID,modality\na,1,FLAIR\n", "names no study"),
        ("mask,study\na,st\n", "names no series"),
        ("study,modality\nst,FLAIR\n", "`mask`"),
        ("mask,mask,study,modality\n", "two columns mask"),
        (HEAD, "no row"),
        ('mask,study,modality\n"a,b\n', "no CSV"),
    ],
)
def test_tables_that_cannot_be_used(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(NotAllowed, match=words):
        parse_table(text, tmp_path)


def test_files_that_are_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotAllowed, match="no file"):
        read_table(tmp_path / "absent.csv")
    path = tmp_path / "t.csv"
    path.write_bytes(b"mask,study,modality\n\xff\xfe,st,FLAIR\n")
    with pytest.raises(NotAllowed, match="UTF-8"):
        read_table(path)
    monkeypatch.setattr("appliance.labels.table.MAX_BYTES", 5)
    with pytest.raises(NotAllowed, match="larger"):
        read_table(path)
    monkeypatch.setattr("appliance.labels.table.MAX_ROWS", 1)
    with pytest.raises(NotAllowed, match="more than 1 rows"):
        parse_table(HEAD + "a,1,2,,,\n" * 2, tmp_path)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (",1.2,1.2.3,,,", "no mask"),
        ("a.nii,,1.2.3,,,", "no study"),
        ("a.nii,1.2,,,,", "no series"),
        ("a.nii,1.2,1.2.3,r,1-1,", "must look like"),
        ("a.nii,1.2,1.2.3,r,1=1 1=2,", "twice"),
        ("a.nii,1.2,1.2.3,r,300=1,", "must look like"),
        ("a.nii,1.2,1.2.3,r,,everything", "accept may hold"),
        (f"{'a' * 5000},1.2,1.2.3,,,", "too long"),
    ],
)
def test_rows_that_cannot_be_used_do_not_stop_the_others(
    row: str, words: str, tmp_path: Path
) -> None:
    good = "b.nii,1.2,1.2.3,r,1=1,Empty doubtful"
    bad, fine = parse_table(f"{HEAD}{row}\n{good}\n", tmp_path)
    assert isinstance(bad, BadRow)
    assert bad.line == 2
    assert words in bad.words
    assert isinstance(fine, Row)
    assert fine.accept == {"empty", "doubtful"}
    assert parse_values(" ") is None
