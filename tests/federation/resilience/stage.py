"""What every scenario gets: a nursery, a folder, and the undisturbed run to compare with."""

# ruff: noqa: ANN401 - what gRPC and JSON give has no narrower type
from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tests.federation.resilience.nursery import Nursery
from tests.federation.resilience.outcome import Outcome
from tests.federation.resilience.rig import Rig, RigOptions

NOISE_BYTES = 30_000
"""What two undisturbed runs differ by on the line: polls and new connections."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where scenarios are played.

    Attributes:
        nursery: starts processes.
        folder: for everything.
        full: minutes-long faults as in the table; else seconds.
    """

    nursery: Nursery
    folder: Path
    full: bool = False

    @contextmanager
    def rig(self, name: str, options: RigOptions | None = None) -> Iterator[Rig]:
        """A federation of its own."""
        made = Rig(self.folder / name, self.nursery, options)
        try:
            yield made
        finally:
            made.close()

    def say(self, words: str) -> None:
        """Tell who runs this where it is."""
        print(f"  {words}", flush=True)  # noqa: T201 - what the benchmark tells its caller


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """The same run without a fault.

    Attributes:
        model: SHA-256 of the final model's file.
        carried: bytes on all lines.
        trainings: as many as are needed.
    """

    model: str
    carried: int
    trainings: int


def undisturbed(rig: Rig, name: str = "undisturbed", **options: Any) -> Undisturbed:
    """Play a run without a fault."""
    before = rig.carried()
    run_id = rig.submit(name, **options)
    view = rig.finished(run_id)
    assert view["state"] == "finished", view["words"]
    return Undisturbed(rig.model(run_id), rig.carried() - before, rig.trainings(name))


def measured(rig: Rig, run_id: str, calm: Undisturbed, before: int, **fields: Any) -> Outcome:
    """The outcome of a run that should have finished as if nothing had been.

    Args:
        rig: the federation.
        run_id: the run that was disturbed.
        calm: the same without the fault.
        before: bytes on the line when it began.
        fields: name, fault, recovery_s and more of :class:`Outcome`.
    """
    view = rig.finished(run_id)
    extra = rig.carried() - before - calm.carried
    leftovers = rig.leftovers()
    return Outcome(
        finished=view["state"] == "finished",
        retrained=rig.trainings(view["name"]) - calm.trainings,
        resent=extra if extra > NOISE_BYTES else 0,
        identical=rig.model(run_id) == calm.model,
        **{"cleanup": f"remove {len(leftovers)} unfinished files" if leftovers else "", **fields},
    )


@contextmanager
def stage(*, full: bool = False) -> Iterator[Stage]:
    """A stage with a folder that goes with it; control sockets lie in a short path of its own."""
    import os

    folder = Path(tempfile.mkdtemp(prefix="clinode-r-"))
    before = os.environ.get("XDG_RUNTIME_DIR")
    (folder / "run").mkdir(mode=0o700)
    os.environ["XDG_RUNTIME_DIR"] = str(folder / "run")
    nursery = Nursery()
    try:
        yield Stage(nursery, folder, full)
    finally:
        nursery.close()
        if before is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = before
        shutil.rmtree(folder, ignore_errors=True)


AT_ONCE = 4
"""Federations beside each other: most of a scenario's time is waited for, not computed on."""
C = TypeVar("C")


def shared_out(
    cases: Sequence[C], play: Callable[[int, Sequence[C]], Sequence[Outcome]], lanes: int = AT_ONCE
) -> list[Outcome]:
    """Play cases in several federations at a time; the outcomes in the cases' order.

    Args:
        cases: what is played.
        play: plays the cases of one federation, which has this number, one after the other.
        lanes: how many federations.
    """
    shares = [cases[number::lanes] for number in range(lanes)]
    with ThreadPoolExecutor(lanes) as pool:
        played = [pool.submit(play, n, share) for n, share in enumerate(shares) if share]
        found = [one.result() for one in played]
    return [found[at % len(found)][at // lanes] for at in range(len(cases))]


Play = Callable[[Stage], list[Outcome]]
