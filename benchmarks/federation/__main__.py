"""Federations side by side on this machine: seconds per round without training, TLS on.

``python -m benchmarks.federation [--only clinode,floor,nvflare,flower] [--quick] [--sizes 19,124]
[--repeats N] [--peer-repeats N] [--rounds N] [--write FILE]``
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.federation.case import CACHE, Case, ContenderFailed
from benchmarks.federation.clinode import run_clinode
from benchmarks.federation.floor import run_floor
from benchmarks.federation.flower import run_flower
from benchmarks.federation.measured import Figures, joined
from benchmarks.federation.nvflare import run_nvflare
from benchmarks.federation.report import PEERS, Results, document, put

SIZES = (19, 124, 250)
MANY_SITES = 30
Run = Callable[[Case, Path], Figures]
CONTENDERS: dict[str, dict[str, Run]] = {
    "floor": {
        "bare stream": partial(run_floor, durable=False),
        "durable floor": partial(run_floor, durable=True),
    },
    "clinode": {"clinode": run_clinode},
    "nvflare": {
        "NVFLARE": run_nvflare,
        "NVFLARE tuned": partial(run_nvflare, tuned=True),
    },
    "flower": {"Flower": run_flower},
}


def cases(arguments: argparse.Namespace) -> list[Case]:
    """The cells of the table: three sites at every size, eight at the smallest."""
    sizes = [int(size) for size in arguments.sizes.split(",")]
    rounds = {"rounds": arguments.rounds}
    found = [Case(size, 3, **rounds) for size in sizes]
    return found if arguments.quick else [*found, Case(min(sizes), 8, **rounds)]


def once(name: str, run: Run, case: Case) -> Figures:
    """One repetition in a folder of its own; what fails says so."""
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=_scratch()))
    try:
        found = run(case, folder)
    except ContenderFailed as error:
        found = Figures(words=str(error))
    finally:
        if not os.environ.get("BENCH_KEEP"):
            shutil.rmtree(folder, ignore_errors=True)
    said = f"{found.median_s:.2f} s per round" if found.seconds else found.words
    print(f"  {case.name}: {name}: {said} (load {os.getloadavg()[0]:.1f})", flush=True)
    return found


def _scratch() -> Path:
    folder = CACHE / "work"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def measure(
    chosen: Sequence[str], wanted: Sequence[Case], repeats: int, peer_repeats: int
) -> Results:
    """Every contender once, then all again: a change of the machine's load meets all of them."""
    contenders = {name: run for kind in chosen for name, run in CONTENDERS[kind].items()}
    results: Results = {}
    for case in wanted:
        parts: dict[str, list[Figures]] = {name: [] for name in contenders}
        for repeat in range(repeats):
            for name, run in contenders.items():
                if name not in PEERS or repeat < peer_repeats:
                    parts[name].append(once(name, run, case))
        for name, found in parts.items():
            results[case, name] = joined(found)
    return results


def many_sites(megabytes: int) -> dict[int, Figures]:
    """clinode's memory with three and with thirty sites."""
    return {
        sites: once("clinode", run_clinode, Case(megabytes, sites, rounds=2))
        for sites in (3, MANY_SITES)
    }


def main() -> int:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.federation", description=__doc__)
    parser.add_argument("--only", default=",".join(CONTENDERS))
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds of a repetition")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer-repeats", type=int, default=1, help="the peers take minutes each")
    parser.add_argument("--quick", action="store_true", help="one repetition, 3 sites, 3 rounds")
    parser.add_argument("--write", type=Path, help="put the tables into this file's marked part")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # processes are ended on the way out
    chosen = arguments.only.split(",")
    if unknown := set(chosen) - set(CONTENDERS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(CONTENDERS)}")
    if arguments.quick:
        arguments.rounds, arguments.repeats = 3, 1
    wanted = cases(arguments)
    results = measure(chosen, wanted, arguments.repeats, arguments.peer_repeats)
    crowd = {}
    if "clinode" in chosen and not arguments.quick:
        crowd = many_sites(min(case.megabytes for case in wanted))
    text = document(results, crowd, (arguments.repeats, arguments.peer_repeats))
    print(text)
    if arguments.write:
        put(arguments.write, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
