"""Learning: schedule, patches, network, training, state, inference."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from federation.errors import PreparedDataRefused, TrainingDiverged, WeightsRefused
from federation.learning.evaluation import evaluate_case
from federation.learning.inference import predict, window_starts, window_weight
from federation.learning.losses import DiceCrossEntropy
from federation.learning.networks import (
    build_network,
    initial_weights,
    initialise,
    load_weights,
    weights_bytes,
)
from federation.learning.patches import PatchSampler, augment, cut
from federation.learning.prepared import PreparedCase, PreparedFolder, Split, write_case
from federation.learning.schedule import learning_rate
from federation.learning.state import SiteState, load_state, newest_before, save_state
from federation.learning.training import RoundOutcome, train_round
from federation.metrics import dice
from federation.plan import AugmentationSpec, LossSpec, Plan
from tests.federation.learning.tiny import AFFINE, EDGE, tiny_case, tiny_folder, tiny_plan


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def run_rounds(
    plan: Plan, folder: Path, rounds: int, state: SiteState | None = None
) -> tuple[nn.Module, list[RoundOutcome]]:
    """Train round after round at one site."""
    network, outcomes = initialise(plan), []
    for number in range(rounds):
        outcome = train_round(network, plan, PreparedFolder(folder), number, state=state)
        state = outcome.state
        outcomes.append(outcome)
    return network, outcomes


# --- schedule -------------------------------------------------------------------------------


def scheduled(**schedule: object) -> Plan:
    return tiny_plan({"training": {"rounds": 10, "steps_per_round": 10, "schedule": schedule}})


def test_constant_schedule_is_constant() -> None:
    plan = scheduled(key="constant")
    assert {learning_rate(plan, r, s) for r in range(12) for s in range(10)} == {0.02}


def test_cosine_rises_over_the_warm_up_and_falls_to_the_final_fraction() -> None:
    plan = scheduled(key="cosine", warmup_fraction=0.2, final_fraction=0.1)
    rates = [learning_rate(plan, r, s) for r in range(10) for s in range(10)]
    assert rates[0] == pytest.approx(0.02 / 20)
    assert rates[19] == pytest.approx(0.02)
    assert rates[:20] == sorted(rates[:20])
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert learning_rate(plan, 10, 0) == pytest.approx(0.002)


@given(
    key=st.sampled_from(["constant", "cosine", "one-cycle"]),
    warmup=st.floats(0.0, 0.9),
    final=st.floats(0.0, 1.0),
    round_number=st.integers(0, 20),
    step=st.integers(0, 9),
)
def test_learning_rate_stays_between_nothing_and_the_plans(
    key: str, warmup: float, final: float, round_number: int, step: int
) -> None:
    plan = scheduled(key=key, warmup_fraction=warmup, final_fraction=final)
    assert 0.0 <= learning_rate(plan, round_number, step) <= 0.02 * (1 + 1e-12)


# --- patches --------------------------------------------------------------------------------


@given(
    shape=st.tuples(*[st.integers(1, 12)] * 3),
    size=st.tuples(*[st.integers(1, 12)] * 3),
    centre=st.tuples(*[st.integers(-20, 20)] * 3),
)
def test_cut_keeps_every_voxel_it_can(
    shape: tuple[int, int, int], size: tuple[int, int, int], centre: tuple[int, int, int]
) -> None:
    array = np.arange(1, math.prod(shape) + 1, dtype=np.float32).reshape(1, *shape)
    box = cut(array, centre, size)
    assert box.shape == (1, *size)
    inside = box[box > 0]
    assert len(inside) == math.prod(map(min, shape, size))
    assert len(np.unique(inside)) == len(inside)


def sampler(plan: Plan, folder: Path, seed: int = 0) -> PatchSampler:
    opened = PreparedFolder(folder)
    entries = opened.manifest.of_split(Split.TRAIN)
    return PatchSampler(plan, opened, entries, np.random.default_rng(seed))


def test_patches_on_lesions_hold_a_lesion(tmp_path: Path) -> None:
    plan = tiny_plan({"training": {"foreground_share": 1.0}})
    source = sampler(plan, tiny_folder(tmp_path, plan))
    for _ in range(10):
        batch = source.batch()
        assert batch.image.shape == (2, 2, 16, 16, 16)
        assert batch.image.dtype == np.float32
        assert batch.target.dtype == np.int64
        assert (batch.target.reshape(2, -1).sum(axis=1) > 0).all()
        assert set(np.unique(batch.target)) <= {0, 1}


def test_cases_take_turns_and_are_counted(tmp_path: Path) -> None:
    plan = tiny_plan()
    source = sampler(plan, tiny_folder(tmp_path, plan, training=4))
    source.batch()
    assert (len(source.used), source.drawn) == (2, 2)
    source.batch()
    assert (len(source.used), source.drawn) == (4, 4)


def test_equal_generators_draw_equal_patches(tmp_path: Path) -> None:
    plan = tiny_plan({"training": {"modality_dropout": 0.5}})
    folder = tiny_folder(tmp_path, plan)
    first, second, other = (sampler(plan, folder, seed).batch() for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.target, second.target)
    assert not np.array_equal(first.image, other.image)


def test_only_optional_inputs_are_dropped(tmp_path: Path) -> None:
    plan = tiny_plan({"training": {"modality_dropout": 0.5, "batch_size": 16}})
    image = sampler(plan, tiny_folder(tmp_path, plan)).batch().image
    assert image[:, 0].reshape(16, -1).any(axis=1).all()
    dropped = ~image[:, 1].reshape(16, -1).any(axis=1)
    assert 2 <= dropped.sum() <= 14


def test_label_values_become_class_indices(tmp_path: Path) -> None:
    label = tiny_plan().model_dump(mode="json")["labels"][0]
    plan = tiny_plan({"labels": [{**label, "value": 7}, {**label, "value": 1, "name": "other"}]})
    targets = sampler(plan, tiny_folder(tmp_path, plan)).batch().target
    assert set(np.unique(targets)) == {0, 2}


def test_cases_without_foreground_or_brain_still_give_patches(tmp_path: Path) -> None:
    plan = tiny_plan({"training": {"foreground_share": 1.0}})
    folder = tiny_folder(tmp_path, plan)
    opened = PreparedFolder(folder)
    for entry in opened.manifest.of_split(Split.TRAIN):
        case = opened.case(entry)
        nothing = np.zeros_like(case.brain)
        write_case(folder, dataclasses.replace(case, label=nothing, brain=nothing))
    assert sampler(plan, folder).batch().target.sum() == 0


def test_augmentation_moves_image_and_target_together_and_keeps_zeros() -> None:
    rng = np.random.default_rng(0)
    target = rng.integers(0, 2, (6, 5, 4))
    image = np.stack([target, 2 * target]).astype(np.float32)
    spec = AugmentationSpec(flip=True, scale=0.2, shift=0.2, noise=0.1)
    moved = 0
    for _ in range(20):
        changed, moved_target = augment(image, target, spec, rng)
        np.testing.assert_array_equal(changed[0] != 0, moved_target != 0)
        moved += not np.array_equal(moved_target, target)
    assert moved > 5
    still = AugmentationSpec(flip=False, scale=0.0, shift=0.0, noise=0.0)
    np.testing.assert_array_equal(augment(image, target, still, rng)[0], image)


# --- network and weights --------------------------------------------------------------------


def test_first_weights_follow_the_seed_alone(tmp_path: Path) -> None:
    plan = tiny_plan()
    first = initial_weights(plan, tmp_path / "a")
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert initial_weights(plan, tmp_path / "b") == first
    assert torch.equal(torch.get_rng_state(), before)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert initial_weights(tiny_plan({"seed": 5}), tmp_path / "c") != first


@pytest.mark.parametrize("units", [0, 1, 2])
@pytest.mark.parametrize("norm", ["instance", "group"])
def test_an_untrained_network_predicts_little_foreground(units: int, norm: str) -> None:
    network = initialise(tiny_plan({"network": {"residual_units": units, "norm": norm}}))
    with torch.inference_mode():
        logits = network.eval()(torch.randn(1, 2, 16, 16, 16))
    assert logits.shape == (1, 2, 16, 16, 16)
    assert float(torch.softmax(logits, 1)[:, 1].mean()) < 0.2


def test_weights_survive_the_file(tmp_path: Path) -> None:
    plan = tiny_plan()
    initial_weights(plan, tmp_path / "w")
    network = build_network(plan)
    load_weights(network, tmp_path / "w")
    assert weights_bytes(network) == (tmp_path / "w").read_bytes()


def drop(state: dict[str, Tensor]) -> None:
    state.pop(next(iter(state)))


def add(state: dict[str, Tensor]) -> None:
    state["more"] = torch.zeros(1)


def reshape(state: dict[str, Tensor]) -> None:
    name = next(iter(state))
    state[name] = state[name][None]


def retype(state: dict[str, Tensor]) -> None:
    name = next(iter(state))
    state[name] = state[name].double()


def poison(state: dict[str, Tensor]) -> None:
    next(iter(state.values())).view(-1)[0] = math.nan


def swell(state: dict[str, Tensor]) -> None:
    state["more"] = torch.zeros(2**20)


@pytest.mark.parametrize("change", [drop, add, reshape, retype, poison, swell])
def test_weights_that_do_not_fit_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], None]
) -> None:
    plan = tiny_plan()
    initial_weights(plan, tmp_path / "w")
    state = load_file(tmp_path / "w")
    change(state)
    save_file(state, tmp_path / "w")
    network = build_network(plan)
    before = weights_bytes(network)
    with pytest.raises(WeightsRefused):
        load_weights(network, tmp_path / "w")
    assert weights_bytes(network) == before


def test_unreadable_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"\x80\x04pickle")
    for name in ("w", "none"):
        with pytest.raises(WeightsRefused, match="cannot be read"):
            load_weights(build_network(tiny_plan()), tmp_path / name)


# --- loss -----------------------------------------------------------------------------------


def test_loss_is_what_its_formula_says() -> None:
    logits = torch.zeros(1, 2, 1, 1, 4)
    target = torch.tensor([[[[0, 0, 1, 1]]]])
    soft = 1 - (2 * 0.5 * 2 + 1) / (0.5 * 4 + 2 + 1)
    loss = DiceCrossEntropy(LossSpec(dice_weight=3.0, ce_weight=1.0))(logits, target)
    assert float(loss) == pytest.approx(0.75 * soft + 0.25 * math.log(2), rel=1e-6)


def test_loss_of_a_perfect_answer_is_nothing_even_without_foreground() -> None:
    for target in (torch.zeros(2, 2, 2, 2).long(), torch.ones(2, 2, 2, 2).long()):
        logits = 100.0 * nn.functional.one_hot(target, 2).permute(0, 4, 1, 2, 3).float()
        assert float(DiceCrossEntropy(LossSpec())(logits, target)) < 1e-6


# --- training -------------------------------------------------------------------------------


def best_threshold(cases: list[PreparedCase]) -> float:
    """Dice of the best fixed threshold on the first channel, chosen on these very cases."""
    levels = np.linspace(-1, 3, 41)
    return max(
        float(np.mean([dice(case.image[0] > level, case.label) for case in cases]))
        for level in levels
    )


def test_training_learns_what_no_threshold_can(tmp_path: Path) -> None:
    plan = tiny_plan({"training": {"rounds": 6, "steps_per_round": 8, "batch_size": 4}})
    folder = tiny_folder(tmp_path, plan)
    network, outcomes = run_rounds(plan, folder, 6)
    opened = PreparedFolder(folder)
    cases = [opened.case(entry) for entry in opened.manifest.of_split(Split.TEST)]
    scores = [evaluate_case(network, case, plan).scores["dice"] for case in cases]
    assert outcomes[-1].loss < 0.5 * outcomes[0].loss
    assert best_threshold(cases) < 0.70
    assert min(scores) > 0.80
    assert (outcomes[0].cases, outcomes[0].patches, outcomes[0].steps) == (3, 32, 8)


def test_training_is_reproducible_and_continues_from_saved_state(tmp_path: Path) -> None:
    plan = tiny_plan()
    folder = tiny_folder(tmp_path / "data", plan)
    straight, outcomes = run_rounds(plan, folder, 2)
    network = initialise(plan)
    first = train_round(network, plan, PreparedFolder(folder), 0, state=None)
    path = save_state(tmp_path, first.state)
    second = train_round(network, plan, PreparedFolder(folder), 1, state=load_state(path))
    assert weights_bytes(network) == weights_bytes(straight)
    assert second.loss == outcomes[1].loss


def test_optimiser_state_is_kept_only_where_the_plan_says_so(tmp_path: Path) -> None:
    updates = {}
    for where in ("site", "reset"):
        plan = tiny_plan({"optimiser": {"state": where}})
        network, outcomes = run_rounds(plan, tiny_folder(tmp_path, plan), 2)
        updates[where] = weights_bytes(network)
        steps = {float(values["step"]) for values in outcomes[1].state.optimiser.values()}
        assert steps == {8.0 if where == "site" else 4.0}
    assert updates["site"] != updates["reset"]


def test_random_state_goes_on_between_rounds(tmp_path: Path) -> None:
    plan = tiny_plan({"optimiser": {"key": "sgd", "learning_rate": 1e-9, "momentum": 0.0}})
    _, outcomes = run_rounds(plan, tiny_folder(tmp_path, plan), 2)
    assert outcomes[0].loss != pytest.approx(outcomes[1].loss, rel=1e-6)


def test_sites_draw_different_patches(tmp_path: Path) -> None:
    plan = tiny_plan()
    states = [
        run_rounds(plan, tiny_folder(tmp_path / str(seed), plan, seed=seed), 1)[1][0].state
        for seed in (1, 2)
    ]
    assert states[0].numpy_rng != states[1].numpy_rng


def test_a_site_with_too_few_cases_does_not_train(tmp_path: Path) -> None:
    plan = tiny_plan({"privacy": {"minimum_training_cases": 4}})
    with pytest.raises(PreparedDataRefused, match="at least 4"):
        run_rounds(plan, tiny_folder(tmp_path, plan), 1)


def test_divergence_is_an_error_not_an_update(tmp_path: Path) -> None:
    plan = tiny_plan()
    network = initialise(plan)
    with torch.no_grad():
        next(network.parameters()).fill_(3e38)
    with pytest.raises(TrainingDiverged, match="round 0"):
        train_round(network, plan, PreparedFolder(tiny_folder(tmp_path, plan)), 0, state=None)


# --- state ----------------------------------------------------------------------------------


def test_state_files_are_chosen_by_round_and_old_ones_go(tmp_path: Path) -> None:
    plan = tiny_plan()
    _, outcomes = run_rounds(plan, tiny_folder(tmp_path / "data", plan), 1)
    for number in range(4):
        save_state(tmp_path, dataclasses.replace(outcomes[0].state, round=number))
    kept = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert kept == ["after-000002.safetensors", "after-000003.safetensors"]
    newest = newest_before(tmp_path, 3)
    assert newest is not None
    assert newest.name == "after-000002.safetensors"
    assert newest_before(tmp_path, 2) is None


def test_equal_states_give_equal_files(tmp_path: Path) -> None:
    plan = tiny_plan()
    folder = tiny_folder(tmp_path / "data", plan)
    files = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        files.append(save_state(tmp_path / name, run_rounds(plan, folder, 1)[1][0].state))
    assert files[0].read_bytes() == files[1].read_bytes()


def test_states_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    plan = tiny_plan()
    folder = tiny_folder(tmp_path / "data", plan)
    state = run_rounds(plan, folder, 1)[1][0].state
    larger = tiny_plan({"network": {"channels": [4, 16]}})
    with pytest.raises(WeightsRefused, match="another network"):
        run_rounds(larger, folder, 1, state)
    with pytest.raises(WeightsRefused, match="another network"):
        run_rounds(plan, folder, 1, dataclasses.replace(state, optimiser={999: {}}))
    with pytest.raises(WeightsRefused, match="random state"):
        run_rounds(plan, folder, 1, dataclasses.replace(state, numpy_rng={}))
    path = save_state(tmp_path, state)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WeightsRefused, match="cannot be read"):
        load_state(path)


# --- inference ------------------------------------------------------------------------------


@given(extent=st.integers(1, 400), edge=st.integers(4, 64))
def test_windows_cover_everything_and_stay_inside(extent: int, edge: int) -> None:
    starts = window_starts(extent, edge)
    covered = np.zeros(max(extent, edge), dtype=int)
    for start in starts:
        assert 0 <= start <= max(extent, edge) - edge
        covered[start : start + edge] += 1
    assert covered.min() >= 1
    assert all(b - a <= math.ceil(0.75 * edge) for a, b in itertools.pairwise(starts))


def test_window_weight_is_largest_in_the_middle() -> None:
    weight = window_weight((4, 6, 8))
    assert weight.shape == (4, 6, 8)
    assert float(weight.min()) > 0
    assert float(weight[1, 2, 3]) == pytest.approx(float(weight.max()))
    assert torch.equal(weight, weight.flip(0, 1, 2))


class _ByThreshold(nn.Module):
    """Foreground where the first channel is above 1: an answer that windows cannot change."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.largest = 0

    def forward(self, image: Tensor) -> Tensor:
        self.largest = max(self.largest, image.shape[0])
        level = self.scale * (image[:, :1] - 1.0)
        return torch.cat([torch.zeros_like(level), level], dim=1)


