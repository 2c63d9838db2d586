"""State as word and shape, readable without colour; an ASCII set where the locale needs it."""

from __future__ import annotations

import locale

from rich.text import Text

SHAPES = {"done": "✓", "running": "▶", "waiting": "…", "review": "!", "failed": "✗", "held": "■"}
ASCII = {
    "done": "OK",
    "running": ">>",
    "waiting": "..",
    "review": "!!",
    "failed": "XX",
    "held": "##",
}
STYLES = {
    "done": "bright_blue",
    "running": "bright_cyan",
    "waiting": "",
    "review": "yellow",
    "failed": "bold orange1",
    "held": "yellow",
}
KINDS = {
    "ready": "done",
    "sent": "running",
    "stored": "done",
    "committed": "done",
    "superseded": "held",
    "made": "running",
    "validated": "running",
    "released": "running",
    "approved": "done",
    "accepted": "done",
    "connected": "done",
    "no finding": "done",
    "quarantined": "review",
    "pending": "review",
    "offered": "review",
    "held": "held",
    "halted": "held",
    "left": "held",
    "taking part": "running",
    "failed": "failed",
    "offline": "failed",
    "stopped": "failed",
    "rejected": "failed",
    "withdrawn": "held",
    "done": "done",
    "running": "running",
    "refused": "review",
    "interrupted": "waiting",
}


def ascii_only() -> bool:
    """Whether the locale's encoding cannot show the shapes."""
    return "utf" not in locale.getpreferredencoding(False).lower()


def mark(state: str, *, plain: bool) -> Text:
    """A state as shape and word.

    >>> mark("ready", plain=True).plain
    'OK ready'
    """
    kind = KINDS.get(state, "running")
    shape = (ASCII if plain else SHAPES)[kind]
    return Text(f"{shape} {state}", style=STYLES[kind])


def shape(state: str, *, plain: bool) -> Text:
    """Only the shape of a state, where the words beside it say the rest.

    >>> shape("ready", plain=True).plain
    'OK'
    """
    kind = KINDS.get(state, "running")
    return Text((ASCII if plain else SHAPES)[kind], style=STYLES[kind])


def literal(value: object, style: str = "") -> Text:
    r"""Anything that came from outside as literal text: never markup, nothing invisible.

    Control characters, and those that change the direction of writing, are shown as escapes.

    >>> literal("a[b]x[/b]" + chr(0x202E)).plain
    'a[b]x[/b]\\u202e'
    """
    out = []
    for character in str(value):
        hidden = not character.isprintable()
        if hidden and character != "\n":
            out.append(character.encode("unicode_escape").decode("ascii"))
        else:
            out.append(character)
    return Text("".join(out), style=style)
