"""The report of one study: decision and reasons on top, then what the eye must see, then figures.

All pictures are drawn from the volumes that are handed in; a node hands in the defaced ones.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from appliance.imaging.volume import Volume
from appliance.reports.figures import strip, swatch
from appliance.reports.histograms import histogram, histogram_of
from appliance.reports.metrics import (
    GLYPHS,
    UNITS,
    Quality,
    Row,
    SiteFigures,
    figure_words,
    metric_words,
)
from appliance.reports.page import Html, bullets, join, page, pairs, section, table, tag
from appliance.reports.pictures import (
    BRAIN_COLOUR,
    EDGE_COLOUR,
    Colour,
    arrange,
    checkerboard,
    compose,
    edges,
    layer_png,
    lettered,
)
from appliance.reports.planes import (
    axis_codes,
    extent,
    is_oblique,
    label_cuts,
    mosaic_cuts,
    slice_count,
    three_planes,
)
from appliance.reports.views import (
    WIDTH,
    Drawn,
    Input,
    LabelView,
    Marked,
    figure,
    near_brain,
    registration_cuts,
    stack,
)

MOSAIC_ROWS, LABEL_TILES = 3, 8
TILE, LABEL_TILE = 184, 280
FROM = {"axial": "the feet", "coronal": "the back", "sagittal": "the left"}
SENTENCES = {
    "pass": "Nothing that was measured speaks against using this study.",
    "review": "Something is doubtful: a person should look before the study is used.",
    "fail": "The study should not be used, unless a person finds the check wrong.",
    "": "The study was not checked.",
}
TITLES = {"pass": "Pass", "review": "Review", "fail": "Fail", "": "Not checked"}


@dataclass(frozen=True, slots=True, eq=False)
class StudyContent:
    """What a study's report shows.

    Attributes:
        title: the study's pseudonymous name.
        inputs: the images; the first is the reference that the others were registered to.
        label: the expert's label, or None.
        quality: figures, decision, reasons.
        site: the site's own distributions.
        steps: what was done: name of the step and words.
        versions: programs and their versions.
        note: one sentence under the title.
    """

    title: str
    inputs: tuple[Input, ...]
    label: Marked | None = None
    quality: Quality = field(default_factory=Quality)
    site: SiteFigures = field(default_factory=SiteFigures)
    steps: tuple[tuple[str, str], ...] = ()
    versions: tuple[tuple[str, str], ...] = ()
    note: str = ""


def render_study(content: StudyContent) -> str:
    """The report as one HTML document; all text is escaped, no pixel lies outside of it.

    Args:
        content: what to show. Parts that are absent are said to be so.
    """
    drawn = [Drawn.of(given) for given in content.inputs]
    label = LabelView.of(content.label, drawn[0].given.volume) if content.label and drawn else None
    parts = [
        tag("h1", f"Quality report: {content.title}"),
        tag("p", content.note, class_="lead") if content.note else Html(""),
        _verdict(content, label),
        _images(drawn, label),
        _registration(drawn),
        _label_section(drawn, label),
        _histograms(drawn),
        _figures(content.quality, content.site),
        _done(content),
    ]
    return page(f"Quality report: {content.title}", *filter(None, parts))


def _verdict(content: StudyContent, label: LabelView | None) -> Html:
    quality = content.quality
    decision = quality.decision
    heading = tag("h2", tag("span", GLYPHS[decision], class_=decision), f" {TITLES[decision]}")
    words = [tag("p", SENTENCES[decision])]
    if quality.reasons:
        words.append(bullets(quality.reasons))
    if quality.released:
        words.append(tag("p", "A person has released the study in spite of this."))
    unusual = [r for r in quality.rows if _unusual(r, content.site)]
    if unusual and decision != "fail":
        names = ", ".join(" ".join(metric_words(r.name)[:2]) for r in unusual[:4])
        more = f" and {len(unusual) - 4} more" if len(unusual) > 4 else ""
        words.append(tag("p", f"Unusual for this site: {names}{more}.", class_="small"))
    facts = [(given.kind, _size_words(given.volume)) for given in content.inputs]
    facts.append(("label", _label_words(label)))
    judged = [row for row in quality.rows if row.verdict]
    if judged:
        good = sum(row.verdict == "pass" for row in judged)
        facts.append(("figures within bounds", f"{good} of {len(judged)}"))
    facts.append(("compared with", _site_words(content.site)))
    both = tag("div", tag("div", heading, *words), tag("div", pairs(facts)), class_="split")
    return tag("section", both, class_=f"verdict {decision}".strip())


def _site_words(site: SiteFigures) -> str:
    if not site.spreads:
        return "no other studies yet"
    return f"{site.studies} other studies of this site"


def _size_words(volume: Volume) -> str:
    return " × ".join(figure_words(round(s, 3)) for s in volume.spacing) + " mm"


def _label_words(label: LabelView | None) -> str:
    if label is None:
        return "none"
    if not label.present:
        return "empty: no voxel is marked"
    total = int(np.count_nonzero(label.values)) * label.voxel_ml
    return f"{figure_words(round(total, 3))} ml"


def _images(drawn: Sequence[Drawn], label: LabelView | None) -> Html:
    if not drawn:
        return section("Images", tag("p", "No image could be shown."))
    boxes = []
    if any(d.scene.brain is not None for d in drawn):
        boxes.append(_box("show-brain", "brain outline", BRAIN_COLOUR))
    if label is not None and label.present:
        boxes.append(_box("show-label", "label outline", label.colour(label.present[0])))
    intro = (
        "Radiological view: the letters give the patient's sides, R is the patient's right. "
        "Slices are as thick as they are drawn."
    )
    parts = [tag("p", intro, class_="small")]
    if boxes:
        parts.append(_controls("Outlines on the images", *boxes))
    for number, item in enumerate(drawn):
        parts.append(_image(item, label if number == 0 else None))
    return section("Images", *parts, class_="images")


def _image(item: Drawn, label: LabelView | None) -> Html:
    scene, kind = item.scene, item.given.kind
    planes = three_planes(scene, height=300, width=WIDTH)
    cuts = mosaic_cuts(scene, width=WIDTH, tile=TILE, rows=MOSAIC_ROWS)
    total = slice_count(scene, scene.view)
    first = figure(
        item,
        planes,
        label,
        words=[""] * len(planes),
        alt=f"{kind}: axial, coronal and sagittal view through the middle, whole field of view",
        caption=f"{kind}, whole field of view. {_place_words(item.given)}",
    )
    caption = (
        f"{kind}, {len(cuts)} of its {total} {scene.view} slices, cut to the brain; numbered from "
        f"{FROM[scene.view]}."
    )
    if scene.brain is None:
        caption = f"{kind}, {len(cuts)} of its {total} {scene.view} slices; no brain mask."
    second = figure(
        item,
        cuts,
        label,
        words=[str(cut.index + 1) for cut in cuts],
        alt=f"{kind}: mosaic of {len(cuts)} {scene.view} slices",
        caption=caption,
    )
    return Html(tag("h3", kind) + tag("div", first, second, class_="input"))


def _place_words(given: Input) -> str:
    counts = " × ".join(str(n) for n in given.volume.shape)
    stored = f"{counts} voxels stored along {axis_codes(given.volume)}"
    oblique = ", oblique: views are the nearest" if is_oblique(given.volume) else ""
    facts = ", ".join(f"{name} {value}".strip() for name, value in given.facts)
    return f"{stored}{oblique}." + (f" {facts}." if facts else "")


def _box(id_: str, words: str, colour: Colour | None, *, checked: bool = True) -> Html:
    square = swatch(colour) if colour else Html("")
    box = tag("input", type="checkbox", id=id_, checked=checked)
    return tag("label", box, square, words, for_=id_)


def _controls(words: str, *boxes: Html) -> Html:
    return tag("fieldset", *boxes, class_="controls", aria_label=words)


def _registration(drawn: Sequence[Drawn]) -> Html:
    if len(drawn) < 2:
        return Html("")
    reference = drawn[0]
    parts = []
    for item in drawn[1:]:
        if item.given.matrix is None:
            words = f"{item.given.kind} was not registered to {reference.given.kind}."
            parts.append(tag("p", words))
        else:
            parts.append(_overlay(reference, item))
    boxes = [_box("show-edges", "edges", EDGE_COLOUR)]
    if any(item.given.matrix is not None for item in drawn[1:]):
        boxes.append(_box("show-moving", "other image instead", None, checked=False))
        boxes.append(_box("flicker", "flicker", None, checked=False))
        parts.insert(0, _controls("Registration views", *boxes))
    return section("Registration", *parts, class_="registration")


def _overlay(reference: Drawn, item: Drawn) -> Html:
    scene = reference.scene
    cuts = registration_cuts(scene)
    points = [scene.points(cut) for cut in cuts]
    fixed, moving = reference.tiles(cuts), item.tiles_at(points)
    sheet = arrange(cuts, 560)
    no_words = [""] * len(cuts)
    one, two = reference.given.kind, item.given.kind
    board = compose(sheet, [checkerboard(f, m) for f, m in zip(fixed, moving, strict=True)])
    regions = [near_brain(scene, cut) for cut in cuts]
    lines = compose(
        sheet,
        [
            edges(m.astype(np.float32), where=r).astype(np.uint8)
            for m, r in zip(moving, regions, strict=True)
        ],
    )
    layers = [("edges", layer_png(lines, [EDGE_COLOUR]))]
    left = stack(
        lettered(compose(sheet, fixed), sheet, cuts, no_words),
        sheet,
        layers,
        alt=f"{one} with the edges of the registered {two}",
        caption=f"{one} with the edges of the registered {two}: edges should follow the {one}.",
        moving=lettered(compose(sheet, moving), sheet, cuts, no_words),
    )
    right = stack(
        lettered(board, sheet, cuts, no_words),
        sheet,
        [],
        alt=f"checkerboard of {one} and the registered {two}",
        caption=f"Checkerboard of {one} (upper left field) and {two}: contours should run on.",
    )
    return tag("div", left, right, class_="pair")


def _label_section(drawn: Sequence[Drawn], label: LabelView | None) -> Html:
    if not drawn:
        return Html("")
    if label is None:
        return section("Label", tag("p", "No expert label came with this study."))
    if not label.present:
        return section("Label", tag("p", "The expert's label is empty: no voxel is marked."))
    item = drawn[0]
    cuts = label_cuts(item.scene, label.values > 0, count=LABEL_TILES, tile=LABEL_TILE)
    sheet = arrange(cuts, WIDTH)
    words = [str(cut.index + 1) for cut in cuts]
    base = lettered(compose(sheet, item.tiles(cuts)), sheet, cuts, words)
    caption = (
        f"The {len(cuts)} slices of the {item.given.kind} with the most marked voxels; the check "
        "box above the images hides the outline."
    )
    picture = stack(
        base,
        sheet,
        [("label", label.layer(item.scene, sheet, cuts))],
        alt=f"{item.given.kind}: {len(cuts)} slices with the label's outline",
        caption=caption,
    )
    rows = [_label_row(label, value) for value in label.present]
    head = ("label", "value", "volume", "pieces", "largest piece")
    return section("Label", picture, table(head, rows, text=1), class_="marked")


def _label_row(label: LabelView, value: int) -> tuple[str, ...]:
    mask = label.values == value
    x, y, z = extent(mask) or ((0, 1), (0, 1), (0, 1))
    mask = mask[slice(*x), slice(*y), slice(*z)]
    pieces, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    largest = int(np.bincount(pieces.ravel())[1:].max()) if count else 0
    name = label.names.get(value, "unnamed")
    return (
        join([swatch(label.colour(value)), name]),
        str(value),
        f"{figure_words(round(int(mask.sum()) * label.voxel_ml, 3))} ml",
        str(count),
        f"{figure_words(round(largest * label.voxel_ml, 3))} ml",
    )


def _histograms(drawn: Sequence[Drawn]) -> Html:
    if not drawn:
        return Html("")
    charts = []
    masked = False
    for item in drawn:
        found = histogram_of(item.scene.volume.data, item.scene.brain)
        masked = masked or found.outside is not None
        title = f"{item.given.kind}: grey values in the brain and outside"
        charts.append(tag("div", tag("h3", item.given.kind), histogram(found, title)))
    words = (
        "Filled: voxels in the brain; dashed: outside, without padding and what defacing took. "
        "Each curve has its own height."
        if masked
        else "All voxels but padding; there is no brain mask."
    )
    return section(
        "Grey values", tag("p", words, class_="small"), tag("div", *charts, class_="histograms")
    )


def _figures(quality: Quality, site: SiteFigures) -> Html:
    if not quality.rows:
        return Html("")
    first = [row for row in quality.rows if row.judged or _unusual(row, site)]
    rest = [row for row in quality.rows if row not in first]
    words = (
        "Dot: this study (◆ review, ✖ fail). Dashed line: bound for review; solid line: bound for "
        "refusal. Bars: 90 % and the middle half of this site's other studies; tick: their median. "
        f"z: robust distance from the median; beyond {site.limit:g} is unusual."
    )
    parts = [tag("p", words, class_="small")]
    if first:
        parts.append(_figure_table(first, site))
    if rest:
        title = f"{len(rest)} further figures that nothing is decided by"
        parts.append(
            tag("details", tag("summary", title), _figure_table(rest, site), class_="screen")
        )
    return section("Figures of quality", *parts)


def _unusual(row: Row, site: SiteFigures) -> bool:
    return row.score is not None and abs(row.score) > site.limit


def _figure_table(rows: Sequence[Row], site: SiteFigures) -> Html:
    body = []
    for row in sorted(rows, key=lambda row: _urgency(row, site)):
        image, words, formula = metric_words(row.name)
        unit = UNITS.get(row.unit, row.unit)
        verdict = row.verdict
        score = "" if row.score is None else f"{row.score:+.1f}"
        arrow = {"higher": "higher is better", "lower": "lower is better"}.get(row.direction, "")
        cells = [
            tag("th", words, scope="row", title=f"{row.name}: {formula}".rstrip(": ")),
            tag("td", image),
            tag("td", f"{figure_words(row.value)} {unit}".strip(), class_="n"),
            tag("td", strip(row, site.spreads.get(row.name)), class_="strip"),
            tag("td", score, class_="n"),
            tag("td", arrow, class_="small better"),
            tag("td", f"{GLYPHS[verdict]} {verdict}" if verdict else "", class_=f"badge {verdict}"),
        ]
        body.append(tag("tr", *cells))
    names = ("figure", "image", "value", "against bounds and site", "z", "", "decision")
    numbers = {"value", "z"}
    head = [
        tag("th", n, scope="col", class_="n" if n in numbers else None)
        if n
        else tag("td", class_="better")
        for n in names
    ]
    whole = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body))
    return tag("div", whole, class_="wide")


def _urgency(row: Row, site: SiteFigures) -> tuple[int, bool]:
    order = {"fail": 0, "review": 1}
    return (order.get(row.verdict, 2), not _unusual(row, site))


def _done(content: StudyContent) -> Html:
    if not content.steps and not content.versions:
        return Html("")
    parts = []
    if content.steps:
        parts.append(table(("step", "what was done"), content.steps, text=2))
    if content.versions:
        versions = ", ".join(f"{name} {version}" for name, version in content.versions)
        parts.append(tag("p", f"Versions: {versions}.", class_="small"))
    told = json.dumps({"steps": content.steps, "versions": content.versions})
    return tag("section", tag("h2", "What was done to the study"), *parts, data_told=told)
