"""The agent's memory: one file per task with its last step and, once worked, its report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

from google.protobuf.json_format import MessageToDict, ParseDict

from federation.canonical import JSON, read_json, write_json
from federation.errors import StoreDamaged
from federation.node.states import STEP_TABLE, Step
from federation.wire import federation_pb2 as pb

JOURNAL_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """A task with what is done of it.

    Attributes:
        task: as the coordinator gave it.
        step: the last step that is done.
        report: from WORKED on.
        times: seconds and bytes of the download.
        withdrawn: members of the data that were withdrawn when the work began.
    """

    task: pb.Task
    step: Step
    report: pb.TaskReport | None = None
    times: pb.TaskTimes | None = None
    withdrawn: int = 0

    def at(self, step: Step) -> Entry:
        """The entry one step further.

        Raises:
            StoreDamaged: the table has no such arrow.
        """
        if step not in STEP_TABLE[self.step]:
            raise StoreDamaged(f"a task that is {self.step} cannot become {step}")
        return replace(self, step=step)


def safe_name(task_id: str) -> str:
    """A task's id as a file name.

    Raises:
        StoreDamaged: it holds other characters than the coordinator's ids have.
    """
    if not task_id or len(task_id) > 200 or not all(c.isalnum() or c in ".-" for c in task_id):
        raise StoreDamaged("a task's id holds characters that no coordinator of ours gives")
    return task_id.lstrip(".")


class Journal:
    """The tasks of one run.

    Args:
        folder: created where absent.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def read(self, task_id: str) -> Entry | None:
        """A task's entry; None where it is new, or was written by another version."""
        path = self._path(task_id)
        if not path.exists():
            return None
        document = cast("dict[str, Any]", read_json(path))
        if document.get("format") != JOURNAL_FORMAT:
            return None
        report, times = document.get("report"), document.get("times")
        return Entry(
            task=ParseDict(document["task"], pb.Task()),
            step=Step(document["step"]),
            report=ParseDict(report, pb.TaskReport()) if report is not None else None,
            times=ParseDict(times, pb.TaskTimes()) if times is not None else None,
            withdrawn=int(document.get("withdrawn", 0)),
        )

    def write(self, entry: Entry) -> None:
        """Keep an entry durably."""
        document: dict[str, JSON] = {
            "format": JOURNAL_FORMAT,
            "step": entry.step.value,
            "withdrawn": entry.withdrawn,
            "task": cast("JSON", MessageToDict(entry.task)),
        }
        if entry.report is not None:
            document["report"] = cast("JSON", MessageToDict(entry.report))
        if entry.times is not None:
            document["times"] = cast("JSON", MessageToDict(entry.times))
        write_json(self._path(entry.task.task_id), document)

    def forget_before(self, number: int) -> None:
        """Drop reported tasks of rounds before ``number``."""
        for path in self._folder.glob("*.json"):
            entry = self.read(path.stem)
            if entry and entry.step is Step.REPORTED and entry.task.round < number:
                path.unlink()

    def _path(self, task_id: str) -> Path:
        return self._folder / f"{safe_name(task_id)}.json"
