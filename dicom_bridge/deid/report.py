"""What a run over folders did: counts, reasons, and a proof per series. Holds no identifier."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pydicom._uid_dict import UID_dictionary

from dicom_bridge.deid.rules import sop_classes

REPORT_FORMAT = 2


@dataclass(frozen=True, slots=True)
class Refused:
    """A file that was refused.

    Attributes:
        number: its place in the sorted list of input files, from 1.
        sha256: of its content, empty where it could not be read.
        reason: why, in words.
        kind: what it is by its file meta information, empty where that does not tell.
    """

    number: int
    sha256: str
    reason: str
    kind: str = ""


@dataclass(frozen=True, slots=True)
class SeriesProof:
    """What was done to one series.

    Attributes:
        series: the new SeriesInstanceUID.
        study: the new StudyInstanceUID.
        instances: how many objects came out.
        actions: sum over them, as in :class:`~dicom_bridge.deid.engine.Proof`.
        codes: codes of CID 7050 that ran on at least one of them.
        kinds: how many objects of each SOP class, by the standard's name.
        residual_hits: identifiers found by the second pass: 0 for everything that was written.
    """

    series: str
    study: str
    instances: int
    actions: dict[str, int]
    codes: tuple[str, ...]
    kinds: dict[str, int] = field(default_factory=dict)
    residual_hits: int = 0

    def to_json(self) -> dict[str, Any]:
        """One entry of the report."""
        return {
            "SeriesInstanceUID": self.series,
            "StudyInstanceUID": self.study,
            "instances": self.instances,
            "kinds": self.kinds,
            "actions": self.actions,
            "codes": list(self.codes),
            "residual_hits": self.residual_hits,
        }


@dataclass(frozen=True, slots=True)
class TreeSummary:
    """The result of one run.

    Attributes:
        files: input files seen.
        written: objects written; in a dry run those that would be.
        unchanged: inputs whose output was there already, whole and as recorded.
        duplicates: inputs that gave the same output as another one, byte for byte.
        skipped: files that are not to be de-identified, by what they are.
        refused: what was refused.
        series: a proof per series, over written and unchanged objects.
        seconds: wall-clock time.
        profile_hash: hash of the profile.
        version: version of this software.
        dry_run: nothing was written.
    """

    files: int
    written: int
    unchanged: int
    duplicates: int
    skipped: dict[str, int]
    refused: tuple[Refused, ...]
    series: tuple[SeriesProof, ...]
    seconds: float
    profile_hash: str
    version: str
    dry_run: bool = False

    @property
    def per_second(self) -> float:
        """Objects written per second of wall-clock time."""
        return self.written / self.seconds if self.seconds > 0 else 0.0

    @property
    def reasons(self) -> dict[str, int]:
        """Refused files per reason, most frequent first."""
        return dict(Counter(refused.reason for refused in self.refused).most_common())

    @property
    def kinds(self) -> dict[str, int]:
        """Objects that came out per SOP class, most frequent first."""
        total: Counter[str] = Counter()
        for series in self.series:
            total.update(series.kinds)
        return dict(total.most_common())

    @property
    def refused_kinds(self) -> dict[str, int]:
        """Refused files per SOP class, most frequent first."""
        named = (refused.kind or "unknown" for refused in self.refused)
        return dict(Counter(named).most_common())

    def to_json(self) -> dict[str, Any]:
        """The report; holds no identifier and no path."""
        return {
            "format": REPORT_FORMAT,
            "version": self.version,
            "profile": self.profile_hash,
            "dry_run": self.dry_run,
            "files": self.files,
            "written": self.written,
            "unchanged": self.unchanged,
            "duplicates": self.duplicates,
            "skipped": self.skipped,
            "refused": len(self.refused),
            "reasons": self.reasons,
            "kinds": self.kinds,
            "refused_kinds": self.refused_kinds,
            "seconds": round(self.seconds, 3),
            "instances_per_second": round(self.per_second, 1),
            "quarantine": [
                {"file": r.number, "sha256": r.sha256, "kind": r.kind, "reason": r.reason}
                for r in self.refused
            ],
            "series": [series.to_json() for series in self.series],
        }


class SeriesTotals:
    """Adds up the proofs of objects per series."""

    def __init__(self) -> None:
        self._actions: dict[tuple[str, str], Counter[str]] = {}
        self._codes: dict[tuple[str, str], set[str]] = {}
        self._kinds: dict[tuple[str, str], Counter[str]] = {}

    def add(
        self, study: str, series: str, sop_class: str, actions: dict[str, int], codes: Iterable[str]
    ) -> None:
        """Count one object."""
        key = (study, series)
        self._actions.setdefault(key, Counter()).update(actions)
        self._codes.setdefault(key, set()).update(codes)
        self._kinds.setdefault(key, Counter())[kind_of(sop_class)] += 1

    def proofs(self) -> tuple[SeriesProof, ...]:
        """One proof per series, by study and series."""
        return tuple(
            SeriesProof(
                series=series,
                study=study,
                instances=sum(self._kinds[study, series].values()),
                actions={name: count for name, count in sorted(actions.items()) if count},
                codes=tuple(sorted(self._codes[study, series])),
                kinds=dict(self._kinds[study, series]),
            )
            for (study, series), actions in sorted(self._actions.items())
        )


def kind_of(sop_class: str) -> str:
    """The standard's name of a SOP class; a private one is only called so, for its UID may tell.

    Example:
        >>> kind_of("1.2.840.10008.5.1.4.1.1.4"), kind_of("1.2.3")
        ('MR Image', 'private SOP class')
    """
    known = UID_dictionary.get(sop_class)
    if known:
        return known[0].removesuffix(" Storage")
    iod = sop_classes().get(sop_class)  # newer than the dictionary
    return iod.replace("-", " ").capitalize() if iod else "private SOP class"
