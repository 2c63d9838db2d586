"""Encoded updates: bytes, seconds and what the rounding costs in Dice, of real federated trainings.

``python -m benchmarks.encodings`` trains the product's network with the product's own functions at
three sites, once per way to encode and seed, and prints the tables of docs/benchmarks/encodings.md.
The cohort is synthetic: lesions that only both channels together tell from mimics.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

from benchmarks.table import markdown
from federation.encoding import BLOCK, Feedback, decode, dequantise, encode, quantise
from federation.learning.evaluation import evaluate_case
from federation.learning.networks import build_network, initialise, load_weights, save_weights
from federation.learning.prepared import (
    CaseEntry,
    PreparedCase,
    PreparedFolder,
    PreparedManifest,
    Split,
    write_case,
    write_manifest,
)
from federation.learning.state import SiteState
from federation.learning.training import train_round
from federation.plan import Plan, ms_lesion_demo_plan, parse_plan
from federation.strategies.fedavg import WeightedUpdate, fedavg
from federation.update_spec import ENCODINGS, UpdateSpec

SITES: Final = 3
ROUNDS: Final = 8
STEPS: Final = 8
EDGE: Final = 24
TIMED: Final = 5
SEEDS: Final = (1, 2, 3, 4, 5)
_DISTURBED: Final = "fp32, first weights changed by 1e-6"


@dataclass(frozen=True, slots=True)
class Way:
    """One way to send updates: a row of the tables."""

    name: str
    encoding: str
    feedback: bool = False
    disturbed: bool = False

    def spec(self, compression: str = "none") -> UpdateSpec:
        """The plan's section."""
        return UpdateSpec.model_validate({"encoding": self.encoding, "compression": compression})


WAYS: Final = (
    Way("fp32", "fp32"),
    Way(_DISTURBED, "fp32", disturbed=True),
    Way("bf16", "bf16"),
    Way("bf16 + feedback", "bf16", feedback=True),
    Way("fp16", "fp16"),
    Way("fp16 + feedback", "fp16", feedback=True),
    Way("int8", "int8"),
    Way("int8 + feedback", "int8", feedback=True),
)


@dataclass
class Outcome:
    """What one training gave."""

    dice: float
    plain: list[int] = field(default_factory=list)
    packed: list[int] = field(default_factory=list)


def plan_of(seed: int, channels: tuple[int, ...] = (8, 16, 32)) -> Plan:
    """The demo's plan with small patches and few steps."""
    document = ms_lesion_demo_plan(ROUNDS).model_dump(mode="json")
    document["network"].update(channels=list(channels), strides=[2] * (len(channels) - 1))
    document["training"].update(
        steps_per_round=STEPS, batch_size=2, patch_size=[16, 16, 16], modality_dropout=0.0
    )
    document["privacy"]["minimum_training_cases"] = 1
    document["seed"] = seed
    return parse_plan(document)


def cohort(folder: Path, plan: Plan, seed: int) -> PreparedFolder:
    """A site's cases: noise as strong as half a lesion's contrast, three lesions, three mimics.

    Lesions are bright in the first channel and dark in the second, mimics bright in the first only.
    """
    random = np.random.default_rng(seed)
    folder.mkdir()
    entries = []
    for index, split in enumerate((Split.TRAIN,) * 3 + (Split.TEST,) * 4):
        image = random.normal(0.0, 1.0, (2, EDGE, EDGE, EDGE)).astype(np.float32)
        label = np.zeros((EDGE, EDGE, EDGE), np.uint8)
        for number in range(6):
            low, size = random.integers(1, EDGE - 6, 3), random.integers(3, 6, 3)
            x, y, z = (slice(int(a), int(a + b)) for a, b in zip(low, size, strict=True))
            image[0, x, y, z] += 2.0
            if number % 2:
                image[1, x, y, z] -= 2.0
                label[x, y, z] = 1
        name = f"sub-{seed:03d}{index:02d}_ses-a"
        affine = np.diag([2.0, 2.0, 2.0, 1.0])
        write_case(folder, PreparedCase(name, image, np.ones_like(label), label, affine))
        entries.append(CaseEntry(name, split, labelled=True))
    channels = tuple(entry.modality for entry in plan.inputs)
    write_manifest(folder, PreparedManifest(plan.preparation, tuple(entries), channels))
    return PreparedFolder(folder)


