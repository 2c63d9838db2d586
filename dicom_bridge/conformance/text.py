"""Markdown pieces of a statement."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    r"""A titled Markdown table; cells are made safe for it.

    Examples:
        >>> print(table("Table 1-1. Two", ["a", "b"], [(1, "x|y")]))
        **Table 1-1. Two**
        <BLANKLINE>
        | a | b |
        |---|---|
        | 1 | x\|y |
        <BLANKLINE>
    """
    lines = [f"**{title}**", "", _row(head), "|" + "---|" * len(head)]
    lines.extend(_row(row) for row in rows)
    return "\n".join([*lines, ""])


def _row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def paragraphs(*texts: str) -> str:
    """Paragraphs with an empty line after each."""
    return "\n\n".join(" ".join(text.split()) for text in texts) + "\n"


def tag_text(tag: int) -> str:
    """A tag as the standard writes it.

    Examples:
        >>> tag_text(0x0008103E)
        '(0008,103E)'
    """
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
