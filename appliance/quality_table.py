"""Every figure of the quality check in one table.

A line says what the figure is, where it comes from, which way is better, what it gives where it
cannot be measured, and its default bounds. The table imports no imaging library: the settings are
checked against it, and the documentation (`metrics_markdown`) is made from it. The functions are in
`appliance.imaging.qc`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

Direction = Literal["higher", "lower", "none"]
"""Which way is better; "none" for figures that only describe."""

Bounds = tuple[float | None, float | None]
"""Where a figure asks for a person (first) and where it refuses (second); None: not checked.

A bound on a "higher is better" figure is a minimum, on a "lower is better" one a maximum.
"""

Subject = Literal["image", "pair", "label"]

IMAGES: Mapping[str, str] = {
    "flair": "FLAIR",
    "t1w": "T1",
    "t2w": "T2",
    "pdw": "PD",
    "t1wce": "contrast-enhanced T1",
    "dwi": "diffusion image",
    "adc": "ADC map",
    "swi": "SWI",
    "ct": "CT",
}
"""Start of a figure's name by canonical modality in lower case, and the image's name in words."""

PAIRED = "t1w"
"""The modality whose figures of a pair bear no prefix (the T1 on the FLAIR)."""


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """One line of the table.

    Attributes:
        name: Name without the image's prefix ("snr"; in a report "flair_snr").
        subject: What is measured: each image, an image against the reference, or the label.
        words: What it is.
        formula: How it is computed, symbols as in the function's docstring.
        source: Where the figure comes from.
        unit: "mm", "ml", "ratio", "share", "count" or "1".
        direction: Which way is better.
        degenerate: What it gives where it cannot be measured.
        complaint: What a value beyond its bound means; "{image}" is the image's name.
        bounds: Default bounds by prefix; "*" holds for all others.
        better: Directions that differ for one prefix.
        site: Whether it is compared with the site's own distribution.
    """

    name: str
    subject: Subject
    words: str
    formula: str
    source: str
    unit: str
    direction: Direction
    degenerate: str
    complaint: str = ""
    bounds: Mapping[str, Bounds] = field(default_factory=dict)
    better: Mapping[str, Direction] = field(default_factory=dict)
    site: bool = False


_AIR = "none where the air was masked, padded or defaced away, or has fewer than 200 voxels"
_MRIQC = "Esteban et al., PLoS ONE 12:e0184661 (2017), MRIQC"
_STUDY_D = "criterion of the nnU-Net MS study on Kaapana and Apheris"
_TISSUE = "none without a brain mask or with fewer than 200 voxels of the tissue"
_SIDES = {"left": "L", "right": "R", "front": "A", "back": "P", "top": "S", "bottom": "I"}

_GEOMETRY = (
    *(
        MetricInfo(
            f"spacing_{axis}", "image", f"voxel edge along array axis {axis}",
            "length of the affine's column", "NIfTI-1", "mm", "lower", "always there",
        )
        for axis in "xyz"
    ),
    *(
        MetricInfo(
            f"extent_{axis}", "image", f"field of view along array axis {axis}",
            "voxels x edge", "NIfTI-1", "mm", "higher", "always there",
        )
        for axis in "xyz"
    ),
    MetricInfo(
        "anisotropy", "image", "longest over shortest voxel edge",
        "max(edge) / min(edge)", _STUDY_D, "ratio", "lower", "always there",
    ),
    MetricInfo(
        "spacing_gap", "image", "difference of the voxel size from the declared protocol",
        "max |sorted edges - sorted protocol edges|", _STUDY_D + " (1.0 mm +- 0.1)", "mm", "lower",
        "none where no protocol is declared",
    ),
    *(
        MetricInfo(
            f"head_border_{side}", "image", f"head on the image's border, {side} ({letter})",
            "bright area one plane inside the border / largest such area along the axis",
            _STUDY_D + " (cropping)", "share", "lower", "0 for an empty image",
        )
        for side, letter in _SIDES.items()
    ),
    *(
        MetricInfo(
            f"border_{side}", "image", f"brain on the image's border, {side} ({letter})",
            "brain area on the outermost plane with signal / largest brain area along the axis",
            _STUDY_D + " (brain coverage at the borders)", "share", "lower",
            "0 for an empty mask; absent without a mask",
        )
        for side, letter in _SIDES.items()
    ),
    MetricInfo(
        "brain_volume", "image", "volume of the brain mask", "voxels x voxel volume",
        _STUDY_D, "ml", "higher", "absent without a mask", "the {image} shows too little brain",
        {"*": (700.0, 300.0)}, site=True,
    ),
    MetricInfo(
        "head_likeness", "image", "how well the atlas head lies over the image",
        "outline correlation + entropy correlation coefficient, 0 to 2",
        "ours (`Alignment.score`)", "1", "higher", "none where the alignment was not kept",
        "the {image} does not look like a whole head", {"*": (1.0, None)},
    ),
)  # fmt: skip

_SIGNAL = (
    MetricInfo(
        "snr", "image", "signal-to-noise ratio of brain tissue", "mean tissue / sigma",
        _STUDY_D + "; sigma: Immerkaer, CVIU 64:300 (1996)", "ratio", "higher",
        _TISSUE + ", or where the noise is 0", "the {image} is noisy",
        {"*": (10.0, 5.0)}, site=True,
    ),
    MetricInfo(
        "snr_fluid", "image", "signal-to-noise ratio of cerebrospinal fluid",
        "mean fluid / sigma", _STUDY_D + "; sigma: Immerkaer, CVIU 64:300 (1996)", "ratio",
        "higher", _TISSUE + ", or where the noise is 0", "the {image}'s fluid drowns in noise",
        {"flair": (1.5, None)},
    ),
    MetricInfo(
        "fluid_ratio", "image", "fluid over tissue (suppression in a FLAIR)",
        "mean fluid / mean tissue", "ours", "ratio", "none", _TISSUE,
        better={"flair": "lower"}, site=True,
    ),
    MetricInfo(
        "ghosting", "image", "structured signal in the air (motion, ghosts)",
        "sqrt(max(0, median of local mean(h^2 - v/9))) / mean brain",
        "ours, after Mortamet et al., MRM 62:365 (2009)", "share", "lower", _AIR,
        "the {image} shows motion or ghosts", {"*": (0.0007, 0.002)},
    ),
    MetricInfo(
        "slice_jumps", "image", "slices that jump in brightness",
        "median |m[k] - (m[k-1] + m[k+1])/2| / mean m, m: median tissue of a slice",
        "ours", "share", "lower", "none with fewer than five slices of tissue",
        "the {image}'s slices jump in brightness (motion between slices)",
        {"*": (0.06, 0.15)}, site=True,
    ),
    MetricInfo(
        "entropy_focus", "image", "entropy focus criterion (EFC): ghosting and blurring",
        "-sum (x/xmax) ln(x/xmax) / (sqrt n ln sqrt n), xmax = sqrt(sum x^2)",
        "Atkinson et al., IEEE TMI 16:903 (1997)", "1", "lower", "none for an empty image",
        site=True,
    ),
)  # fmt: skip

_AIRS = (
    MetricInfo(
        "snrd", "image", "Dietrich's signal-to-noise ratio",
        "median tissue / (sigma_air sqrt(2 / (4 - pi)))",
        "Dietrich et al., JMRI 26:375 (2007), as in MRIQC", "ratio", "higher",
        _AIR + ", or where the air is constant", "the {image} is noisy against its air",
        {"*": (5.0, None)}, site=True,
    ),
    MetricInfo(
        "fber", "image", "foreground to background energy ratio",
        "median |x|^2 in the head / median |x|^2 outside of it",
        "Shehzad et al., Front. Neurosci. (2015), as in MRIQC", "ratio", "higher",
        "none where the outside is dark in half of its voxels", site=True,
    ),
    MetricInfo(
        "qi1", "image", "artefacts in the air", "air voxels above 10 robust z after opening / air",
        "Mortamet et al., MRM 62:365 (2009), mask as in MRIQC", "share", "lower", _AIR,
        "the {image} has artefacts in the air", {"*": (0.05, None)},
    ),
    MetricInfo(
        "qi2", "image", "how far the air's values are from a chi distribution",
        "mean |empirical CDF - fitted CDF| of x^2 below 10 robust z (gamma by two moments)",
        "after Mortamet et al., MRM 62:365 (2009)", "share", "lower", _AIR, site=True,
    ),
    MetricInfo(
        "wm2max", "image", "white matter against the brightest voxels",
        "median WM / 99.95th percentile of the image", _MRIQC, "ratio", "none",
        _TISSUE, site=True,
    ),
)  # fmt: skip

_TISSUES = (
    MetricInfo(
        "cnr", "image", "contrast-to-noise ratio of grey and white matter",
        "|median WM - median GM| / sqrt(s_air^2 + s_WM^2 + s_GM^2)",
        "Magnotta and Friedman, J. Digit. Imaging 19:140 (2006), as in MRIQC", "ratio", "higher",
        _TISSUE + "; s_air counts 0 without air", site=True,
    ),
    MetricInfo(
        "cjv", "image", "coefficient of joint variation (noise, shading, motion)",
        "(s_WM + s_GM) / |median WM - median GM|, s = 1.4826 MAD",
        "Ganzetti et al., Front. Neuroinform. 10:10 (2016), as in MRIQC", "ratio", "lower",
        _TISSUE + ", or where both medians are equal", site=True,
    ),
    *(
        MetricInfo(
            f"snr_{tissue}", "image", f"signal-to-noise ratio within {words}",
            "median / (s sqrt(n / (n - 1)))", _MRIQC, "ratio", "higher",
            _TISSUE + ", or where s is 0", site=True,
        )
        for tissue, words in (("csf", "fluid"), ("gm", "grey matter"), ("wm", "white matter"))
    ),
    MetricInfo(
        "inu_range", "image", "intensity non-uniformity: range of the bias field",
        "p95 - p5 of exp(cubic fitted to ln x in WM), median in WM 1",
        "MRIQC's inu_range; polynomial after Dawant et al., IEEE TMI 12:770 (1993)", "ratio",
        "lower", _TISSUE, "the {image} is shaded", {"*": (0.9, None)}, site=True,
    ),
    MetricInfo(
        "inu_med", "image", "intensity non-uniformity: median of the bias field in the brain",
        "median of the same field over the brain", "MRIQC's inu_med", "ratio", "none",
        _TISSUE,
    ),
    *(
        MetricInfo(
            f"icvs_{tissue}", "image", f"share of {words} in the brain mask",
            "sum of posteriors / voxels", _MRIQC + ": icvs", "share", "none", _TISSUE, site=True,
        )
        for tissue, words in (("csf", "fluid"), ("gm", "grey matter"), ("wm", "white matter"))
    ),
    *(
        MetricInfo(
            f"tpm_overlap_{tissue}", "image", f"{words} against the atlas' tissue map",
            "sum min(p, q) / sum max(p, q) (fuzzy Jaccard)", _MRIQC + ": tpm_overlap", "share",
            "higher", _TISSUE,
        )
        for tissue, words in (("csf", "fluid"), ("gm", "grey matter"), ("wm", "white matter"))
    ),
    *(
        MetricInfo(
            f"fwhm_{axis}", "image", f"smoothness along array axis {axis}",
            "edge sqrt(-2 ln 2 / ln(1 - var(d) / (2 var(x)))), d: neighbours' difference",
            "Forman et al., MRM 33:636 (1995), as AFNI's 3dFWHMx in MRIQC", "mm", "none",
            "none where neighbours do not correlate, or with fewer than 200 pairs", site=True,
        )
        for axis in "xyz"
    ),
)  # fmt: skip

_PAIRS = (
    MetricInfo(
        "registration_quality", "pair", "how far to trust the registration",
        "1.9 (mean + smallest share of agreement lost 2 mm away)",
        "ours (`Registration.quality`)", "1", "higher", "absent without a registration",
        "the registration of {image} to the reference is doubtful", {"*": (0.19, 0.12)}, site=True,
    ),
    MetricInfo(
        "registration_overlap", "pair", "how much of the reference's head the image covers",
        "share of the reference head inside the image", "ours (`Registration.overlap`)", "share",
        "higher", "absent without a registration",
        "the {image} covers too little of the reference's head", {"*": (0.75, 0.5)},
    ),
    MetricInfo(
        "registration_agreement", "pair", "agreement of intensities after registration",
        "entropy correlation coefficient", "Maes et al., IEEE TMI 16:187 (1997)", "1", "none",
        "absent without a registration",
    ),
    MetricInfo(
        "brain_volume_agreement", "pair", "agreement of the brain masks' volumes",
        "smaller / larger volume within what both images show", _STUDY_D, "ratio", "higher",
        "0 where one mask is empty; absent without masks",
        "the brain volumes of {image} and reference disagree", {"*": (0.88, 0.75)},
    ),
    MetricInfo(
        "brain_overlap", "pair", "overlap of the brain masks after registration",
        "Dice coefficient within what both images show", "Dice, Ecology 26:297 (1945)", "share",
        "higher", "0 where one mask is empty; absent without masks",
        "the brains of {image} and reference do not lie on each other after registration",
        {"*": (0.90, 0.80)},
    ),
)  # fmt: skip

_LABELS = (
    MetricInfo(
        "label_volume_ml", "label", "volume of the expert's label", "voxels x voxel volume",
        "ours", "ml", "none", "absent without a label; 0 for an empty one",
    ),
    MetricInfo(
        "label_lesions", "label", "connected pieces of the label", "26 neighbours",
        "as in the measurement reports", "count", "none", "absent without a label",
    ),
    MetricInfo(
        "label_largest_ml", "label", "volume of the largest piece", "26 neighbours",
        "as in the measurement reports", "ml", "none", "absent without a label",
    ),
    MetricInfo(
        "label_smallest_ml", "label", "volume of the smallest piece", "26 neighbours",
        "as in the measurement reports", "ml", "none", "absent without a label",
    ),
    MetricInfo(
        "label_touches_border", "label", "whether the label lies on the image's outermost voxels",
        "1 or 0", "ours", "1", "lower", "absent without a label",
        "the label lies on the image's border", {"*": (0.5, None)},
    ),
    MetricInfo(
        "label_values", "label", "number of different values in the label", "count",
        "ours", "count", "none", "absent without a label",
    ),
    MetricInfo(
        "label_outside_brain", "label", "share of the label outside the brain mask",
        "voxels outside / voxels", "ours", "share", "lower",
        "absent without a label or a brain mask; 0 for an empty label",
        "the label lies outside the brain", {"*": (0.1, 0.5)},
    ),
)  # fmt: skip

METRICS: Mapping[str, MetricInfo] = {
    info.name: info for info in (*_GEOMETRY, *_SIGNAL, *_AIRS, *_TISSUES, *_PAIRS, *_LABELS)
}
"""Every figure by its name without prefix."""


def split_name(name: str) -> tuple[str, str]:
    """Prefix and name without prefix of a figure in a report.

    Raises:
        KeyError: no figure has this name.

    Examples:
        >>> split_name("flair_snr"), split_name("brain_overlap"), split_name("t2w_brain_overlap")
        (('flair', 'snr'), ('t1w', 'brain_overlap'), ('t2w', 'brain_overlap'))
    """
    prefix, _, rest = name.partition("_")
    if prefix in IMAGES and rest in METRICS and (METRICS[rest].subject, prefix) != ("pair", PAIRED):
        return prefix, rest
    if name in METRICS and METRICS[name].subject != "image":
        return PAIRED, name
    raise KeyError(name)


def pair_name(prefix: str, name: str) -> str:
    """Name in a report of a figure of an image against the reference.

    >>> pair_name("t1w", "brain_overlap"), pair_name("t2w", "brain_overlap")
    ('brain_overlap', 't2w_brain_overlap')
    """
    return name if prefix == PAIRED else f"{prefix}_{name}"


def known_names() -> Iterator[str]:
    """Every name that a report may hold."""
    for info in METRICS.values():
        if info.subject == "label":
            yield info.name
        elif info.subject == "pair":
            yield from (pair_name(prefix, info.name) for prefix in IMAGES)
        else:
            yield from (f"{prefix}_{info.name}" for prefix in IMAGES)


def default_bounds(name: str) -> Bounds | None:
    """The default bounds of a figure in a report, or None where it has none.

    Examples:
        >>> default_bounds("t1w_snr"), default_bounds("t1w_cnr")
        ((10.0, 5.0), None)
    """
    prefix, rest = split_name(name)
    bounds = METRICS[rest].bounds
    return bounds.get(prefix, bounds.get("*"))


def direction_of(name: str) -> Direction:
    """Which way is better for a figure in a report.

    Examples:
        >>> direction_of("flair_fluid_ratio"), direction_of("t1w_fluid_ratio")
        ('lower', 'none')
    """
    prefix, rest = split_name(name)
    info = METRICS[rest]
    return info.better.get(prefix, info.direction)


def words_of(name: str) -> str:
    """What a figure in a report is; empty for a figure that this version does not know."""
    try:
        return METRICS[split_name(name)[1]].words
    except KeyError:
        return ""


def complaint_of(name: str) -> str:
    """What a value beyond its bound means, as the start of a sentence."""
    prefix, rest = split_name(name)
    info = METRICS[rest]
    text = info.complaint or f"the {{image}}: {info.words}"
    return text.format(image=IMAGES[prefix])


def metrics_markdown() -> str:
    """The table as Markdown, for the documentation."""
    titles = (
        "name", "what", "formula", "source", "unit", "better", "not measurable", "bounds", "site",
    )  # fmt: skip
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for info in METRICS.values():
        bounds = "; ".join(f"{_of(key)}{_bound(value)}" for key, value in info.bounds.items())
        cells = (
            f"`{info.name}`", info.words, info.formula, info.source, info.unit, info.direction,
            info.degenerate, bounds or "-", "yes" if info.site else "",
        )  # fmt: skip
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _of(key: str) -> str:
    return "" if key == "*" else f"{IMAGES[key]}: "


def _bound(value: Bounds) -> str:
    words = [
        f"{name} {limit:g}"
        for name, limit in zip(("review", "fail"), value, strict=True)
        if limit is not None
    ]
    return ", ".join(words)
