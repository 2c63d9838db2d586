"""The dialog before anything that cannot be taken back or goes outward; it starts on Cancel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Static

from appliance.errors import ApplianceError
from tui.marks import literal


@dataclass(frozen=True, slots=True)
class Ask:
    """A question before an action.

    Attributes:
        verb: of :meth:`appliance.control.client.NodeClient.act`.
        key: the item.
        question: object and consequence in words.
        reason: whether a reason must be typed.
        code: what must be typed to confirm; empty for nothing.
    """

    verb: str
    key: str
    question: str
    reason: bool = False
    code: str = ""


class ConfirmScreen(ModalScreen[str | None]):
    """Gives the reason that was typed (perhaps empty), or None for Cancel."""

    BINDINGS = [Binding("escape", "cancel", "Cancel")]

    def __init__(self, question: Ask) -> None:
        super().__init__()
        self._ask = question

    def compose(self) -> ComposeResult:
        """Question, fields, buttons."""
        with Vertical(id="dialog"):
            yield Static(literal(self._ask.question), id="question")
            if self._ask.code:
                yield Static(literal(f"Type {self._ask.code} to confirm:"))
                yield Input(id="code")
            if self._ask.reason:
                yield Input(placeholder="reason (goes into the audit log)", id="reason")
            yield Static(id="why")
            with Horizontal(id="buttons"):
                yield Button("Cancel", id="cancel", variant="primary")
                yield Button("Confirm", id="confirm")

    def on_mount(self) -> None:
        """Cancel has the focus."""
        self.query_one("#cancel", Button).focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Leave, if what must be typed was typed."""
        if event.button.id == "cancel":
            self.dismiss(None)
            return
        reason = self.query_one("#reason", Input).value.strip() if self._ask.reason else ""
        why = self.query_one("#why", Static)
        if self._ask.code and self.query_one("#code", Input).value.strip() != self._ask.code:
            why.update(literal(f"type {self._ask.code} first"))
        elif self._ask.reason and not reason:
            why.update(literal("say why first"))
        else:
            self.dismiss(reason)

    def action_cancel(self) -> None:
        """Leave without doing anything."""
        self.dismiss(None)


def ask(app: App[Any], question: Ask, after: Callable[[], None] = lambda: None) -> None:
    """Ask, do it, and say what happened."""
    if app.read_only:  # type: ignore[attr-defined]
        app.notify("this terminal was opened with --read-only", markup=False)
        return

    def _answered(reason: str | None) -> None:
        if reason is None:
            return
        try:
            words = app.source.act(question.verb, question.key, reason)  # type: ignore[attr-defined]
        except ApplianceError as error:
            app.notify(literal(error).plain, severity="error", timeout=10, markup=False)
            return
        app.notify(literal(words).plain, markup=False)
        app.look_now()  # type: ignore[attr-defined]
        after()

    app.push_screen(ConfirmScreen(question), _answered)
