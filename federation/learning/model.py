"""A model as a folder: ``manifest.json``, ``plan.json`` and ``weights.safetensors``.

This is what ``clinode run export`` writes and ``clinode tools segment`` reads. Torch is not loaded.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from federation.errors import RequestRefused, WeightsRefused
from federation.learning.prepared import write_atomically
from federation.manifest import MAX_MANIFEST_BYTES, ModelManifest
from federation.plan import MAX_PLAN_BYTES, Plan, canonical_json, parse_plan, plan_hash

MANIFEST_FILE: Final = "manifest.json"
PLAN_FILE: Final = "plan.json"
WEIGHTS_FILE: Final = "weights.safetensors"


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model whose three files were checked against each other.

    Attributes:
        manifest: The model's identity.
        plan: The plan that it was trained by.
        weights: The weights' file.
    """

    manifest: ModelManifest
    plan: Plan
    weights: Path


def write_model(folder: Path, manifest: ModelManifest, plan: Plan, weights: Path) -> ModelFolder:
    """Write a model folder; the manifest comes last, it makes the folder valid.

    Raises:
        WeightsRefused: when plan or weights are not those that the manifest names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{WEIGHTS_FILE}.part"
    shutil.copyfile(weights, partial)
    partial.replace(folder / WEIGHTS_FILE)
    write_atomically(folder / PLAN_FILE, canonical_json(plan))
    model = ModelFolder(manifest, plan, folder / WEIGHTS_FILE)
    _check(model)
    write_atomically(folder / MANIFEST_FILE, manifest.to_json())
    return model


def read_model(folder: Path) -> ModelFolder:
    """Read and check a model folder.

    Raises:
        WeightsRefused: when a file is missing, too large, or not the one that the manifest names.
        PlanRefused: when the plan breaks a rule.
    """
    try:
        manifest = ModelManifest.from_json(_capped(folder / MANIFEST_FILE, MAX_MANIFEST_BYTES))
        plan = parse_plan(_capped(folder / PLAN_FILE, MAX_PLAN_BYTES))
        model = ModelFolder(manifest, plan, folder / WEIGHTS_FILE)
        _check(model)
    except OSError as error:
        raise WeightsRefused(
            f"a model folder holds {MANIFEST_FILE}, {PLAN_FILE} and {WEIGHTS_FILE};"
            f" one of them cannot be read ({error.strerror})"
        ) from error
    except RequestRefused as error:
        raise WeightsRefused(str(error)) from error
    return model


def _check(model: ModelFolder) -> None:
    if plan_hash(model.plan) != model.manifest.plan_hash:
        raise WeightsRefused("the model's plan is not the one that its manifest names")
    size = model.weights.stat().st_size
    if size != model.manifest.weights_size:
        raise WeightsRefused(
            f"the model's weights have {size} bytes, the manifest says"
            f" {model.manifest.weights_size}"
        )
    if not model.manifest.describes(model.weights):
        raise WeightsRefused("the model's weights are not the ones that its manifest names")


def _capped(path: Path, limit: int) -> bytes:
    with path.open("rb") as stream:
        raw = stream.read(limit + 1)
    if len(raw) > limit:
        raise WeightsRefused(f"{path.name} is larger than {limit} bytes")
    return raw
