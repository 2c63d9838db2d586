"""What a run survives: every fault for real, with what was repeated and how long it took.

``python -m benchmarks.resilience`` plays every scenario of ``tests/federation/resilience`` and
writes ``docs/benchmarks/resilience.md``; names as arguments play those and keep the other rows.
Root (or the right to make namespaces and mounts) gives the real links and full disks.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.table import markdown
from tests.federation.resilience import clocks, disks, kills, line, messages, sites, trainers
from tests.federation.resilience.outcome import HEADINGS, Outcome, row
from tests.federation.resilience.stage import Play, Stage, stage

RESULTS = Path(__file__).resolve().parents[1] / "build" / "resilience.json"
DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "resilience.md"
TEXT = """# What a run survives

Written by `python -m benchmarks.resilience` on {day} ({machine}, commit {commit}); do not edit
it. The page can be played in parts.

**This edition** was put together from single calls of the scenarios at several commits of that day,
while the machine did much else (load average 20 to 40 on 2 cores): every time is longer than on a
quiet machine. Not played for it: most points of the coordinator's, the node's and the trainer's
tables one by one (`tests/federation/test_kills.py` kills coordinator and node at every point), a
cut of minutes (`line` cuts for 130 s; the rows here are of 4 s), silence at every message. The
messages lost by cut were measured with the first protocol version, whose calls they name.

A coordinator process and two or three node processes (the agent over mutual TLS, with a
stand-in for the trainer that computes in numpy; in the trainer's rows the real trainer on small
images) play a run; the fault is real: SIGKILL, a network interface taken down, a file system
without a free byte, a connection cut after the work is done and before the answer leaves, a
wall clock moved under the whole process. Nothing is simulated inside the programs that are
tested, and nobody helps: a process that ended is started again, as a service manager does, and
no file is removed.

{rows} scenarios: {finished} came to the end that was due, {by_hand} needed a person, {same} of
the {compared} runs that have a model ended with the same bytes as without the fault,
{retrained} trainings in all were done again.

* **Run finished**: it came to its end by itself (or was stopped or failed where that was due).
* **Trained again**: trainings beyond the necessary. A training that is killed before its result
  is on disk is done again, by that site alone; no other is.
* **Sent again**: bytes on all lines beyond those of the same run undisturbed, with what TLS,
  TCP and the second greeting take; below 30 kB two undisturbed runs differ as much.
* **Recovery**: from the fault's end to the next step of the process that was hit. After a kill
  that includes its start; a service manager's own pause (`RestartSec`) comes on top. "-":
  nothing waited.
* **Words after**: from the fault to the first words about it: in `run show` for a site's
  failure and a full disk of the coordinator, in the node's status for a wrong clock, in the
  answer to the caller for a call that is not allowed. "-": nothing to be told, or nothing is.
* **Same model**: the final model's file has the same bytes as without the fault; with a sick
  site, as without that site's update.
* **Incident**: the row of the list of real incidents at hospitals that this repeats (below).

The lists of kills come from the state tables (`federation/coordinator/states.py`,
`federation/node/states.py`, `federation/trainer/states.py`), the list of messages from the
protocol's description: a new step or call is killed or lost without a change here. Every
scenario is also a test (`tests/federation/resilience`, `tests/federation/test_kills.py`).

## Repeat it

```sh
sudo apt-get install iproute2 libfaketime
sudo .venv/bin/python -m benchmarks.resilience            # all, writes this page
sudo .venv/bin/python -m benchmarks.resilience line disks # some, keeps the other rows
```

Root is for network namespaces and a small file system. Without it the line goes through a relay
that stops passing bytes, the full disks are left out, and both is said. Scenarios that wait are
played beside those that compute, so on two cores times are longer than on a quiet machine.

## Incidents at hospitals

| Row | What happened there | Scenario here |
|-----|---------------------|---------------|
| 1 | a VPN drop of 6 minutes during a transfer ended a run of 15 hours | the line goes down |
| 2 | a trainer raised once, everything was discarded | trainer killed; a trainer that raises |
| 3 | the server's machine restarted, nobody started the server | power cut |
| 4 | one control message was lost on a relayed link: silence for hours | one message is lost |
| 5 | a result arrived, its acknowledgement did not: the job was aborted | ReportTask reply lost |
| 6 | the job was shown as running until an absent site timed out | a site that never answers |
| 7 | a stale file of the last process blocked the next start | every kill; power cut |
| 12 | a run died at its start, the hub said "initiated" | a trainer that says why it fails |
| 13 | the aggregator was killed while it saved the model | coordinator killed; disk full |