@pytest.mark.parametrize("shape", [(24, 24, 24), (7, 40, 16), (16, 16, 17)])
def test_windows_put_together_give_the_whole(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(1)
    image = rng.normal(1.0, 1.0, (2, *shape)).astype(np.float32)
    brain = (rng.random(shape) < 0.5).astype(np.uint8)
    case = PreparedCase("sub-a", image, brain, None, AFFINE)
    network = _ByThreshold()
    found = predict(network, case, tiny_plan())
    np.testing.assert_array_equal(found, (image[0] > 1) & (brain > 0))
    assert found.dtype == np.uint8
    assert network.largest <= 2


def test_a_case_without_brain_is_background_and_costs_nothing() -> None:
    case = dataclasses.replace(tiny_case("sub-a", 1), brain=np.zeros((EDGE, EDGE, EDGE), np.uint8))
    network = _ByThreshold()
    assert not predict(network, case, tiny_plan()).any()
    assert network.largest == 0


def test_evaluation_needs_a_label_and_counts_volumes() -> None:
    plan = tiny_plan()
    case = tiny_case("sub-a", 1)
    scores = evaluate_case(_ByThreshold(), case, plan)
    assert tuple(scores.scores) == plan.evaluation.metrics
    assert case.label is not None
    assert scores.reference_ml == pytest.approx(case.label.sum() * 0.008)
    assert scores.scores["sensitivity"] > 0.9
    with pytest.raises(PreparedDataRefused, match="without label"):
        evaluate_case(_ByThreshold(), dataclasses.replace(case, label=None), plan)
