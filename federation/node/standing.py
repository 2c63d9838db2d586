"""Whether the coordinator still waits for the task that is being worked on.

A run that is paused, stopped or failed, a round that went on without this site: the work is ended
then, and not finished for nothing. Asking also tells the coordinator that this site is alive.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

FIRST_ASK_S: Final = 1.0
"""Work that is shorter is not asked about."""
ASK_S: Final = 10.0
"""How long one question waits for an answer: a site at work is heard of that often."""
RECALLED: Final = "the coordinator does not wait for this task any more"


class Standing:
    """Asks while it is entered; ``recalled`` is set once the answer was no.

    Args:
        ask: asks about a task and waits that many seconds at most; False where it has ended.
        task_id: the task.
        news: set together with ``recalled``, so that who watches the work looks at once.
    """

    def __init__(
        self, ask: Callable[[str, float], bool], task_id: str, news: threading.Event
    ) -> None:
        self._ask = ask
        self._task_id = task_id
        self._news = news
        self._over = threading.Event()
        self.recalled = False

    def __enter__(self) -> Self:
        threading.Thread(target=self._run, name="task-standing", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The question that is out ends by itself once the task is reported.
        self._over.set()

    def _run(self) -> None:
        wait = FIRST_ASK_S
        while not self._over.wait(wait):
            wait = FIRST_ASK_S
            if not self._ask(self._task_id, ASK_S):
                if not self._over.is_set():
                    self.recalled = True
                    self._news.set()
                return
