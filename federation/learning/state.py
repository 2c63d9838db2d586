"""What a site keeps between rounds: the optimiser's state and the random state.

One safetensors file per finished round: optimiser tensors as ``<parameter index>.<name>``, torch's
random state as ``torch_rng``, and one metadata entry ``state`` (JSON) with the round, the scalars
and numpy's generator state. Nothing is pickled.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor
from torch.optim import Optimizer

from federation.errors import WeightsRefused
from federation.learning.prepared import write_atomically

STATE_FORMAT: Final = 1
KEPT_STATES: Final = 2
"""States kept: the newest and the one that the newest round started from."""


@dataclass(frozen=True, slots=True)
class SiteState:
    """State after a round.

    Attributes:
        round: The round that it was saved after.
        optimiser: Per parameter index the optimiser's tensors and scalars.
        numpy_rng: State of the sampler's generator (``bit_generator.state``).
        torch_rng: State of torch's CPU generator, uint8.
    """

    round: int
    optimiser: dict[int, dict[str, Tensor | float]]
    numpy_rng: dict[str, Any]
    torch_rng: Tensor


def state_path(folder: Path, round_number: int) -> Path:
    """The file of the state after a round."""
    return folder / f"after-{round_number:06d}.safetensors"


def newest_before(folder: Path, round_number: int) -> Path | None:
    """The newest state saved after a round before this one, or None."""
    rounds = sorted(
        int(path.stem.removeprefix("after-")) for path in folder.glob("after-*.safetensors")
    )
    earlier = [number for number in rounds if number < round_number]
    return state_path(folder, earlier[-1]) if earlier else None


def capture(round_number: int, optimiser: Optimizer, generator: np.random.Generator) -> SiteState:
    """The present state of an optimiser, the sampler's generator and torch's."""
    state: dict[int, dict[str, Tensor | float]] = {}
    for index, values in optimiser.state_dict()["state"].items():
        state[int(index)] = {
            name: value if isinstance(value, Tensor) else float(value)
            for name, value in values.items()
            if value is not None
        }
    rng = dict(generator.bit_generator.state)
    return SiteState(round_number, state, rng, torch.get_rng_state())


def restore(state: SiteState, optimiser: Optimizer, generator: np.random.Generator) -> None:
    """Put a captured state back.

    Raises:
        WeightsRefused: when it does not fit the optimiser's parameters.
    """
    document = optimiser.state_dict()
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    restored: dict[int, dict[str, Tensor | float]] = {}
    for index, values in state.optimiser.items():
        if not 0 <= index < len(parameters):
            raise WeightsRefused("the saved optimiser state is of another network")
        restored[index] = {name: _like(value, parameters[index]) for name, value in values.items()}
    document["state"] = restored
    optimiser.load_state_dict(document)
    try:
        generator.bit_generator.state = state.numpy_rng
        torch.set_rng_state(state.torch_rng)
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        raise WeightsRefused("the saved random state cannot be used") from error


def _like(value: Tensor | float, parameter: Tensor) -> Tensor | float:
    """A copy of a saved value; one of the parameter's shape also gets its memory layout."""
    if not isinstance(value, Tensor):
        return value
    if not value.dim():
        return value.clone()
    if value.shape != parameter.shape:
        raise WeightsRefused("the saved optimiser state is of another network")
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def save_state(folder: Path, state: SiteState) -> Path:
    """Write a state and remove all but the ``KEPT_STATES`` newest up to this round."""
    tensors: dict[str, Tensor] = {"torch_rng": state.torch_rng}
    scalars: dict[str, dict[str, float]] = {}
    for index, values in state.optimiser.items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value.detach().cpu().contiguous()
            else:
                scalars.setdefault(str(index), {})[name] = value
    document = {
        "format": STATE_FORMAT,
        "round": state.round,
        "scalars": scalars,
        "numpy_rng": state.numpy_rng,
    }
    path = state_path(folder, state.round)
    write_atomically(path, serialise(tensors, {"state": json.dumps(document, sort_keys=True)}))
    for old in sorted(folder.glob("after-*.safetensors"))[:-KEPT_STATES]:
        if old < path:
            old.unlink(missing_ok=True)
    return path


def load_state(path: Path) -> SiteState:
    """Read what :func:`save_state` wrote.

    Raises:
        WeightsRefused: when the file breaks the format.
    """
    try:
        with safe_open(path, framework="pt") as stream:
            document = json.loads((stream.metadata() or {})["state"])
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        if document["format"] != STATE_FORMAT:
            raise WeightsRefused("the saved optimiser state has an unknown format version")
        torch_rng = tensors.pop("torch_rng")
        optimiser: dict[int, dict[str, Tensor | float]] = {}
        for name, tensor in tensors.items():
            index, _, key = name.partition(".")
            optimiser.setdefault(int(index), {})[key] = tensor
        for index, values in document["scalars"].items():
            optimiser.setdefault(int(index), {}).update(values)
        return SiteState(int(document["round"]), optimiser, document["numpy_rng"], torch_rng)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise WeightsRefused("the saved optimiser state cannot be read") from error
