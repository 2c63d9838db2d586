"""The line goes down in mid-transfer and comes back."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

from tests.federation.resilience import network
from tests.federation.resilience.outcome import Outcome
from tests.federation.resilience.rig import Rig, RigOptions, now
from tests.federation.resilience.stage import Stage, measured, undisturbed
from tests.waiting import wait_for

ELEMENTS = 6_000_000
"""Numbers in the model: 24 MB, some seconds on the link below."""
MBIT = 100
MINUTES_S = 130.0
SECONDS_S = 4.0


def _moving_up(rig: Rig) -> bool:
    """Whether site-a's update is on its way: a part of it has arrived."""
    incoming = rig.home / "objects" / "incoming" / "site-a"
    return any(path.stat().st_size > 0 for path in incoming.rglob("*") if path.is_file())


def _moving_down(rig: Rig) -> bool:
    """Whether a model is on its way to site-a: a part of it is there."""
    parts = (rig.folder / "site-a" / "runs").rglob("*.part")
    return any(path.stat().st_size > 1 << 20 for path in parts)


WAYS: dict[str, Callable[[Rig], bool]] = {"upload": _moving_up, "download": _moving_down}


def cut_lines(stage: Stage) -> list[Outcome]:
    """A link goes down in the middle of an upload and of a download, and comes back."""
    reason = network.why_not()
    if reason:
        stage.say(f"no real links: {reason}; the relay that swallows everything takes their place")
    return [_cut(stage, way, not reason) for way in WAYS]


def _cut(stage: Stage, way: str, real: bool) -> Outcome:
    sites = {"site-a": 3, "site-b": 4}
    lasts = MINUTES_S if stage.full else SECONDS_S
    with ExitStack() as held:
        links = network.Network(tuple(sites), MBIT) if real else None
        if links is not None:
            held.callback(links.close)
        options = RigOptions(sites=sites, elements=ELEMENTS, network=links)
        rig = held.enter_context(stage.rig(f"line-{way}", options))
        calm = undisturbed(rig, rounds=1)
        before = rig.carried()
        run_id = rig.submit("cut", rounds=1)
        wait_for(lambda: WAYS[way](rig), what=f"the {way} to be under way", every=0.005)
        _set(rig, links, down=True)
        began = now()
        until = began + lasts
        told, words = _words_while_down(rig, run_id, began, until)
        time.sleep(max(0.0, until - now()))
        _set(rig, links, down=False)
        back = now()
        rig.finished(run_id, seconds=180)
        line = "link (veth) down" if real else "relay passes nothing"
        return measured(
            rig,
            run_id,
            calm,
            before,
            name=f"line down for {lasts:.0f} s in mid-{way}",
            fault=f"{line} while 24 MB are on their way, then up again",
            recovery_s=rig.progress(["site-a"], back),
            told_s=told,
            words=words,
            incident="1",
            user="the site shows `offline`; `run show` says since when the site was not heard",
        )


def _set(rig: Rig, links: network.Network | None, *, down: bool) -> None:
    if links is not None:
        (links.down if down else links.up)("site-a")
    else:
        rig.relays["site-a"].dead = down


def _words_while_down(
    rig: Rig, run_id: str, began: float, until: float
) -> tuple[float | None, str]:
    """When `run show` first says that the site is not heard; None where it does not."""
    while now() < until:
        words = str(rig.view(run_id).get("attention", ""))
        if "site-a silent" in words:
            return now() - began, words
        time.sleep(0.1)
    return None, ""
