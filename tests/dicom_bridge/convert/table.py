"""The table of `docs/conversion.md`, from what runs.

``python -m tests.dicom_bridge.convert.table UNPACKED`` writes it anew; notes are kept.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dicom_bridge.convert.series import ConvertedImage, convert_images
from dicom_bridge.errors import DataRefused
from tests.dicom_bridge.convert.rivals import (
    by_dcm2niix,
    by_dicom2nifti,
    compared,
    shared_series,
)
from tests.tools import REPOSITORY

DOCUMENT = REPOSITORY / "docs" / "conversion.md"
HEAD = "| series | clinode | engine | dicom2nifti | dcm2niix | why |"


@dataclass(frozen=True)
class Row:
    """One line: a series, what becomes of it, what the two converters make of it by themselves."""

    series: str
    clinode: str
    engine: str
    dicom2nifti: str
    dcm2niix: str
    why: str = ""

    def text(self) -> str:
        """As Markdown."""
        cells = (self.series, self.clinode, self.engine, self.dicom2nifti, self.dcm2niix, self.why)
        return f"| {' | '.join(cells)} |"


def documented() -> dict[str, Row]:
    """The rows of the document by series."""
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines() if DOCUMENT.exists() else []
    rows = {}
    for line in lines[lines.index(HEAD) + 2 :] if HEAD in lines else ():
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        row = Row(*(cell.strip("| ") for cell in cells))
        rows[row.series] = row
    return rows


def ours(files: Sequence[Path], work: Path) -> tuple[list[ConvertedImage], str]:
    """What conversion makes of a series, and the reason where it refuses."""
    try:
        return convert_images(files, work / "ours", work=work / "scratch"), ""
    except DataRefused as error:
        return [], str(error)


def outcome(made: Sequence[ConvertedImage], reason: str) -> tuple[str, str]:
    """The columns `clinode` and `engine`."""
    if not made:
        return f"refused: {reason}", "-"
    shapes = [
        "x".join(map(str, image.shape)) + (f" (echo {image.echo})" if image.echo else "")
        for image in made
    ]
    return ", ".join(shapes), made[0].engine


def row_of(name: str, files: Sequence[Path]) -> Row:
    """A series' row, all three run."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        made, reason = ours(files, work)
        images = [image.image for image in made]
        return Row(
            name,
            *outcome(made, reason),
            compared(images, by_dicom2nifti(files)),
            compared(images, by_dcm2niix(files, work / "dcm2niix")),
        )


def groups(rows: Sequence[Row]) -> list[Row]:
    """Rows of single images that differ by file only, put together by folder."""
    merged: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        key = (row.series,)
        if row.series.startswith("compressed_nema/"):
            key = (row.series.split("/")[1], row.clinode, row.dicom2nifti, row.dcm2niix)
        merged.setdefault(key, []).append(row)
    out = []
    for members in merged.values():
        first = members[0]
        files = [re.sub(r"_.*", "", member.series.split("/")[-1]) for member in members]
        name = f"{first.series.rsplit('/', 1)[0]}: {', '.join(files)}"
        name = name if first.series.startswith("compressed_nema/") else first.series
        out.append(Row(name, *first.text().strip("| ").split(" | ")[1:5]))
    return out


def main() -> None:
    """Write the document's table anew."""
    kept = documented()
    rows = [row_of(name, files) for name, files in shared_series(Path(sys.argv[1])).items()]
    lines = [HEAD, f"|{'---|' * 6}"]
    for row in groups(rows):
        why = kept[row.series].why if row.series in kept else ""
        lines.append(Row(*list(row.__dict__.values())[:5], why).text())
    text = DOCUMENT.read_text(encoding="utf-8")
    start = text.index(HEAD)
    rest = text[start:].split("\n\n", 1)[1]
    table = "\n".join(lines)
    DOCUMENT.write_text(f"{text[:start]}{table}\n\n{rest}", encoding="utf-8")


if __name__ == "__main__":
    main()