def disturb(path: Path, seed: int) -> None:
    """Change every weight by about a millionth: what training makes of it is chance."""
    random = np.random.default_rng(seed)
    tensors = {
        name: (value * (1 + 1e-6 * random.standard_normal(value.shape))).astype(value.dtype)
        for name, value in load_file(path).items()
    }
    save_file(tensors, path)


def train(way: Way, seed: int, folder: Path) -> Outcome:
    """One federated training; gives the mean Dice of all sites' test cases."""
    plan = plan_of(seed)
    sites = [cohort(folder / f"site-{n}", plan, 10 * seed + n) for n in range(SITES)]
    model, trained, decoded = folder / "model", folder / "trained", folder / "decoded"
    save_weights(initialise(plan), model)
    if way.disturbed:
        disturb(model, seed)
    states: list[SiteState | None] = [None] * SITES
    outcome = Outcome(0.0)
    network = build_network(plan)
    for number in range(ROUNDS):
        updates = []
        for site, cases in enumerate(sites):
            load_weights(network, model)
            done = train_round(network, plan, cases, number, state=states[site])
            states[site] = done.state
            save_weights(network, trained)
            _send(way, folder, site, number, outcome)
            path = decoded.with_name(f"decoded-{site}")
            decode(folder / "sent", model, path, way.spec())
            updates.append(WeightedUpdate(f"site-{site}", float(done.cases), path))
        fedavg(updates, folder / "next")
        (folder / "next").replace(model)
    load_weights(network, model)
    outcome.dice = statistics.fmean(_scores(network, plan, sites))
    return outcome


def _send(way: Way, folder: Path, site: int, number: int, outcome: Outcome) -> None:
    trained, model = folder / "trained", folder / "model"
    feedback = None
    if way.feedback:
        before = folder / f"owed-{site}-{number - 1}"
        feedback = Feedback(before if number else None, folder / f"owed-{site}-{number}")
    encode(trained, model, folder / "packed", way.spec("zstd"), feedback)
    encode(trained, model, folder / "sent", way.spec(), feedback)
    outcome.plain.append((folder / "sent").stat().st_size)
    outcome.packed.append((folder / "packed").stat().st_size)


def _scores(network: nn.Module, plan: Plan, sites: list[PreparedFolder]) -> Iterator[float]:
    for cases in sites:
        for entry in cases.manifest.of_split(Split.TEST):
            yield evaluate_case(network, cases.case(entry), plan).scores["dice"]


def train_all(seed: int) -> list[Outcome]:
    """One training per way, all from the same first weights on the same cases."""
    torch.set_num_threads(1)
    outcomes = []
    for way in WAYS:
        with tempfile.TemporaryDirectory() as name:
            outcomes.append(train(way, seed, Path(name)))
    return outcomes


