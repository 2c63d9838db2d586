"""The custodian's table of masks: one row a mask, naming the study and series it belongs to.

A table (CSV with commas or semicolons, or TSV; UTF-8, first line names the columns) holds original
identifiers: it is read, used and forgotten. No text of it ever stands in a message.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from appliance.errors import ImageRefused, NotAllowed

MAX_BYTES = 10 * 1024**2
MAX_ROWS = 20_000
MAX_FIELD = 4_096
COLUMNS = (
    "mask",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "PatientID",
    "IssuerOfPatientID",
    "StudyDate",
    "study",
    "modality",
    "rater",
    "values",
    "accept",
)
EMPTY, DOUBTFUL = "empty", "doubtful"
"""What a person may accept, in the table or for all rows."""

_PAIR = re.compile(r"(\d{1,3})=(\d{1,3})")
_DATE = re.compile(r"(\d{4})-?(\d{2})-?(\d{2})")


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    Attributes:
        line: its line in the file, 1 for the header.
        mask: the mask's file, absolute.
        StudyInstanceUID: original, or empty.
        SeriesInstanceUID: original, or empty.
        PatientID: original, or empty.
        IssuerOfPatientID: original, or empty.
        StudyDate: ``YYYYMMDD``, or empty.
        study: the node's own key of the study (or its beginning), or the case's name, or empty.
        modality: canonical modality of the series, or empty.
        rater: who drew it.
        values: the mask's values to the site's; None takes them as they are.
        accept: what a person accepted for this row: `EMPTY`, `DOUBTFUL`.
    """

    line: int
    mask: Path = field(repr=False)
    StudyInstanceUID: str = field(default="", repr=False)
    SeriesInstanceUID: str = field(default="", repr=False)
    PatientID: str = field(default="", repr=False)
    IssuerOfPatientID: str = field(default="", repr=False)
    StudyDate: str = field(default="", repr=False)
    study: str = field(default="", repr=False)
    modality: str = ""
    rater: str = field(default="imported", repr=False)
    values: Mapping[int, int] | None = None
    accept: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used, and why."""

    line: int
    words: str


def read_table(path: Path) -> list[Row | BadRow]:
    """The rows of a table.

    Args:
        path: the file; relative masks are looked for beside it.

    Raises:
        NotAllowed: no readable table, or columns that cannot name a mask, a study and a series.
    """
    try:
        if not path.is_file():
            raise NotAllowed("the table is no file that the node's account can see")
        if path.stat().st_size > MAX_BYTES:
            raise NotAllowed("the table is larger than 10 MiB")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise NotAllowed(
            f"the node's account cannot read the table ({type(error).__name__})"
        ) from None
    except UnicodeDecodeError:
        raise NotAllowed("the table is not UTF-8 text: save it as CSV UTF-8") from None
    return parse_table(text, path.resolve().parent)


def parse_table(text: str, folder: Path) -> list[Row | BadRow]:
    """As `read_table`, of the text."""
    reader = csv.reader(io.StringIO(text), delimiter=_delimiter(text), strict=True)
    found: list[Row | BadRow] = []
    try:
        header = [name.strip() for name in next(reader, [])]
        places = _places(header)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(found) >= MAX_ROWS:
                raise NotAllowed(f"the table has more than {MAX_ROWS} rows: split it")
            found.append(_row(reader.line_num, cells, places, folder))
    except csv.Error as error:
        raise NotAllowed(f"the table is no CSV from line {reader.line_num} on") from error
    if not found:
        raise NotAllowed("the table has no row below its first line")
    return found


def _delimiter(text: str) -> str:
    first = text.splitlines()[0] if text.strip() else ""
    return max("\t;,", key=first.count)


def _places(header: list[str]) -> dict[str, int]:
    """Where the known columns are; other columns are nobody's business here."""
    known = {name.casefold(): name for name in COLUMNS}
    places: dict[str, int] = {}
    for place, name in enumerate(header):
        column = known.get(name.casefold())
        if column is not None and places.setdefault(column, place) != place:
            raise NotAllowed(f"the table has two columns {column}")
    if "mask" not in places:
        raise NotAllowed("the table needs a first line that names its columns, one of them `mask`")
    if not (
        {"StudyInstanceUID", "study"} & set(places) or {"PatientID", "StudyDate"} <= set(places)
    ):
        raise NotAllowed(
            "the table names no study: it needs a column StudyInstanceUID, or study, or both "
            "PatientID and StudyDate"
        )
    if not {"SeriesInstanceUID", "modality"} & set(places):
        raise NotAllowed("the table names no series: it needs SeriesInstanceUID or modality")
    return places


def _row(line: int, cells: list[str], places: Mapping[str, int], folder: Path) -> Row | BadRow:
    texts = {name: _cell(cells, place) for name, place in places.items()}
    if any(len(text) > MAX_FIELD or "\0" in text for text in texts.values()):
        return BadRow(line, "a field is too long or holds a zero byte")
    given = {name: text for name, text in texts.items() if text}
    if "mask" not in given:
        return BadRow(line, "no mask is named")
    by_person = {"PatientID", "StudyDate"} <= set(given)
    if not ({"StudyInstanceUID", "study"} & set(given) or by_person):
        return BadRow(line, "no study is named")
    if not {"SeriesInstanceUID", "modality"} & set(given):
        return BadRow(line, "no series is named")
    try:
        values = parse_values(given.pop("values", ""))
        accept = _accepted(given.pop("accept", ""))
        date = _date(given.pop("StudyDate", ""))
    except ImageRefused as error:
        return BadRow(line, str(error))
    mask = folder / given.pop("mask")
    return Row(line=line, mask=mask, StudyDate=date, values=values, accept=accept, **given)


def _cell(cells: list[str], place: int) -> str:
    return cells[place].strip() if place < len(cells) else ""


def parse_values(text: str) -> dict[int, int] | None:
    """A mask's values to the site's, as the column ``values`` writes them.

    Raises:
        ImageRefused: another text.

    Examples:
        >>> parse_values("1=1 2=0; 4=3")
        {1: 1, 2: 0, 4: 3}
    """
    parts = [part for part in re.split(r"[\s;,]+", text) if part]
    if not parts:
        return None
    found: dict[int, int] = {}
    for part in parts:
        match = _PAIR.fullmatch(part)
        if match is None or not 1 <= int(match[1]) <= 255 or int(match[2]) > 255:
            raise ImageRefused("values must look like `1=1 4=3`: the mask's value = the site's")
        if found.setdefault(int(match[1]), int(match[2])) != int(match[2]):
            raise ImageRefused("values map one value twice")
    return found


def _accepted(text: str) -> frozenset[str]:
    words = frozenset(re.split(r"[\s;,]+", text.casefold())) - {""}
    if words - {EMPTY, DOUBTFUL}:
        raise ImageRefused("accept may hold `empty` and `doubtful`")
    return words


def _date(text: str) -> str:
    if not text:
        return ""
    match = _DATE.fullmatch(text)
    if match is None:
        raise ImageRefused("StudyDate must look like 20260131 or 2026-01-31")
    return "".join(match.groups())
