"""The disk runs full at the coordinator and at a node, and has room again later."""

from __future__ import annotations

import time
from contextlib import ExitStack

from tests.federation.resilience import volume
from tests.federation.resilience.outcome import Outcome
from tests.federation.resilience.rig import Rig, RigOptions, now
from tests.federation.resilience.stage import Stage, measured, undisturbed
from tests.waiting import wait_for

MEBIBYTES = 192
"""Size of the small file system: room for the coordinator's spare and some models."""
LASTS_S = 6.0
ROUNDS = 2


def full_disks(stage: Stage) -> list[Outcome]:
    """Each side's disk runs full in round 1, for seconds, while a site trains."""
    reason = volume.why_not(stage.folder)
    if reason:
        stage.say(f"no small file system: {reason}; the scenarios of full disks are left out")
        return []
    return [_full(stage, where) for where in ("coordinator", "site-a")]


def _full(stage: Stage, where: str) -> Outcome:
    with ExitStack() as held:
        folder = stage.folder / f"disk-{where}"
        small = volume.Volume(folder / where, MEBIBYTES)
        held.callback(small.close)
        rig = held.enter_context(stage.rig(folder.name, RigOptions()))
        calm = undisturbed(rig, rounds=ROUNDS)
        rig.script("site-a", {1: {"seconds": 3.0}})
        before = rig.carried()
        run_id = rig.submit("full", rounds=ROUNDS)
        wait_for(lambda: rig.trainings("full") >= 2, what="training")
        small.fill()
        began = now()
        assert rig.view(run_id)["state"] == "running"
        told, words = _words_while_full(rig, run_id, began)
        time.sleep(max(0.0, began + LASTS_S - now()))
        small.room()
        roomy = now()
        rig.finished(run_id, seconds=120)
        audit = rig.control.verify_audit()
        side = "coordinator" if where == "coordinator" else "node"
        fixes = [] if audit["ok"] else [f"repair the audit log ({audit['words']})"]
        if rig.process(where).own_ends:
            fixes.append(f"start the {side} again (it ended with {rig.process(where).own_ends})")
        ordinary = {"cleanup": "; ".join(fixes)} if fixes else {}
        return measured(
            rig,
            run_id,
            calm,
            before,
            name=f"disk full at the {side} for {LASTS_S:.0f} s",
            fault="not one byte is free from the middle of a training on",
            recovery_s=rig.progress(["coordinator", "site-a"], roomy),
            told_s=told,
            words=words,
            incident="13" if where == "coordinator" else "",
            user="`run show` says whose disk is full; the run goes on when there is room",
            **ordinary,
        )


def _words_while_full(rig: Rig, run_id: str, began: float) -> tuple[float | None, str]:
    """When `run show` says that a disk is full; None where it does not in time."""
    from tests.federation.resilience.rig import all_words

    while now() < began + LASTS_S:
        for text in all_words(rig.view(run_id)):
            if "disk" in text and "full" in text:
                return now() - began, text
        time.sleep(0.1)
    return None, ""
