"""A site's own names of series: shell wildcards that are matched on the identified side.

The idea is Fed-BioMed's data loading plan: what a site calls its series is said once, at the site,
and not guessed. What matched is never written anywhere: a rule is known by its number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase

from pydicom.dataset import Dataset

from dicom_bridge.classify.kinds import SeriesKind
from dicom_bridge.classify.values import MAX_NAME
from dicom_bridge.convert.frames import attribute

MAX_PATTERN = 128
"""Characters of a pattern; with `MAX_NAME` it bounds what a match can cost."""


class NameAttribute(StrEnum):
    """Attributes that a site's rule may look at."""

    SERIES_DESCRIPTION = "SeriesDescription"
    PROTOCOL_NAME = "ProtocolName"
    SEQUENCE_NAME = "SequenceName"


@dataclass(frozen=True, slots=True)
class SiteName:
    """One rule of a site.

    Attributes:
        pattern: shell wildcard (``*``, ``?``, ``[abc]``) for the whole value, in any case.
        attribute: what it is matched against; SequenceName also means PulseSequenceName.
        kind: what such a series is; `SeriesKind.IGNORED` leaves it out.

    Raises:
        ValueError: the pattern is empty or longer than 128 characters.
    """

    pattern: str = field(repr=False)
    attribute: NameAttribute
    kind: SeriesKind

    def __post_init__(self) -> None:
        """Check the pattern's length."""
        if not 0 < len(self.pattern) <= MAX_PATTERN:
            raise ValueError(f"expected a pattern of 1 to {MAX_PATTERN} characters")

    def matches(self, header: Dataset) -> bool:
        """Whether the series of a header bears such a name.

        Examples:
            >>> series = Dataset()
            >>> series.SeriesDescription = "Ax DARK-FLUID 3mm"
            >>> rule = SiteName("*dark?fluid*", NameAttribute.SERIES_DESCRIPTION, SeriesKind.FLAIR)
            >>> rule.matches(series)
            True
        """
        value = attribute(header, self.attribute.value)
        if value is None and self.attribute is NameAttribute.SEQUENCE_NAME:
            value = attribute(header, "PulseSequenceName")
        if not isinstance(value, str):
            return False
        # fnmatch joins its pieces by atomic groups: no backtracking between stars.
        return fnmatchcase(value.strip()[:MAX_NAME].casefold(), self.pattern.casefold())


def site_rule(header: Dataset, names: Sequence[SiteName]) -> tuple[int, SeriesKind] | None:
    """The number (from 1) and kind of the first rule that matches, None where none does."""
    for number, name in enumerate(names, start=1):
        if name.matches(header):
            return number, name.kind
    return None
