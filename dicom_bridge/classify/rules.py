"""Naming a series: the kind of object, then the acquisition, then names.

The description only confirms, refines where the acquisition fits two kinds, contradicts (which
lowers the confidence), or steps in where the header holds no times. A site's own rule goes before
the description; against the acquisition it lowers the confidence too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydicom.dataset import Dataset

from dicom_bridge.classify.acquired import acquisition_rule, object_rule
from dicom_bridge.classify.attributes import DISTORTION_CORRECTED, Acquisition, acquisition
from dicom_bridge.classify.bodypart import judge_body_part
from dicom_bridge.classify.guess import CERTAIN, DOUBTFUL, LIKELY, NAMED, SURE, Guess
from dicom_bridge.classify.kinds import Classification, SeriesKind
from dicom_bridge.classify.names import AFTER, BEFORE, REFINES, description_rule, has, refines
from dicom_bridge.classify.site import SiteName, site_rule

WITHHELD = frozenset(
    {SeriesKind.LOCALISER, SeriesKind.DERIVED, SeriesKind.OTHER, SeriesKind.SECONDARY_CAPTURE}
)
"""Kinds that a site may give any series: they only keep it out."""
T1 = frozenset({SeriesKind.T1W, SeriesKind.T1W_CE})


def classify_series(headers: Sequence[Dataset], names: Sequence[SiteName] = ()) -> Classification:
    """Name a series from its headers.

    Args:
        headers: data sets without pixel data, all of one series and one family of objects.
        names: the site's own rules, the first match counts.

    Returns:
        Kind, confidence and the rule that decided; the body part beside it.

    Raises:
        ValueError: no header was given.
    """
    if not headers:
        raise ValueError("expected at least one header")
    seen = acquisition(headers)
    guess, rival = _decide(seen, site_rule(headers[0], names))
    part, part_ok = judge_body_part(seen)
    return Classification(
        kind=guess.kind,
        confidence=guess.confidence,
        rule=guess.rule,
        rival=rival if rival is not guess.kind else None,
        body_part=part,
        body_part_ok=part_ok,
        dimension=seen.dimension if seen.dimension in ("2D", "3D") else "",
        plane=seen.planes[0] if len(seen.planes) == 1 else "",
        corrected=bool(seen.image_type & DISTORTION_CORRECTED),
        original="DERIVED" not in seen.image_type,
        agent=bool(seen.agent),
        run=seen.run,
    )


def _decide(
    seen: Acquisition, site: tuple[int, SeriesKind] | None
) -> tuple[Guess, SeriesKind | None]:
    """What the series is, and the kind that another side says."""
    if site is not None and site[1] is SeriesKind.IGNORED:
        return Guess(SeriesKind.IGNORED, f"site-name-{site[0]}", CERTAIN), None
    by_object = object_rule(seen)
    if by_object is not None:
        return by_object, by_object.source
    acquired = acquisition_rule(seen)
    if site is not None:
        return _by_site(site, acquired, seen)
    named = description_rule(seen)
    guess, rival = _combine(acquired, named, seen)
    return _with_agent(guess, rival, seen)


def _combine(
    acquired: Guess | None, named: Guess | None, seen: Acquisition
) -> tuple[Guess, SeriesKind | None]:
    if acquired is None and named is None:
        return Guess(SeriesKind.OTHER, "nothing-known", 0.0), None
    if acquired is None or named is None:
        alone = acquired or named
        assert alone is not None  # noqa: S101 - for the type checker: one of both is there
        return alone, alone.source
    other = acquired.kind is SeriesKind.OTHER
    if acquired.kind is named.kind and not other:
        agreed = SURE if acquired.confidence >= LIKELY else LIKELY
        return replace(acquired, rule=f"{acquired.rule}+name", confidence=agreed), acquired.source
    if acquired.kind is SeriesKind.DERIVED and named.kind is acquired.source:
        return acquired, acquired.source  # named after what it was made from
    if refines(named, acquired, seen):
        processed = named.kind is SeriesKind.DERIVED
        source = acquired.source or acquired.kind
        return named, source if processed else None
    if other and (acquired.kind is named.kind or acquired.rule not in _MAGNITUDES):
        return acquired, None  # a phase image of a T1 may well be called T1
    if acquired.kind in (SeriesKind.DERIVED, SeriesKind.ADC, SeriesKind.LOCALISER):
        return acquired, acquired.source  # ImageType says so; names tell the protocol
    doubt = replace(acquired, rule=f"{acquired.rule}-against-name", confidence=DOUBTFUL)
    return doubt, named.kind


_MAGNITUDES = frozenset(
    {"short-inversion", "balanced-steady-state", "several-echoes", "t2-star", "time-series"}
    | {"gradient-with-preparation", "echo-planar", "echo-planar-with-agent"}
)
"""Rules whose answer "other" a name may contradict: the times made it, not the ImageType."""


def _with_agent(
    guess: Guess, rival: SeriesKind | None, seen: Acquisition
) -> tuple[Guess, SeriesKind | None]:
    """Tell T1 after contrast agent from T1 without: the header decides, the name may doubt it."""
    if guess.kind is not SeriesKind.T1W:
        return guess, rival
    before = has(seen, BEFORE)
    after = has(seen, AFTER) and not before
    enhanced = replace(guess, kind=SeriesKind.T1W_CE)
    if seen.agent and before:
        doubt = replace(guess, rule=f"{guess.rule}+agent-against-name", confidence=DOUBTFUL)
        return doubt, SeriesKind.T1W_CE
    if seen.agent:
        return replace(enhanced, rule=f"{guess.rule}+agent"), rival
    if after and seen.agent is None:
        named = min(guess.confidence, NAMED)
        return replace(enhanced, rule=f"{guess.rule}+agent-named", confidence=named), rival
    if after:
        doubt = replace(enhanced, rule=f"{guess.rule}+named-agent", confidence=DOUBTFUL)
        return doubt, SeriesKind.T1W
    return guess, rival


def _by_site(
    site: tuple[int, SeriesKind], acquired: Guess | None, seen: Acquisition
) -> tuple[Guess, SeriesKind | None]:
    number, kind = site
    rule = f"site-name-{number}"
    if kind in WITHHELD or acquired is None:
        return Guess(kind, rule, LIKELY), None
    if kind in T1 and acquired.kind in T1:
        stated = SeriesKind.T1W if seen.agent is False else SeriesKind.T1W_CE
        if seen.agent is not None and stated is not kind:
            return Guess(kind, f"{rule}-against-agent", DOUBTFUL), stated
        return Guess(kind, f"{rule}+{acquired.rule}", SURE), None
    if acquired.kind is kind:
        return Guess(kind, f"{rule}+{acquired.rule}", SURE), None
    if acquired.kind is SeriesKind.DERIVED and acquired.source in (None, kind):
        return Guess(kind, f"{rule}+{acquired.rule}", NAMED), None
    if acquired.rule in _open_to(kind):
        return Guess(kind, rule, LIKELY), None
    return Guess(kind, f"{rule}-against-{acquired.rule}", DOUBTFUL), acquired.kind


def _open_to(kind: SeriesKind) -> frozenset[str]:
    """Acquisition rules that cannot tell this kind from others."""
    refined = {
        SeriesKind.ADC: "named-adc",
        SeriesKind.DWI: "named-diffusion",
        SeriesKind.BOLD: "named-functional",
        SeriesKind.SWI: "named-susceptibility",
    }.get(kind)
    return REFINES[refined] if refined else frozenset()
