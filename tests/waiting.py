"""The one place where a test waits: poll an observable event until a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(
    observe: Callable[[], T | None], *, what: str, seconds: float = 30.0, every: float = 0.05
) -> T:
    """Return the first truthy value that ``observe`` gives.

    Args:
        observe: called again and again; a falsy value means "not yet".
        what: the event in words, for the failure's text.
        seconds: the deadline.
        every: the time between two looks.

    Raises:
        AssertionError: the deadline passed first.
    """
    deadline = time.monotonic() + seconds
    while True:
        value = observe()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"waited {seconds:g} s for {what}; last seen: {value!r}")
        time.sleep(every)
