"""Scores of a model on labelled cases."""

import numpy as np
from torch import nn

from federation.errors import PreparedDataRefused
from federation.learning.inference import predict
from federation.learning.prepared import PreparedCase
from federation.metrics import score
from federation.plan import Plan
from federation.trainer.jobs import CaseScores


def evaluate_case(network: nn.Module, case: PreparedCase, plan: Plan) -> CaseScores:
    """Segment one case and score it.

    With several labels each metric is the unweighted mean over the labels; the volumes are sums.

    Args:
        network: The plan's network with its weights.
        case: A labelled prepared case.
        plan: Labels and metrics.

    Raises:
        PreparedDataRefused: when the case has no label.
    """
    if case.label is None:
        raise PreparedDataRefused("a case without label cannot be scored")
    predicted = predict(network, case, plan)
    per_label = [
        score(predicted == label.value, case.label == label.value, case.voxel_ml, metrics)
        for metrics in (plan.evaluation.metrics,)
        for label in plan.labels
    ]
    known = [label.value for label in plan.labels]
    return CaseScores(
        case=case.case,
        scores={
            name: sum(scores[name] for scores in per_label) / len(per_label)
            for name in plan.evaluation.metrics
        },
        reference_ml=float(np.isin(case.label, known).sum()) * case.voxel_ml,
        predicted_ml=float((predicted > 0).sum()) * case.voxel_ml,
    )
