"""What rounding left out of a run's updates, kept by the site from round to round.

An update's encoding writes what it leaves out beside the task that it belongs to, open until the
coordinator has said whether it uses the update. Used: one rename makes it what the next round
starts from, so it counts exactly once however often the report is repeated. Not used (refused,
expired): it is thrown away, and the next round starts from what was owed before; the update's own
difference is lost, as that of a plain update would be.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from federation.canonical import sync_folder
from federation.node.journal import safe_name

KEPT: Final = 2
"""Rounds kept: the newest and the one that the newest started from."""
_OPEN: Final = ".open"


class Owed:
    """The files of one run.

    Args:
        folder: made with the first file.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def before(self, number: int) -> Path | None:
        """What is owed when round ``number`` starts; None where nothing is."""
        settled = [path for path in self._settled() if path < self._after(number)]
        return settled[-1] if settled else None

    def open(self, task_id: str) -> Path:
        """Where a task's encoding writes what it leaves out."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / f"{safe_name(task_id)}{_OPEN}"

    def unsettled(self) -> list[str]:
        """Tasks of which the site does not know whether their update was used."""
        return sorted(path.name.removesuffix(_OPEN) for path in self._folder.glob(f"*{_OPEN}"))

    def settle(self, task_id: str, number: int, *, used: bool) -> None:
        """Say what became of a task's update; saying it again changes nothing."""
        path = self._folder / f"{safe_name(task_id)}{_OPEN}"
        if not path.exists():
            return
        if used:
            path.replace(self._after(number))
            sync_folder(self._folder)
        else:
            path.unlink()
        for old in self._settled()[:-KEPT]:
            old.unlink(missing_ok=True)

    def forget(self) -> None:
        """The run is over: nothing is owed any more."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _after(self, number: int) -> Path:
        return self._folder / f"after-{number:06d}.safetensors"

    def _settled(self) -> list[Path]:
        return sorted(self._folder.glob("after-*.safetensors"))