Rows 8 (a site is added without touching the others), 9 to 11, 14 and 16 are covered elsewhere
(enrolment, retrieval, leak scans) or belong to functions that clinode does not have yet (secure
aggregation, a ledger of differential privacy); row 15 asks for a day's soak, which is not
played.
"""

WORK: Mapping[str, Play] = {
    "coordinator": kills.coordinator_kills,
    "node": kills.node_kills,
    "power": kills.power_cut,
    "trainer": trainers.trainer_kills,
    "sites": sites.sick_updates,
    "silent": sites.silent_site,
    "pretenders": sites.pretenders,
    "disks": disks.full_disks,
    "clocks": clocks.wrong_clocks,
}
"""Scenarios that compute."""
WAITS: Mapping[str, Play] = {"line": line.cut_lines, "messages": messages.lost_messages}
"""Scenarios that mostly wait: they are played beside the others."""
TITLES = {
    "coordinator": "SIGKILL of the coordinator at every state",
    "node": "SIGKILL of a node at every step of every kind of task",
    "power": "Power cut",
    "trainer": "SIGKILL of the trainer at every step of a job",
    "line": "The line goes down in mid-transfer",
    "messages": "One message is lost",
    "disks": "A disk runs full",
    "clocks": "A clock is wrong",
    "silent": "A site that never answers",
    "sites": "A site whose answer is sick",
    "pretenders": "A site that asks for what is not its own",
}
"""In the order of the document."""


def play(names: Sequence[str]) -> dict[str, list[Outcome]]:
    """Play scenarios, those that wait beside those that work."""
    with stage(full=True) as scene, ThreadPoolExecutor(2) as pool:
        lanes = [
            pool.submit(_lane, scene, {name: lane[name] for name in lane if name in names})
            for lane in (WORK, WAITS)
        ]
        return {name: found for lane in lanes for name, found in lane.result().items()}


def _lane(scene: Stage, lane: Mapping[str, Callable[[Stage], list[Outcome]]]) -> dict[str, list]:
    found = {}
    for name, scenario in lane.items():
        begun = time.monotonic()
        try:
            found[name] = scenario(scene)
        except AssertionError as error:
            # The row says so; the other scenarios are still played.
            scene.say(f"{name}: {error}")
            broken = Outcome(TITLES[name], "", False, 0, 0, None, None, words=str(error)[:200])
            found[name] = [broken]
        scene.say(f"{name}: {len(found[name])} rows in {time.monotonic() - begun:.0f} s")
    return found


def shortened(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Rows of one title; what every row has in common moves into their names."""
    return [replace(one, name=one.name.partition(" killed: ")[2] or one.name) for one in outcomes]


def document(found: Mapping[str, Sequence[Outcome]]) -> str:
    """The whole page: the text about it, then a table and what people see per title."""
    everything = [one for name in TITLES for one in found.get(name, ())]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    facts = {
        "{rows}": str(len(everything)),
        "{finished}": str(sum(one.finished for one in everything)),
        "{same}": str(sum(one.identical is True for one in everything)),
        "{compared}": str(sum(one.identical is not None for one in everything)),
        "{by_hand}": str(sum(bool(one.cleanup) for one in everything)),
        "{retrained}": str(sum(one.retrained for one in everything)),
        "{machine}": f"{_cores()} cores, Python {platform.python_version()}",
        "{commit}": commit or "unknown",
        "{day}": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    text = TEXT
    for mark, value in facts.items():
        text = text.replace(mark, value)
    parts = [text.rstrip()]
    for name, title in TITLES.items():
        if outcomes := shortened(found.get(name, ())):
            parts += [f"## {title}", markdown(HEADINGS, [row(one) for one in outcomes]).rstrip()]
            parts += [_seen(outcomes)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _kept() -> dict[str, list[Outcome]]:
    """Rows of earlier calls: a page may be played in parts."""
    if not RESULTS.exists():
        return {}
    document = json.loads(RESULTS.read_text())
    return {name: [Outcome(**one) for one in document[name]] for name in document}


def _seen(outcomes: Sequence[Outcome]) -> str:
    """What a person sees, once per text, and the words of each row."""
    users = dict.fromkeys(one.user for one in outcomes if one.user)
    lines = [f"What people see: {user}." for user in users]
    lines += [f'* {one.name}: "{one.words}"' for one in outcomes if one.words]
    return "\n".join(lines)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def main() -> int:
    """Play, print, and write the page where everything was played."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resilience", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*TITLES, []], default=[])
    names = parser.parse_args().names
    found = play(names or list(TITLES))
    for name, outcomes in found.items():
        print(f"\n{TITLES[name]}\n")
        print(markdown(HEADINGS, [row(one) for one in shortened(outcomes)]))
        print(_seen(outcomes))
    kept = _kept() | found
    RESULTS.write_text(json.dumps({n: [asdict(one) for one in kept[n]] for n in kept}, indent=1))
    DOCUMENT.write_text(document(kept))
    print(f"written: {DOCUMENT}")
    bad = [text for outcomes in found.values() for one in outcomes for text in _bad(one)]
    print(*bad, sep="\n")
    return 1 if bad else 0


def _bad(one: Outcome) -> list[str]:
    """What falls short; a silent line may take two minutes, a training may be done once more."""
    return one.problems(recovery_s=120.0, retrained=1)


if __name__ == "__main__":
    sys.exit(main())
