"""What one side (acquisition, description, the site's own rule) says about a series."""

from __future__ import annotations

from dataclasses import dataclass

from dicom_bridge.classify.kinds import SeriesKind

CERTAIN = 1.0
"""The class of object alone decides."""
SURE = 0.98
"""Acquisition and description agree."""
LIKELY = 0.9
"""The acquisition alone, and it is unmistakable."""
NAMED = 0.7
"""A description alone, or an acquisition that other kinds share."""
DOUBTFUL = 0.5
"""Two sides contradict each other."""


@dataclass(frozen=True, slots=True)
class Guess:
    """One side's opinion.

    Attributes:
        kind: from the closed vocabulary.
        rule: name of the rule, from a closed vocabulary.
        confidence: what it is worth alone.
        source: of a derived image, the kind it was made from; None where unknown.
    """

    kind: SeriesKind
    rule: str
    confidence: float = LIKELY
    source: SeriesKind | None = None
