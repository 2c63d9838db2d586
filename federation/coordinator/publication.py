"""The manifest of a run's finished model."""

from __future__ import annotations

from federation.coordinator.objects import ObjectStore
from federation.coordinator.schema import RoundRow
from federation.manifest import ModelManifest, manifest_for
from federation.plan import Plan


def published_manifest(
    objects: ObjectStore, plan: Plan, last: RoundRow, before: RoundRow
) -> ModelManifest:
    """The manifest that goes out with the model of a run's last round; it names both hashes.

    Args:
        objects: where the weights lie.
        plan: the run's plan.
        last: the round that made the model.
        before: the round whose model it was made from.
    """
    name, size = str(last.weights_sha256), int(last.weights_size or 0)
    parents = (str(before.model_id),)
    return manifest_for(plan, last.number, (name, size), parents, objects.sha256(name))
