"""HTML whose text is always escaped, and the frame that every page of ours has.

A page holds its style, charts (SVG) and pictures (data URIs) and nothing else: no script, no link
to another place. A Content-Security-Policy in the page forbids the rest: only pictures in data URIs
load, and only the one style sheet whose hash it names.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from functools import cache
from html import escape
from importlib.resources import files

VOID = frozenset({"meta", "img", "br", "input", "hr"})


class Html(str):
    """Text that is HTML already; any other string is escaped where it is put in."""

    __slots__ = ()


def tag(name: str, /, *children: str, **attributes: str | float | bool | None) -> Html:
    """One element.

    Args:
        name: the element's name.
        children: text, escaped here, or `Html`.
        attributes: values, escaped; ``_`` at the end of a name is dropped and ``_`` within it is
            written ``-``. True writes the bare name; None and False leave the attribute out.

    Examples:
        >>> tag("p", "a < b", class_="x")
        '<p class="x">a &lt; b</p>'
        >>> tag("img", src="data:,", alt="")
        '<img src="data:," alt="">'
    """
    parts = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        attribute = key.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(attribute)
        else:
            text = f"{value:.6g}" if isinstance(value, float) else str(value)
            parts.append(f'{attribute}="{escape(text)}"')
    opening = f"<{' '.join(parts)}>"
    return Html(opening) if name in VOID else Html(f"{opening}{join(children)}</{name}>")


def join(children: Iterable[str], between: str = "") -> Html:
    """Children one after the other, escaped unless they are `Html`.

    Examples:
        >>> join(["<", Html("<b></b>")])
        '&lt;<b></b>'
    """
    return Html(between.join(c if isinstance(c, Html) else escape(str(c)) for c in children))


def section(title: str, *children: str, id_: str | None = None, class_: str | None = None) -> Html:
    """A titled part of a page."""
    return tag("section", tag("h2", title), *children, id_=id_, class_=class_)


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str = "", text: int = 1
) -> Html:
    """A table with a header row; the first cell of each row is its header.

    Args:
        head: titles of the columns.
        rows: cells, text or `Html`.
        caption: what the table holds; shown above it.
        text: how many columns on the left hold text; the others are aligned as numbers.
    """
    titles = [
        tag("th", cell, scope="col", class_=None if n < text else "n")
        for n, cell in enumerate(head)
    ]
    body = []
    for row in rows:
        cells = [
            tag("th", cell, scope="row")
            if n == 0
            else tag("td", cell, class_=None if n < text else "n")
            for n, cell in enumerate(row)
        ]
        body.append(tag("tr", *cells))
    parts = [tag("caption", caption)] if caption else []
    parts += [tag("thead", tag("tr", *titles)), tag("tbody", *body)]
    return tag("div", tag("table", *parts), class_="wide")


def pairs(items: Iterable[tuple[str, str]]) -> Html:
    """Names and values; empty values are left out."""
    parts: list[Html] = []
    for name, value in items:
        if value:
            parts += [tag("dt", name), tag("dd", value)]
    return tag("dl", *parts) if parts else Html("")


def bullets(items: Iterable[str]) -> Html:
    """A list; nothing where there are no items."""
    found = [tag("li", item) for item in items]
    return tag("ul", *found) if found else Html("")


def details(title: str, *children: str) -> Html:
    """Content that is folded away on the screen and printed open."""
    return tag("details", tag("summary", title), *children)


def data_uri(content: bytes, kind: str) -> str:
    """Bytes as an address that holds them, e.g. ``data:image/png;base64,...``."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


@cache
def style() -> str:
    """The style sheet of all pages."""
    return files("appliance.reports").joinpath("report.css").read_text(encoding="utf-8")


def page(title: str, *children: str) -> str:
    """A whole document.

    Args:
        title: title of the document, as plain text.
        children: the content of ``main``.
    """
    sheet = style()
    digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode("ascii")
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html(sheet)),
    )
    body = tag("body", tag("main", *children))
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"
