"""The terminal UI headless: keys, dialogs, hostile text, a node that goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import pytest
from textual.pilot import Pilot
from textual.widgets import Button, DataTable, Input, Static

from appliance.control import node_pb2 as pb
from appliance.errors import NotRunning
from tests.tui.test_viewmodel import plan, snapshot
from tui.app import ClinodeApp
from tui.screens.approvals import PlanScreen
from tui.screens.confirm import ConfirmScreen
from tui.screens.studies import StudyDetail
from tui.snapshot import Snapshot

SIZES = [(80, 24), (120, 40)]
HOSTILE = "x[/foo] SMITH[/] T1 [mm] [@click=app.quit]go[/] \x1b[31m"


@dataclass
class FakeNode:
    """A node that answers at once and remembers what it was told."""

    snapshot: Snapshot
    away: bool = False
    told: list[tuple[str, str, str]] = field(default_factory=list)

    def look(self, before: Snapshot, now: float) -> Snapshot:
        if self.away:
            return replace(before, problem="no node is running on this home folder")
        return replace(self.snapshot, taken=now)

    def detail(self, key: str) -> pb.StudyDetail:
        if self.away:
            raise NotRunning("no node is running on this home folder")
        return pb.StudyDetail(study=next(s for s in self.snapshot.studies if s.key == key))

    def plan(self, key: str) -> pb.Plan:
        return next(p for p in self.snapshot.plans if p.hash == key)

    def act(self, verb: str, key: str, reason: str) -> str:
        self.told.append((verb, key, reason))
        return f"{key}: done"


def studies() -> tuple[pb.Study, ...]:
    return (
        pb.Study(key="st0000000000aa", subject="sub-a", state="ready", instances=90),
        pb.Study(key="st0000000000bb", subject="sub-b", state="quarantined", reason=HOSTILE),
    )


def node() -> FakeNode:
    return FakeNode(snapshot(plans=(plan(),), studies=studies()))


def warned(words: str) -> FakeNode:
    made = node()
    made.snapshot.status.warnings.append(words)
    return made


Steps = Callable[[ClinodeApp, Pilot[None]], Awaitable[None]]


def drive(source: FakeNode, steps: Steps, size: tuple[int, int] = (80, 24), **more: bool) -> None:
    """Run the app headless, wait for the first data, then do the steps."""

    async def main() -> None:
        app = ClinodeApp(source, **more)
        async with app.run_test(size=size) as pilot:
            await until(pilot, lambda: app.snapshot.taken is not None or source.away)
            await pilot.pause()
            await steps(app, pilot)

    asyncio.run(main())


async def until(pilot: Pilot[None], observed: Callable[[], bool]) -> None:
    """Let the app work until something is observed."""
    for _ in range(400):
        if observed():
            return
        await pilot.pause(0.01)
    raise AssertionError("not observed within 4 s")


def text_of(app: ClinodeApp) -> str:
    """Everything that the static widgets of the screen say."""
    return "\n".join(str(w.render()) for w in app.screen.query(Static))


@pytest.mark.parametrize("size", SIZES)
def test_every_screen_draws_at(size: tuple[int, int]) -> None:
    async def steps(app: ClinodeApp, pilot: Pilot[None]) -> None:
        assert "NODE hospital-a" in text_of(app)
        await pilot.press("2")
        assert app.screen.query_one(DataTable).row_count == 2
        await pilot.press("3")
        assert app.screen.query_one(DataTable).row_count == 1
        await pilot.press("1")
        assert "ms-lesion waits for your decision" in text_of(app)

    drive(node(), steps, size)


def test_enter_opens_a_study_and_sends_nothing() -> None:
    source = node()

    async def steps(app: ClinodeApp, pilot: Pilot[None]) -> None:
        await pilot.press("2", "down", "enter")
        await until(pilot, lambda: isinstance(app.screen, StudyDetail))
        assert "SMITH[/]" in text_of(app), "hostile text is shown as it is"
        await pilot.press("escape")
        assert not isinstance(app.screen, StudyDetail)
        await pilot.press(*["enter", "escape"] * 10)

    drive(source, steps)
    assert source.told == []


def test_approval_starts_on_cancel_and_wants_the_code() -> None:
    source = node()

    async def steps(app: ClinodeApp, pilot: Pilot[None]) -> None:
        await pilot.press("3", "a")
        await until(pilot, lambda: isinstance(app.screen, ConfirmScreen))
        assert app.focused is app.screen.query_one("#cancel", Button)
        await pilot.press("enter")
        assert source.told == []
        await pilot.press("a")
        await until(pilot, lambda: isinstance(app.screen, ConfirmScreen))
        app.screen.query_one("#confirm", Button).press()
        await pilot.pause()
        assert source.told == [], "without the code nothing is sent"
        app.screen.query_one("#code", Input).value = "ababab"
        app.screen.query_one("#confirm", Button).press()
        await until(pilot, lambda: bool(source.told))

    drive(source, steps)
    assert source.told == [("plan-approve", "ab" * 32, "")]


def test_rejection_wants_a_reason() -> None:
    source = node()

    async def steps(app: ClinodeApp, pilot: Pilot[None]) -> None:
        await pilot.press("3", "x")
        await until(pilot, lambda: isinstance(app.screen, ConfirmScreen))
        app.screen.query_one("#confirm", Button).press()
        await pilot.pause()
        assert source.told == []
        app.screen.query_one("#reason", Input).value = "too many rounds"
        app.screen.query_one("#confirm", Button).press()
        await until(pilot, lambda: bool(source.told))

    drive(source, steps)
    assert source.told == [("plan-reject", "ab" * 32, "too many rounds")]


def test_a_plan_can_be_read_whole() -> None:
    async def steps(app: ClinodeApp, pilot: Pilot[None]) -> None:
        await pilot.press("3", "enter")
        await until(pilot, lambda: isinstance(app.screen, PlanScreen))
        assert "ab" * 32 in text_of(app)
        assert '"a": [' in text_of(app)

    drive(node(), steps)


def test_read_only_sends_nothing() -> None:
    source = node()

    async def steps(app: ClinodeApp, pilot: Pilot[None]) -> None:
        await pilot.press("3", "a")
        await pilot.pause()
        assert not isinstance(app.screen, ConfirmScreen)
        await pilot.press("2", "r")
        await pilot.pause()
        assert not isinstance(app.screen, ConfirmScreen)

    drive(source, steps, read_only=True)
    assert source.told == []


def test_filter_narrows_and_says_so() -> None:
    async def steps(app: ClinodeApp, pilot: Pilot[None]) -> None:
        await pilot.press("2", "slash", *"state:ready", "enter")
        await pilot.pause()
        table = app.screen.query_one(DataTable)
        assert table.row_count == 1
        assert "1 of 2" in str(table.border_title)

    drive(node(), steps)


def test_refresh_keeps_the_cursor_on_its_study() -> None:
    source = node()

    async def steps(app: ClinodeApp, pilot: Pilot[None]) -> None:
        await pilot.press("2", "down")
        first = pb.Study(key="st00000000000f", subject="sub-f", state="receive")
        source.snapshot = replace(source.snapshot, studies=(*studies(), first))
        app.look_now()
        table = app.screen.query_one(DataTable)
        await until(pilot, lambda: table.row_count == 3)
        key = table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value
        assert key == "st0000000000bb"

    drive(source, steps)


def test_a_node_that_goes_away_leaves_its_last_data_with_the_reason() -> None:
    source = node()

    async def steps(app: ClinodeApp, pilot: Pilot[None]) -> None:
        source.away = True
        app.look_now()
        await until(pilot, lambda: "no node is running" in text_of(app))
        await pilot.press("2")
        assert app.screen.query_one(DataTable).row_count == 2

    drive(source, steps)


def test_no_node_at_all_says_what_to_do() -> None:
    async def steps(app: ClinodeApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "no node is running" in text_of(app))

    drive(FakeNode(Snapshot(), away=True), steps)


@pytest.mark.parametrize("size", SIZES)
def test_a_banner_on_every_screen_while_something_ends_soon(size: tuple[int, int]) -> None:
    async def steps(app: ClinodeApp, pilot: Pilot[None]) -> None:
        for key in ("1", "2", "3"):
            await pilot.press(key)
            await pilot.pause()
            banner = app.screen.query_one("#banner", Static)
            assert banner.display
            assert "ends in 3 days [" in str(banner.render())
            assert 1 <= banner.size.height <= 3
        app.source.snapshot.status.ClearField("warnings")  # type: ignore[attr-defined]
        app.look_now()
        await until(pilot, lambda: not app.screen.query_one("#banner", Static).display)

    drive(warned("this site's certificate ends in 3 days [x]" + " and more" * 30), steps, size)
