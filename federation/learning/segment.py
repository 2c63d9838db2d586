"""Segment prepared cases with a model folder in this process (``clinode tools segment``)."""

import torch

from federation.errors import PreparedDataRefused
from federation.learning.inference import predict
from federation.learning.model import ModelFolder
from federation.learning.networks import build_network, load_weights
from federation.learning.prepared import PredictedMask, PreparedCase


class Segmenter:
    """A model loaded for inference.

    Args:
        model: The checked model folder.
        threads: CPU threads for tensor work; None leaves torch's default.
        device: Torch device.

    Raises:
        WeightsRefused: when the weights do not fit the plan's network.
    """

    def __init__(
        self, model: ModelFolder, *, threads: int | None = None, device: str = "cpu"
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.model = model
        self._network = build_network(model.plan)
        load_weights(self._network, model.weights)
        self._network.to(torch.device(device)).eval()

    def segment(self, case: PreparedCase) -> PredictedMask:
        """The model's mask (X, Y, Z) uint8 on the prepared grid, the plan's label values.

        Raises:
            PreparedDataRefused: when the case has other channels than the plan has inputs.
        """
        wanted = len(self.model.plan.inputs)
        if case.image.shape[0] != wanted:
            raise PreparedDataRefused(
                f"the model takes {wanted} channels, the image has {case.image.shape[0]}"
            )
        return PredictedMask(predict(self._network, case, self.model.plan), case.affine)
