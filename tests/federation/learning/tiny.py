"""A plan and a cohort small enough to train in seconds.

Lesions are bright in the first channel and dark in the second; mimics are bright in the first
only, so that no threshold on the first channel can tell them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from federation.learning.prepared import (
    CaseEntry,
    PreparedCase,
    PreparedManifest,
    Split,
    write_case,
    write_manifest,
)
from federation.plan import Plan, ms_lesion_demo_plan, parse_plan

EDGE = 24
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def tiny_plan(changes: Mapping[str, Any] | None = None) -> Plan:
    """The demo's plan with a tiny network and patches; ``changes`` go by section."""
    document = ms_lesion_demo_plan(2).model_dump(mode="json")
    document["network"].update(channels=[4, 8], strides=[2], residual_units=1)
    document["training"].update(
        rounds=4,
        steps_per_round=4,
        batch_size=2,
        patch_size=[16, 16, 16],
        modality_dropout=0.0,
        schedule={"key": "constant", "warmup_fraction": 0.0, "final_fraction": 0.0},
    )
    document["optimiser"]["learning_rate"] = 0.02
    document["privacy"]["minimum_training_cases"] = 2
    for section, values in (changes or {}).items():
        if isinstance(document.get(section), dict):
            document[section].update(values)
        else:
            document[section] = values
    return parse_plan(document)


def tiny_case(name: str, seed: int, *, labelled: bool = True) -> PreparedCase:
    """One case: noise, three lesions, three mimics."""
    rng = np.random.default_rng(seed)
    image = rng.normal(0.0, 0.3, (2, EDGE, EDGE, EDGE)).astype(np.float32)
    label = np.zeros((EDGE, EDGE, EDGE), dtype=np.uint8)
    for index in range(6):
        x, y, z = rng.integers(2, EDGE - 6, 3)
        box = (slice(x, x + 4), slice(y, y + 4), slice(z, z + 4))
        image[(0, *box)] += 2.0
        if index % 2:
            image[(1, *box)] -= 2.0
            label[box] = 1
    brain = np.ones_like(label)
    return PreparedCase(name, image, brain, label if labelled else None, AFFINE)


def tiny_folder(path: Path, plan: Plan, *, seed: int = 0, training: int = 3) -> Path:
    """A prepared folder: training cases, two test cases and one unlabelled."""
    path.mkdir(parents=True, exist_ok=True)
    entries = []
    for index in range(training + 3):
        split = Split.TRAIN if index < training else Split.TEST
        if index == training + 2:
            split = Split.INFER
        name = f"sub-{seed}{index:02d}_ses-a"
        labelled = split is not Split.INFER
        write_case(path, tiny_case(name, 100 * seed + index, labelled=labelled))
        entries.append(CaseEntry(name, split, labelled))
    channels = tuple(entry.modality for entry in plan.inputs)
    write_manifest(path, PreparedManifest(plan.preparation, tuple(entries), channels))
    return path
