"""2 Studies: one row a study, a filter, and the detail of one."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import DataTable, Input, Static

from appliance.errors import ApplianceError
from tui import viewmodel
from tui.marks import literal, mark
from tui.screens.base import NodeScreen
from tui.screens.confirm import Ask, ask
from tui.screens.overview import lines_text
from tui.snapshot import Snapshot

STATE_COLUMN = viewmodel.COLUMNS.index("state")
REASON_WIDTH = 60


class StudiesScreen(NodeScreen):
    """The list; Enter opens a study."""

    BINDINGS = [
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("enter", "open", "Open", show=True),
        Binding("r", "retry", "Retry"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._filter = ""
        self._shown: dict[str, tuple[str, ...]] = {}

    def body(self) -> ComposeResult:
        """Filter field, table, empty words."""
        yield Input(placeholder="words, !not, state:ready", id="filter", classes="hidden")
        table: DataTable[Text] = DataTable(id="table", cursor_type="row", zebra_stripes=True)
        yield table
        yield Static(id="empty")

    def on_mount(self) -> None:
        """Make the columns once."""
        table = self.query_one(DataTable)
        for column in viewmodel.COLUMNS:
            table.add_column(column, key=column)
        table.focus()
        super().on_mount()

    def show(self, snapshot: Snapshot) -> None:
        """Bring the table up to date cell by cell: the cursor stays on its study."""
        rows = viewmodel.matching(snapshot.studies, self._filter)
        table: DataTable[Text] = self.query_one(DataTable)
        wanted = {study.key: viewmodel.study_cells(study) for study in rows}
        for key in [k for k in self._shown if k not in wanted]:
            table.remove_row(key)
            del self._shown[key]
        for key, cells in wanted.items():
            before = self._shown.get(key)
            drawn = [self._cell(n, cell) for n, cell in enumerate(cells)]
            if before is None:
                table.add_row(*drawn, key=key)
            else:
                for number, column in enumerate(viewmodel.COLUMNS):
                    if before[number] != cells[number]:
                        table.update_cell(key, column, drawn[number], update_width=True)
            self._shown[key] = cells
        table.border_title = f"{len(rows)} of {len(snapshot.studies)} studies"
        words = "" if rows else "no study fits the filter: / changes it"
        if not snapshot.studies:
            where = snapshot.status.dicom_address
            words = f"no studies yet; the receiver is {where}. `clinode pacs pull` asks the PACS."
        self.query_one("#empty", Static).update(literal(words))

    def _cell(self, column: int, text: str) -> Text:
        if column == STATE_COLUMN:
            return mark(text, plain=self.app.plain_marks)  # type: ignore[attr-defined]
        return literal(text if len(text) <= REASON_WIDTH else text[: REASON_WIDTH - 1] + "…")

    def action_filter(self) -> None:
        """Open the filter field."""
        field = self.query_one("#filter", Input)
        field.remove_class("hidden")
        field.focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Apply the filter."""
        self._filter = event.value
        event.input.set_class(not event.value, "hidden")
        self.query_one(DataTable).focus()
        self.refresh_from(self.app.snapshot)  # type: ignore[attr-defined]

    def _current(self) -> str | None:
        table = self.query_one(DataTable)
        if not table.row_count:
            return None
        return table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Enter on a row opens the study."""
        if event.row_key.value:
            self.app.push_screen(StudyDetail(event.row_key.value))

    def action_open(self) -> None:
        """Open the study under the cursor."""
        key = self._current()
        if key:
            self.app.push_screen(StudyDetail(key))

    def action_retry(self) -> None:
        """Try the study under the cursor again, after asking."""
        key = self._current()
        if key:
            ask(self.app, Ask("study-retry", key, f"Try study {key} again?"))


class StudyDetail(ModalScreen[None]):
    """One study in full; Esc goes back."""

    BINDINGS = [
        Binding("escape,q", "dismiss", "Back"),
        Binding("r", "retry", "Retry"),
        Binding("l", "release", "Release"),
    ]

    def __init__(self, key: str) -> None:
        super().__init__()
        self._key = key

    def compose(self) -> ComposeResult:
        """A scrolling page."""
        with VerticalScroll(id="page"):
            yield Static(id="lines")
        yield Static(literal("Esc back   r retry   l release from quarantine"), classes="keys")

    def on_mount(self) -> None:
        """Ask for the detail."""
        self.query_one("#page").border_title = f"Study {self._key}"
        self.reload()

    def reload(self) -> None:
        """Ask the node again and draw."""
        page = self.query_one("#lines", Static)
        try:
            detail = self.app.source.detail(self._key)  # type: ignore[attr-defined]
        except ApplianceError as error:
            page.update(literal(f"{error} (r tries again)"))
            return
        plain = self.app.plain_marks  # type: ignore[attr-defined]
        text = lines_text(tuple(viewmodel.study_lines(detail)), plain=plain)
        text.no_wrap, text.overflow = False, "fold"
        page.update(text)

    def action_retry(self) -> None:
        """Try again from the stage that stopped it."""
        ask(self.app, Ask("study-retry", self._key, f"Try study {self._key} again?"), self.reload)

    def action_release(self) -> None:
        """Overrule the check that stopped it; needs a reason."""
        words = f"Let study {self._key} go on past the check that stopped it?"
        ask(self.app, Ask("study-release", self._key, words, reason=True), self.reload)
