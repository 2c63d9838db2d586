"""NVFLARE's side of the benchmark: its own FedAvg, and an executor that adds a constant."""

from __future__ import annotations

import time
from pathlib import Path

import model as bench_model
from nvflare.apis.executor import Executor
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.app_common.workflows.fedavg import FedAvg


class Rounds(FedAvg):
    """FedAvg from an initial model that is made here; the beginning of each round is noted.

    The global model is not saved: the peer is spared that write.
    """

    def __init__(self, megabytes: int, starts: str, **options):
        super().__init__(**options)
        self._megabytes, self._starts = megabytes, Path(starts)

    def load_model(self):
        return FLModel(params=bench_model.tensors(self._megabytes))

    def sample_clients(self, num_clients=None):
        with self._starts.open("a") as stream:
            stream.write(f"{time.time():.6f}\n")
        return super().sample_clients(num_clients)

    def save_model(self, model):
        pass


class AddConstant(Executor):
    """Stands in for training."""

    def execute(self, task_name, shareable, fl_ctx, abort_signal):
        received = FLModelUtils.from_shareable(shareable, fl_ctx)
        step = bench_model.step_of(fl_ctx.get_identity_name(), received.current_round or 0)
        for value in received.params.values():
            value += value.dtype.type(step)
        made = FLModel(params=received.params, params_type=received.params_type)
        return FLModelUtils.to_shareable(made)
