"""What identifies a model: a canonical-JSON manifest whose SHA-256 is the model's id."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from federation.canonical import JSON, canonical_json, sha256_file, sha256_hex
from federation.chunks import ChunkList
from federation.errors import RequestRefused
from federation.plan import Plan, plan_hash

MANIFEST_FORMAT: Final = 2
FORMATS: Final = (1, MANIFEST_FORMAT)
"""Formats that are read; 1 names the weights by their plain SHA-256 only."""
MAX_MANIFEST_BYTES: Final = 256 * 1024
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ModelManifest:
    """A model's identity; metrics lie outside it.

    Attributes:
        plan_name: Name of the plan, in DICOM the algorithm's name.
        plan_hash: SHA-256 of the plan's canonical JSON.
        round: The round that made these weights; 0 is the initial model.
        weights_sha256: SHA-256 of the weights' safetensors file, as ``sha256sum`` prints it. Of a
            model that was not published: its name.
        weights_size: Size of that file in bytes.
        parents: Ids of the models it was made from; empty for the initial model.
        preparation: The plan's preparation section.
        inputs: The plan's inputs, in channel order.
        labels: The plan's labels.
        network: The plan's network section.
        weights: The name of the weights as an object (see :mod:`federation.chunks`); "" in models
            of format 1 and in those that were not published.
    """

    plan_name: str
    plan_hash: str
    round: int
    weights_sha256: str
    weights_size: int
    parents: tuple[str, ...]
    preparation: Mapping[str, JSON]
    inputs: Sequence[JSON]
    labels: Sequence[JSON]
    network: Mapping[str, JSON]
    weights: str = ""

    @property
    def weights_name(self) -> str:
        """What the weights are called in the federation."""
        return self.weights or self.weights_sha256

    @property
    def id(self) -> str:
        """The model's id, in DICOM the algorithm's version.

        SHA-256 of the manifest's canonical JSON with the weights named once, by their name: a model
        has the same id before and after it is published.
        """
        return sha256_hex(canonical_json(self._document(self.weights_name)))

    def describes(self, weights: Path) -> bool:
        """Whether a file holds these weights."""
        if self.weights:
            return ChunkList.of_file(weights).name == self.weights
        return sha256_file(weights) == self.weights_sha256

    def to_json(self) -> bytes:
        """Canonical JSON (RFC 8785)."""
        document = self._document(self.weights_sha256)
        if self.weights:
            document |= {"format": MANIFEST_FORMAT, "weights": self.weights}
        return canonical_json(document)

    def _document(self, weights_sha256: str) -> dict[str, JSON]:
        return {
            "format": FORMATS[0],
            "plan_name": self.plan_name,
            "plan_hash": self.plan_hash,
            "round": self.round,
            "weights_sha256": weights_sha256,
            "weights_size": self.weights_size,
            "parents": list(self.parents),
            "preparation": self.preparation,
            "inputs": list(self.inputs),
            "labels": list(self.labels),
            "network": self.network,
        }

    @classmethod
    def from_json(cls, raw: bytes) -> ModelManifest:
        """Read :meth:`to_json`.

        Raises:
            RequestRefused: the bytes are no manifest of this format.
        """
        try:
            if len(raw) > MAX_MANIFEST_BYTES:
                raise ValueError(f"{len(raw)} bytes exceed {MAX_MANIFEST_BYTES}")
            document = json.loads(raw)
            if document.pop("format") not in FORMATS:
                raise ValueError("its format version is unknown")
            document["parents"] = tuple(document["parents"])
            manifest = cls(**document)
            hashes = manifest.plan_hash, manifest.weights_sha256, manifest.weights_name
            if not all(_HEX.fullmatch(text) for text in hashes):
                raise ValueError("a hash is not 64 hexadecimal digits")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RequestRefused(f"a model manifest cannot be read: {error}") from error
        return manifest


def manifest_for(
    plan: Plan,
    round_index: int,
    weights: tuple[str, int],
    parents: tuple[str, ...],
    sha256: str = "",
) -> ModelManifest:
    """The manifest of the model that ``plan`` has after a round.

    Args:
        plan: the plan.
        round_index: 0 for the initial model.
        weights: name and size in bytes of the weights.
        parents: ids of the models it was made from.
        sha256: the plain SHA-256 of the weights' file, where it has been computed: at publication.
    """
    document = cast("dict[str, JSON]", plan.model_dump(mode="json"))
    return ModelManifest(
        plan_name=plan.name,
        plan_hash=plan_hash(plan),
        round=round_index,
        weights_sha256=sha256 or weights[0],
        weights_size=weights[1],
        parents=parents,
        preparation=cast("Mapping[str, JSON]", document["preparation"]),
        inputs=cast("Sequence[JSON]", document["inputs"]),
        labels=cast("Sequence[JSON]", document["labels"]),
        network=cast("Mapping[str, JSON]", document["network"]),
        weights=weights[0] if sha256 else "",
    )
