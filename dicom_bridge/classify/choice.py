"""Choosing one series of a kind by rule, or saying in one sentence why a person must look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dicom_bridge.classify.kinds import SeriesFiles, SeriesKind, StudyScan
from dicom_bridge.convert.stack import MINIMUM_SLICES
from dicom_bridge.errors import DataRefused

MINIMUM_CONFIDENCE = 0.6
Region = Literal["head", "other"]
CHOSEN_KINDS = (
    *(SeriesKind.FLAIR, SeriesKind.T1W, SeriesKind.T1W_CE, SeriesKind.T2W, SeriesKind.PDW),
    *(SeriesKind.DWI, SeriesKind.ADC, SeriesKind.SWI, SeriesKind.CT),
)
"""Kinds of which a study may need one series."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What became of a kind's candidates.

    Attributes:
        kind: the kind.
        series: the chosen one, None where a person must look.
        why: one sentence with series numbers and closed vocabulary only.
        candidates: how many series were compared.
    """

    kind: SeriesKind
    series: SeriesFiles | None
    why: str
    candidates: int


def choose(scan: StudyScan, kind: SeriesKind, region: Region = "head") -> Choice | None:
    """Choose one series of a kind.

    The rules in their order: sure before doubtful, original before derived, before the contrast
    agent, 3-D before 2-D, distortion-corrected before not, axial before other planes. Among runs
    of one protocol the last complete one counts; complete is as many slices as its twins. Two
    different protocols that are equally good need a person.

    Args:
        scan: of one study.
        kind: the kind.
        region: "head" leaves other body parts out.

    Returns:
        The choice, or None where the study holds nothing that may be of this kind.
    """
    here = [
        item
        for item in scan.series
        if kind in (item.kind, item.classification.rival)
        and item.slices >= MINIMUM_SLICES
        and (region == "other" or item.classification.body_part_ok)
    ]
    sure = [item for item in here if item.kind is kind and item.confidence >= MINIMUM_CONFIDENCE]
    late = _after_agent(scan, sure) if kind is SeriesKind.T1W else []
    sure = [item for item in sure if item not in late]
    if sure:
        return _best(kind, sure)
    if late:
        return Choice(
            kind,
            None,
            f"series {_numbers(late)} of kind {kind.value} was acquired after a series with "
            "contrast agent and does not say that it is free of it; a person must decide",
            len(late),
        )
    return _doubt(kind, here)


def choose_inputs(
    scan: StudyScan, wanted: Sequence[SeriesKind], region: Region = "head"
) -> dict[SeriesKind, Choice]:
    """Choose one series for every wanted kind.

    Args:
        scan: of one study.
        wanted: kinds of series.
        region: "head" refuses a study of other body parts.

    Returns:
        The choices by kind, each with its series; a kind that the study does not hold is left out.

    Raises:
        DataRefused: several studies, none of the wanted kinds, only other body parts, a kind that
            is in doubt, or two different protocols that are equally good.
    """
    if scan.studies > 1:
        raise DataRefused(f"expected the series of one study, got {scan.studies} studies")
    fitting = [item for item in scan.series if item.kind in wanted]
    if region == "head" and fitting:
        parts = sorted({item.classification.body_part for item in fitting})
        if not any(item.classification.body_part_ok for item in fitting):
            raise DataRefused(f"wrong body part: {', '.join(parts)}, expected the head")
    found = [choice for kind in wanted if (choice := choose(scan, kind, region)) is not None]
    doubts = [choice.why for choice in found if choice.series is None]
    if doubts:
        raise DataRefused(f"ambiguous: {'; '.join(doubts)}")
    if not found:
        names = ", ".join(kind.value for kind in wanted)
        held = ", ".join(sorted({item.kind.value for item in scan.series})) or "nothing"
        raise DataRefused(f"no series of the wanted kinds ({names}); the study holds: {held}")
    return {choice.kind: choice for choice in found}


def select_inputs(
    scan: StudyScan, wanted: Sequence[SeriesKind], region: Region = "head"
) -> dict[SeriesKind, SeriesFiles]:
    """`choose_inputs` without the reasons.

    Raises:
        DataRefused: as `choose_inputs`.
    """
    chosen = choose_inputs(scan, wanted, region)
    return {kind: choice.series for kind, choice in chosen.items() if choice.series is not None}


def rank(series: SeriesFiles) -> tuple[bool, bool, bool, bool, bool]:
    """How good a series is: original, without agent, 3-D, distortion-corrected, axial."""
    what = series.classification
    without = not what.agent or what.kind is SeriesKind.T1W_CE
    axial = what.plane == "axial"
    return (what.original, without, what.dimension == "3D", what.corrected, axial)


RANKS = ("original", "before contrast agent", "3-D", "distortion-corrected", "axial")
"""What each place of `rank` is called."""


def _best(kind: SeriesKind, candidates: Sequence[SeriesFiles]) -> Choice:
    ordered = sorted(candidates, key=rank, reverse=True)
    top = [item for item in ordered if rank(item) == rank(ordered[0])]
    if not all(item.classification.run.repeats(top[0].classification.run) for item in top):
        why = (
            f"{len(top)} different {kind.value} protocols are equally good (series "
            f"{_numbers(top)}); a person must choose, or a rule under [series] names"
        )
        return Choice(kind, None, why, len(candidates))
    best, why = _last_complete(top)
    if len(top) == 1:
        why = _because(ordered)
    return Choice(kind, best, why, len(candidates))


def _because(ordered: Sequence[SeriesFiles]) -> str:
    """Why the first of several goes before the second."""
    if len(ordered) == 1:
        return "the only one"
    pairs = zip(RANKS, rank(ordered[0]), rank(ordered[1]), strict=True)
    reason = next(name for name, mine, yours in pairs if mine != yours)
    return f"{reason}, before series {_numbers(ordered[1:])}"


def _last_complete(runs: Sequence[SeriesFiles]) -> tuple[SeriesFiles, str]:
    """The last run with as many slices as the fullest, and why."""
    most = max(item.slices for item in runs)
    complete = [item for item in runs if item.slices == most]
    best = max(complete, key=_order)
    short = [item for item in runs if item.slices < most]
    why = f"the last complete one of {len(runs)} runs (series {_numbers(runs)})"
    if short:
        why += f"; series {_numbers(short)} incomplete"
    return best, why


def _order(series: SeriesFiles) -> tuple[str, bool, int, str]:
    run = series.classification.run
    return (run.start, run.normalised, series.SeriesNumber, series.SeriesInstanceUID)


def _after_agent(scan: StudyScan, candidates: Sequence[SeriesFiles]) -> list[SeriesFiles]:
    """Candidates that began after a T1 with contrast agent and say nothing about the agent."""
    starts = [
        item.classification.run.start
        for item in scan.series
        if item.kind is SeriesKind.T1W_CE and item.confidence >= MINIMUM_CONFIDENCE
    ]
    first = min(filter(None, starts), default="")
    return [item for item in candidates if first and item.classification.run.start > first]


def _doubt(kind: SeriesKind, here: Sequence[SeriesFiles]) -> Choice | None:
    made = [item for item in here if item.kind is SeriesKind.DERIVED]
    unsure = [item for item in here if item not in made and item.confidence < MINIMUM_CONFIDENCE]
    if unsure:
        by_site = any(item.rule.startswith("site-name") for item in unsure)
        other = "the site's rule" if by_site else "its description"
        why = (
            f"series {_numbers(unsure)} may be {kind.value}, but its acquisition and {other} "
            "contradict each other"
        )
        return Choice(kind, None, why, len(unsure))
    if made:
        why = (
            f"series {_numbers(made)} is only derived from a {kind.value}; send the original, or "
            "accept it by a rule under [series] names"
        )
        return Choice(kind, None, why, len(made))
    return None


def _numbers(series: Sequence[SeriesFiles]) -> str:
    return ", ".join(
        str(item.SeriesNumber) for item in sorted(series, key=lambda s: s.SeriesNumber)
    )
