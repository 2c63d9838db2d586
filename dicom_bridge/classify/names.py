"""What the series' and the protocol's names say: they confirm, refine or contradict, no more."""

from __future__ import annotations

import re

from dicom_bridge.classify.attributes import Acquisition
from dicom_bridge.classify.guess import NAMED, Guess
from dicom_bridge.classify.kinds import SeriesKind

K = SeriesKind

# Whole words, first match wins: what is made of others and what is no plain contrast comes first.
WORDS: tuple[tuple[str, SeriesKind, str], ...] = (
    (
        r"loc|local|localizer|localiser|scout|survey|3 ?plane|3pl|plan ?scan|aahead",
        K.LOCALISER,
        "localiser",
    ),
    (r"adc|apparent diffusion", K.ADC, "adc"),
    (
        r"mpr|mip|minip|subtraction|sub|reformat\w*|colfa|fa|3d vr|(?:t1|t2|r2s?|pd) ?maps?",
        K.DERIVED,
        "processed",
    ),
    (r"field ?map\w*|gre field mapping|b0 ?map|b1 ?map|fmap", K.OTHER, "field-map"),
    (
        r"dwi|dti|diff|diffusion|trace|tracew|resolve|hardi|noddi",
        K.DWI,
        "diffusion",
    ),
    (r"bold|fmri|f mri|rest|resting|rsfmri|task", K.BOLD, "functional"),
    (r"perf\w*|asl|pcasl|pasl|dsc|dce|tra perf", K.OTHER, "perfusion"),
    (r"swi|swan|venobold|swip|suscept\w*|qsm", K.SWI, "susceptibility"),
    (r"tof|mra|angio\w*|pca|venogra\w*|mrv", K.OTHER, "angiography"),
    (r"spectro\w*|csi|svs|press|metabolite maps?", K.OTHER, "spectroscopy"),
    (r"mtc|mt on|mt off|magneti[sz]ation transfer", K.OTHER, "magnetisation-transfer"),
    (r"inv ?[12]", K.OTHER, "inversion-part"),
    (r"stir", K.OTHER, "short-inversion"),
    (r"dir|double inversion", K.OTHER, "double-inversion"),
    (r"t1 ?\w* flair|t1flair", K.T1W, "t1"),
    (r"\w*flair\w*|dark ?fluid|tirm", K.FLAIR, "flair"),
    (r"t1\w*|mprage|mp ?rage|spgr|bravo|fspgr|tfl|mp2rage|vibe|thrive", K.T1W, "t1"),
    (r"t2 ?star\w*|t2\*\w*|medic|merge", K.OTHER, "t2-star"),
    (r"t2\w*", K.T2W, "t2"),
    (r"pd|pdw|proton density", K.PDW, "proton-density"),
    (r"epi|ep2d", K.BOLD, "echo-planar"),
)
BEFORE = r"pre|precontrast|native?|without|wo|w o|non|noncontrast|sans|plain"
AFTER = r"post|postcontrast|gd|gad|gado\w*|plus c|ce|c plus|contrast|km|dotarem|mdc|pc|inj\w*"

GRADIENT = frozenset(
    {"spoiled-gradient-t1", "gradient-t1-2d", "research-mode-t1", "gradient-with-preparation"}
)
PLANAR = frozenset(
    {"functional", "functional-series", "echo-planar", "echo-planar-spin-echo", "time-series"}
    | {"echo-planar-with-agent"}
)
SLOW = frozenset({"t2-star", "several-echoes", "flow-compensated-t2-star"})

# Name -> acquisition rules that cannot tell this kind from another, so that the name may.
REFINES: dict[str, frozenset[str]] = {
    "named-adc": PLANAR | {"diffusion", "derived-image-type", "derived-secondary"},
    "named-diffusion": PLANAR | {"spin-t2"},
    "named-functional": PLANAR,
    "named-echo-planar": PLANAR,
    "named-perfusion": PLANAR | GRADIENT | {"t2-star"},
    "named-angiography": GRADIENT | {"balanced-steady-state"},
    "named-field-map": GRADIENT | SLOW | PLANAR | {"phase-image", "mixed-components"},
    "named-susceptibility": SLOW,
    "named-magnetisation-transfer": GRADIENT,
    "named-inversion-part": frozenset({"inversion-prepared-t1"}),
    "named-short-inversion": frozenset({"spin-t2"}),
    "named-double-inversion": frozenset(
        {"fluid-attenuated", "inversion-without-time", "stated-FLAIR"}
    ),
}
SURVEY_IMAGES = 30  # a series with more images is no localiser, whatever its name
SCOUT_TIMES = (5.0, 2.5)  # ms: repetition and echo time of automatic 3-D scouts


def has(seen: Acquisition, pattern: str) -> bool:
    """Whether whole words of the series' names match a pattern."""
    return re.search(rf" (?:{pattern}) ", seen.words) is not None


def description_rule(seen: Acquisition) -> Guess | None:
    """The kind that the series' or the protocol's name says, None where it says none."""
    for pattern, kind, name in WORDS:
        if has(seen, pattern):
            return Guess(kind, f"named-{name}", NAMED)
    return None


def refines(named: Guess, acquired: Guess, seen: Acquisition) -> bool:
    """Whether a name may decide because the acquisition fits both kinds.

    Args:
        named: what the name says.
        acquired: what the acquisition says.
        seen: the acquisition.
    """
    if named.rule == "named-localiser":
        return _may_be_survey(acquired, seen)
    if named.rule == "named-processed":
        return acquired.kind not in (K.ADC, K.LOCALISER)
    return acquired.rule in REFINES.get(named.rule, frozenset())


def _may_be_survey(acquired: Guess, seen: Acquisition) -> bool:
    if acquired.kind not in (K.T1W, K.T2W, K.OTHER):
        return False
    echo, repetition = seen.echo_time or 0.0, seen.repetition_time or 0.0
    scout = 0 < repetition <= SCOUT_TIMES[0] and 0 < echo <= SCOUT_TIMES[1]
    return seen.images <= SURVEY_IMAGES or (seen.dimension == "3D" and scout)
