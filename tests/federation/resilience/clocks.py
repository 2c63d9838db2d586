"""Clocks that are wrong by hours, for the whole process: libfaketime under gRPC's own TLS too."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from tests.federation.resilience.outcome import Outcome
from tests.federation.resilience.rig import Rig, RigOptions, now
from tests.federation.resilience.stage import Stage, measured, undisturbed
from tests.waiting import wait_for

LIBRARIES = (
    Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"),
    Path("/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1"),
)
ROUNDS = 2
SKEWS = {"site-a": ("+5h", "-5h", "+500d"), "coordinator": ("+5h", "-5h")}
"""Whose clock is wrong, and by how much."""


def why_not() -> str:
    """Why no process can be given another time here, in words; empty where it can."""
    if any(path.exists() for path in LIBRARIES):
        return ""
    return "libfaketime (Debian package libfaketime) is not installed"


def environment(skew: str) -> dict[str, str]:
    """Variables that shift a process's wall clock; its monotonic clock stays right."""
    library = next(path for path in LIBRARIES if path.exists())
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME": skew,
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "PYTHONPATH": os.getcwd(),
    }


def wrong_clocks(stage: Stage) -> list[Outcome]:
    """Runs with a wrong clock at one side; one so wrong that certificates look expired."""
    reason = why_not()
    if reason:
        stage.say(f"no wrong clocks: {reason}")
        return []
    return [_skewed(stage, who, skew) for who, skews in SKEWS.items() for skew in skews]


def _skewed(stage: Stage, who: str, skew: str) -> Outcome:
    with stage.rig(f"clock-{who}-{skew}", RigOptions()) as rig:
        calm = undisturbed(rig, rounds=ROUNDS)
        process = rig.process(who)
        process.hold()
        changed = {**rig.options.environment, who: environment(skew)}
        rig.options = replace(rig.options, environment=changed)
        before, began = rig.carried(), now()
        process.release()
        wait_for(lambda: process.life.pid, what="its start")
        side = "coordinator" if who == "coordinator" else "node"
        title = f"clock of the {side} wrong by {skew}"
        told, words = _told(rig, who, began)
        run_id = rig.submit("skewed", rounds=ROUNDS)
        fields = {
            "name": title,
            "fault": f"{who} lives with another time (libfaketime {skew})",
            "told_s": told,
            "words": words,
            "user": "the node's status names the clock, by how much, and what to do",
        }
        if skew.startswith("+") and skew.endswith("h"):
            return measured(rig, run_id, calm, before, recovery_s=None, **fields)
        # Nothing can be done with such a clock: it is named, and the run goes on once it is right.
        process.hold()
        rig.options = replace(rig.options, environment={})
        right = now()
        process.release()
        rig.finished(run_id)
        recovery = rig.progress([who], right)
        return measured(rig, run_id, calm, before, recovery_s=recovery, **fields)


def _told(rig: Rig, who: str, began: float) -> tuple[float | None, str]:
    """When the side that is wrong, or the node, first said that a clock is; None if never."""

    def _look() -> str:
        for at, point in rig.trace("site-a"):
            if at > began and point.startswith("words") and "clock" in point:
                return point.partition(" ")[2]
        log = (rig.folder / "coordinator.log").read_text() if who == "coordinator" else ""
        return next((line for line in log.splitlines() if "clock" in line), "").partition("words=")[
            2
        ]

    try:
        words = wait_for(_look, what="words about a clock", seconds=20)
    except AssertionError:
        return None, ""
    return now() - began, words.strip('"')
