"""Model folders: written, checked, used."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch

from federation.errors import PlanRefused, PreparedDataRefused, WeightsRefused
from federation.learning.inference import predict
from federation.learning.model import ModelFolder, read_model, write_model
from federation.learning.networks import initial_weights, initialise
from federation.learning.segment import Segmenter
from federation.manifest import manifest_for
from federation.plan import Plan
from tests.federation.learning.tiny import tiny_case, tiny_plan


def exported(root: Path, plan: Plan) -> ModelFolder:
    """A model folder with the plan's first weights."""
    sha256 = initial_weights(plan, root / "w")
    manifest = manifest_for(plan, 0, (sha256, (root / "w").stat().st_size), ())
    return write_model(root / "model", manifest, plan, root / "w")


def test_a_model_folder_comes_back_as_it_was(tmp_path: Path) -> None:
    model = exported(tmp_path, tiny_plan())
    found = read_model(tmp_path / "model")
    assert found == model
    assert found.manifest.id == model.manifest.id
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "manifest.json",
        "plan.json",
        "weights.safetensors",
    ]


def test_a_model_of_other_weights_or_plan_is_not_written(tmp_path: Path) -> None:
    model = exported(tmp_path, tiny_plan())
    other = tiny_plan({"seed": 1})
    with pytest.raises(WeightsRefused, match="plan"):
        write_model(tmp_path / "new", model.manifest, other, tmp_path / "w")
    initial_weights(other, tmp_path / "w")
    with pytest.raises(WeightsRefused, match="weights"):
        write_model(tmp_path / "new", model.manifest, tiny_plan(), tmp_path / "w")
    assert not (tmp_path / "new" / "manifest.json").exists()


@pytest.mark.parametrize("name", ["manifest.json", "plan.json", "weights.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "cut", "long", "changed", "huge"])
def test_damaged_model_folders_are_refused(tmp_path: Path, name: str, damage: str) -> None:
    exported(tmp_path, tiny_plan())
    path = tmp_path / "model" / name
    raw = path.read_bytes()
    path.unlink()
    flipped = raw[:-20] + bytes([raw[-20] ^ 1]) + raw[-19:]
    content = {
        "cut": raw[:-1],
        "long": raw + b" ",
        "changed": flipped,
        "huge": raw + b" " * 300_000,
    }.get(damage)
    if content is not None:
        path.write_bytes(content)
    if damage == "long" and name.endswith(".json"):
        read_model(tmp_path / "model")  # white space at the end changes no meaning
        return
    if damage == "changed" and name == "manifest.json":
        # The manifest is the identity: changed, it is another model's, or nothing at all.
        with contextlib.suppress(WeightsRefused):
            assert read_model(tmp_path / "model").manifest.to_json() != raw
        return
    with pytest.raises((WeightsRefused, PlanRefused)):
        read_model(tmp_path / "model")


def test_segmenting_is_the_networks_answer(tmp_path: Path) -> None:
    plan = tiny_plan()
    model = exported(tmp_path, plan)
    case = tiny_case("sub-a", 3, labelled=False)
    threads = torch.get_num_threads()
    found = Segmenter(model, threads=1).segment(case)
    torch.set_num_threads(threads)
    np.testing.assert_array_equal(found.mask, predict(initialise(plan), case, plan))
    np.testing.assert_array_equal(found.affine, case.affine)
    fewer = Segmenter(exported(tmp_path, tiny_plan({"inputs": [{"modality": "FLAIR"}]})))
    with pytest.raises(PreparedDataRefused, match="takes 1 channels, the image has 2"):
        fewer.segment(case)
