"""Flower's side of the benchmark: its own FedAvg, and a client that adds a constant."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from bench_app import model as bench_model
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

client = ClientApp()
server = ServerApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """Stands in for training."""
    number = int(message.content["config"]["server-round"])
    step = np.float32(bench_model.step_of(str(context.node_config["site"]), number))
    arrays = message.content["arrays"].to_numpy_ndarrays(keep_input=False)
    names = list(bench_model.shapes(int(message.content["config"]["megabytes"])))
    made = {name: Array(value + step) for name, value in zip(names, arrays, strict=True)}
    content = RecordDict(
        {"arrays": ArrayRecord(made), "metrics": MetricRecord({"num-examples": 10})}
    )
    return Message(content=content, reply_to=message)


class Rounds(FedAvg):
    """FedAvg; the beginning of each round is noted."""

    starts: Path

    def configure_train(self, server_round, arrays, config, grid):
        with self.starts.open("a") as stream:
            stream.write(f"{time.time():.6f}\n")
        return super().configure_train(server_round, arrays, config, grid)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """All rounds."""
    options = context.run_config
    sites = int(options["sites"])
    strategy = Rounds(
        fraction_train=1.0,
        fraction_evaluate=0.0,
        min_train_nodes=sites,
        min_evaluate_nodes=0,
        min_available_nodes=sites,
    )
    strategy.starts = Path(str(options["starts"]))
    from flwr.app import ConfigRecord

    megabytes = int(options["megabytes"])
    tensors = bench_model.tensors(megabytes)
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord({name: Array(value) for name, value in tensors.items()}),
        num_rounds=int(options["rounds"]),
        train_config=ConfigRecord({"megabytes": megabytes}),
    )
