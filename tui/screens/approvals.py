"""3 Approvals: plans, models, data sets and results that a person decides on."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import DataTable, Static

from appliance.errors import ApplianceError
from tui import viewmodel
from tui.marks import literal, mark
from tui.screens.base import NodeScreen
from tui.screens.confirm import Ask, ask
from tui.snapshot import Snapshot

COLUMNS = ("kind", "name", "state", "what")
CODE_LENGTH = 6


class ApprovalsScreen(NodeScreen):
    """The list; Enter reads a plan, a and x decide."""

    BINDINGS = [
        Binding("enter", "open", "Read"),
        Binding("a", "decide('a')", "Approve"),
        Binding("x", "decide('x')", "Reject"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._items: dict[str, viewmodel.Approval] = {}
        self._drawn: tuple[viewmodel.Approval, ...] = ()

    def body(self) -> ComposeResult:
        """Table and words."""
        table: DataTable[Text] = DataTable(id="table", cursor_type="row", zebra_stripes=True)
        yield table
        yield Static(id="empty")

    def on_mount(self) -> None:
        """Make the columns once."""
        table = self.query_one(DataTable)
        for column in COLUMNS:
            table.add_column(column, key=column)
        table.focus()
        super().on_mount()

    def show(self, snapshot: Snapshot) -> None:
        """Draw again only when something changed; the cursor keeps its item."""
        items = tuple(viewmodel.approvals(snapshot))
        words = "nothing was offered yet; plans arrive when the coordinator submits a run"
        self.query_one("#empty", Static).update(literal("" if items else words))
        if items == self._drawn:
            return
        current = self._current()
        table: DataTable[Text] = self.query_one(DataTable)
        table.clear()
        plain = self.app.plain_marks  # type: ignore[attr-defined]
        for item in items:
            table.add_row(
                literal(item.kind),
                literal(item.name),
                mark(item.state, plain=plain),
                literal(item.words),
                key=f"{item.kind} {item.key}",
            )
        self._items = {f"{item.kind} {item.key}": item for item in items}
        self._drawn = items
        if current is not None and f"{current.kind} {current.key}" in self._items:
            table.move_cursor(row=table.get_row_index(f"{current.kind} {current.key}"))

    def _current(self) -> viewmodel.Approval | None:
        table = self.query_one(DataTable)
        if not table.row_count:
            return None
        key = table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value
        return self._items.get(key or "")

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Enter reads."""
        del event
        self.action_open()

    def action_open(self) -> None:
        """Read the plan under the cursor: the exact bytes that were signed."""
        item = self._current()
        if item is None:
            return
        if item.kind != "plan":
            self.app.notify(literal(f"{item.kind} {item.name}: {item.words}").plain, markup=False)
            return
        self.app.push_screen(PlanScreen(item.key))

    def action_decide(self, letter: str) -> None:
        """Ask before deciding; say why where nothing can be decided."""
        item = self._current()
        if item is None:
            return
        chosen = next((verb for verb in item.verbs if verb[0] == letter), None)
        if chosen is None:
            text = f"{item.kind} {item.name} is {item.state}: nothing to decide with this key"
            self.app.notify(literal(text).plain, markup=False)
            return
        _, verb, label = chosen
        outward = letter == "a" and item.kind in ("plan", "result")
        code = item.key[:CODE_LENGTH] if outward else ""
        question = f"{label.capitalize()} {item.kind} {item.name}?\n{item.words}"
        ask(self.app, Ask(verb, item.key, question, reason=letter == "x", code=code))


class PlanScreen(ModalScreen[None]):
    """A plan for reading; Esc goes back."""

    BINDINGS = [Binding("escape,q", "dismiss", "Back")]

    def __init__(self, key: str) -> None:
        super().__init__()
        self._key = key

    def compose(self) -> ComposeResult:
        """A scrolling page."""
        with VerticalScroll(id="page"):
            yield Static(id="lines")
        yield Static(
            literal("Esc back   arrows scroll   decide with a or x on the list"), classes="keys"
        )

    def on_mount(self) -> None:
        """Ask for the plan."""
        page = self.query_one("#page")
        page.border_title = f"Plan {self._key[:16]}"
        page.focus()
        try:
            plan = self.app.source.plan(self._key)  # type: ignore[attr-defined]
        except ApplianceError as error:
            self.query_one("#lines", Static).update(literal(error))
            return
        head = (
            f"SHA-256   {plan.hash}\nsigned by {plan.signer}\n"
            f"signature {'valid' if plan.signature_valid else 'INVALID'}\n"
            f"leaves    {', '.join(plan.sends)}\n"
        )
        if plan.amends:
            changed = "".join(f"  {change}\n" for change in plan.changes)
            head += f"amends    {plan.amends}, exactly in\n{changed or '  nothing'}"
        head += "\n"
        self.query_one("#lines", Static).update(literal(head + viewmodel.plan_text(plan)))
