"""Networks of the registry, their first weights, and weights files.

Weights travel as safetensors of the model's state dict. A file is accepted only when its names,
shapes and types are those of the plan's network and every value is finite.
"""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from monai.networks.nets.unet import UNet
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import save as serialise
from torch import Tensor, nn

from federation.errors import WeightsRefused
from federation.learning.prepared import write_atomically
from federation.plan import Plan

FOREGROUND_PRIOR: Final = 0.02
"""Share of foreground voxels that an untrained network predicts: the last layer's bias starts
there, so that the first rounds are not spent on learning that most of a head is background."""
MEMORY_FORMAT: Final = torch.channels_last_3d
"""Channels vary fastest in memory: about a third less time per step on CPUs."""
_GROUPS: Final = 2


def build_network(plan: Plan) -> nn.Module:
    """The plan's network: (N, C, X, Y, Z) float32 to logits (N, 1 + labels, X, Y, Z).

    Class 0 is background, class i the plan's i-th label.
    """
    spec = plan.network
    norm: tuple[str, dict[str, object]] = ("INSTANCE", {"affine": True})
    if spec.norm == "group":
        norm = ("GROUP", {"num_groups": _GROUPS})
    network: nn.Module = UNet(
        spatial_dims=3,
        in_channels=len(plan.inputs),
        out_channels=1 + len(plan.labels),
        channels=spec.channels,
        strides=spec.strides,
        num_res_units=spec.residual_units,
        norm=norm,
        dropout=spec.dropout,
    )
    for parameter in network.parameters():
        if parameter.dim() == 5:
            parameter.data = parameter.data.contiguous(memory_format=MEMORY_FORMAT)
    return network


def initialise(plan: Plan) -> nn.Module:
    """A network with the plan's first weights, the same on every machine for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        network = build_network(plan)
    _set_prior(network, 1 + len(plan.labels))
    return network


def _set_prior(network: nn.Module, classes: int) -> None:
    """Shift the last layer's bias to predict ``FOREGROUND_PRIOR`` for each label."""
    last = [
        module
        for module in network.modules()
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d)
        and module.out_channels == classes
        and module.bias is not None
    ][-1]
    with torch.no_grad():
        if last.bias is not None:
            last.bias[0] += math.log((1.0 - FOREGROUND_PRIOR) / FOREGROUND_PRIOR)


def weights_bytes(network: nn.Module) -> bytes:
    """The network's state dict as safetensors bytes; equal weights give equal bytes."""
    state = {
        name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()
    }
    return serialise(state)


def save_weights(network: nn.Module, path: Path) -> str:
    """Write the network's weights and return the file's SHA-256 in hexadecimal."""
    data = weights_bytes(network)
    write_atomically(path, data)
    return hashlib.sha256(data).hexdigest()


def initial_weights(plan: Plan, out: Path) -> str:
    """Write the plan's first weights to ``out``; returns the file's SHA-256 in hexadecimal."""
    return save_weights(initialise(plan), out)


def load_weights(network: nn.Module, path: Path) -> None:
    """Load a weights file into a network after checking it.

    Raises:
        WeightsRefused: when the file is unreadable or does not fit the network.
    """
    wanted = network.state_dict()
    limit = 2 * sum(tensor.numel() * tensor.element_size() for tensor in wanted.values()) + 2**20
    try:
        if path.stat().st_size > limit:
            raise WeightsRefused(f"the weights file is larger than {limit} bytes")
        found = load_bytes(path.read_bytes())
    except (OSError, SafetensorError, ValueError) as error:
        raise WeightsRefused("the weights file cannot be read") from error
    problems = _misfits(wanted, found)
    if problems:
        raise WeightsRefused("the weights do not fit the plan's network: " + "; ".join(problems))
    network.load_state_dict(found)


def _misfits(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    problems = []
    missing, extra = wanted.keys() - found.keys(), found.keys() - wanted.keys()
    if missing or extra:
        problems.append(f"{len(missing)} tensors are missing and {len(extra)} are unknown")
    for name in sorted(wanted.keys() & found.keys()):
        mine, theirs = wanted[name], found[name]
        if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
            problems.append(
                f"{name} is {theirs.dtype} {tuple(theirs.shape)}"
                f" instead of {mine.dtype} {tuple(mine.shape)}"
            )
        elif not bool(torch.isfinite(theirs).all()):
            problems.append(f"{name} holds values that are not finite")
    return problems


def is_finite(network: nn.Module) -> bool:
    """Whether every weight and buffer is a finite number."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in network.state_dict().values())
