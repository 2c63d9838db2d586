"""The committed examples are sound pages of phantoms, as the present style sheet shows them."""

from __future__ import annotations

import pytest

from appliance.reports.page import style
from tests.appliance.reports.bodies import Page
from tests.tools import REPOSITORY

EXAMPLES = REPOSITORY / "docs" / "examples"


@pytest.mark.parametrize("name", ["study-report", "group-report"])
def test_an_example_is_sound_and_present(name: str) -> None:
    page = Page((EXAMPLES / f"{name}.html").read_text(encoding="utf-8"))
    page.assert_sound()
    assert "No patient." in page.shown
    assert len(page.text) < 700_000
    assert style() in page.text, "stale: python -m benchmarks.example_reports"
    assert (EXAMPLES / f"{name}.jpg").stat().st_size < 150_000