def learning_table(seeds: tuple[int, ...], workers: int) -> str:
    """Dice and bytes per way, over the seeds."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        per_seed = list(pool.map(train_all, seeds))
    found = {way.name: [each[at] for each in per_seed] for at, way in enumerate(WAYS)}
    base = found["fp32"]
    full = statistics.fmean(sum(o.plain) for o in base)
    rows = []
    for name, outcomes in found.items():
        dice = [o.dice for o in outcomes]
        apart = [o.dice - b.dice for o, b in zip(outcomes, base, strict=True)]
        plain = statistics.fmean(sum(o.plain) for o in outcomes)
        packed = statistics.fmean(sum(o.packed) for o in outcomes)
        rows.append(
            (
                name,
                f"{statistics.fmean(dice):.3f} ± {_sd(dice):.3f}",
                f"{statistics.fmean(apart):+.3f} ± {_sd(apart):.3f}",
                f"{plain / ROUNDS / SITES / 1000:.1f}",
                f"{plain / full:.3f}",
                f"{packed / full:.3f}",
            )
        )
    headings = ("updates", "Dice", "against fp32", "kB per update", "part of fp32", "with zstd")
    return markdown(headings, rows)


def _sd(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _larger(folder: Path) -> tuple[Path, Path]:
    """A larger model and an update of it, of the third round of a real training."""
    plan = plan_of(1, (32, 64, 128, 256))
    cases = cohort(folder / "cases", plan, 1)
    network = initialise(plan)
    state: SiteState | None = None
    for number in range(3):
        save_weights(network, folder / "model")
        state = train_round(network, plan, cases, number, state=state).state
    save_weights(network, folder / "trained")
    return folder / "model", folder / "trained"


def speed_table(folder: Path) -> str:
    """CPU seconds of encoding and decoding per MB of plain weights, median of some runs."""
    model, trained = _larger(folder)
    size = trained.stat().st_size / 1e6
    rows = []
    for encoding in ENCODINGS:
        for compression in ("none", "zstd"):
            spec = UpdateSpec.model_validate({"encoding": encoding, "compression": compression})
            if spec.plain:
                continue
            feedback = Feedback(None, folder / "owed") if spec.feedback else None
            taken: tuple[list[float], list[float]] = ([], [])
            for _ in range(TIMED + 1):
                begun = time.process_time()
                encode(trained, model, folder / "sent", spec, feedback)
                between = time.process_time()
                decode(folder / "sent", model, folder / "out", spec)
                taken[0].append(between - begun)
                taken[1].append(time.process_time() - between)
            sent = (folder / "sent").stat().st_size / 1e6
            medians = [1000 * statistics.median(values[1:]) / size for values in taken]
            rows.append(
                (
                    spec.label,
                    f"{sent:.2f}",
                    f"{sent / size:.3f}",
                    f"{medians[0]:.1f}",
                    f"{medians[1]:.1f}",
                )
            )
    headings = ("updates", "MB sent", "part of plain", "encode, ms per MB", "decode, ms per MB")
    return f"A model of {size:.1f} MB:\n\n" + markdown(headings, rows)


def block_table(model: Path, trained: Path) -> str:
    """What the number of values per scale does to error and size, on the larger model's update."""
    import zstandard

    before, after = load_file(model), load_file(trained)
    steps = [(after[n] - before[n]).ravel() for n in before if before[n].dtype == np.float32]
    exact = sum(float(step @ step) for step in steps)
    full = sum(step.nbytes for step in steps)
    rows = []
    for block in (64, 128, 256, 512, 1024, 4096, 0):
        lost, raw = 0.0, []
        for step in steps:
            whole, scales = quantise(step, block or len(step))
            rest = step - dequantise(whole, scales, block or len(step))
            lost += float(rest @ rest)
            raw += [whole.tobytes(), scales.tobytes()]
        data = b"".join(raw)
        packed = len(zstandard.ZstdCompressor(level=1).compress(data))
        rows.append(
            (
                str(block or "whole tensor") + (" (chosen)" if block == BLOCK else ""),
                f"{(lost / exact) ** 0.5:.4f}",
                f"{len(data) / full:.4f}",
                f"{packed / full:.4f}",
            )
        )
    return markdown(("values per scale", "relative error", "part of fp32", "with zstd"), rows)


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encodings")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="trainings of each; 0: none")
    parser.add_argument("--workers", type=int, default=2, help="trainings at once")
    given = parser.parse_args()
    chosen = SEEDS[: given.seeds]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(speed_table(folder))
        print(block_table(folder / "model", folder / "trained"))
    if not chosen:
        return 0
    print(f"{SITES} sites, {ROUNDS} rounds, {len(chosen)} seeds:\n")
    print(learning_table(chosen, given.workers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
