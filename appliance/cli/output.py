"""What commands print: tables for people, JSON for programs, one sentence for an error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table
from rich.text import Text

from appliance.errors import ControlError


def as_json(message: Message) -> dict[str, Any]:
    """The message as JSON-able data with the field names of the ``.proto`` file."""
    return MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def print_json(document: object) -> None:
    """Write one JSON document to standard output."""
    sys.stdout.write(json.dumps(document, indent=2, sort_keys=False) + "\n")


def print_lines(*lines: str) -> None:
    """Write plain lines to standard output; each stays one line, whatever it holds."""
    sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Write rows as a table, or the sentence ``empty`` where there are none.

    Every cell is literal text: nothing that came from DICOM or from the federation is read as
    markup.
    """
    rows = list(rows)
    if not rows:
        print_lines(empty)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    width = None if sys.stdout.isatty() else 160
    Console(file=sys.stdout, width=width, highlight=False, markup=False).print(table)


def printable(text: str) -> str:
    r"""The text with control, line-ending and direction-changing characters made visible.

    >>> print(printable("a" + chr(27) + "b" + chr(10)))
    a\x1bb\n
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def print_pairs(pairs: Iterable[tuple[str, object]]) -> None:
    """Write name and value pairs, one a line, empty values left out."""
    shown = [(name, printable(str(value))) for name, value in pairs if value not in ("", None)]
    width = max((len(name) for name, _ in shown), default=0)
    print_lines(*(f"{name:<{width}}  {value}" for name, value in shown))


def copy_report(path: Path, out: Path | None) -> None:
    """Say where a report lies, or copy it with links that hold at its new place.

    Raises:
        ControlError: the copy cannot be written.
    """
    if out is None:
        print_lines(str(path))
        return
    from appliance.reports.site import relinked

    try:
        page = relinked(path.read_text(encoding="utf-8"), path.parent, out.absolute().parent)
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ControlError(f"the report cannot be copied ({error.strerror})") from error
    print_lines(f"wrote {out}")


def print_error(sentence: str) -> None:
    """Write one sentence to standard error."""
    sys.stderr.write(f"clinode: {printable(sentence)}\n")
