"""Whether a series shows the head, from BodyPartExamined, coded anatomy and names."""

from __future__ import annotations

import re

from dicom_bridge.classify.attributes import Acquisition

HEAD = "head"
UNKNOWN = "unknown"
HEAD_TERMS = frozenset(
    {"BRAIN", "HEAD", "SKULL", "NEURO", "HEADNECK", "HEAD NECK", "HEAD AND NECK", "CRANIUM"}
    | {"CEREBRUM", "ENCEPHALON", "CEREBELLUM", "PITUITARY", "IAC", "ORBIT", "FACE", "WHITE MATTER"}
    | {"ENTIRE BRAIN", "ENTIRE HEAD", "SCHAEDEL", "KOPF", "TETE", "CABEZA", "CRANE"}
)
SAYS_NOTHING = frozenset({"", "UNKNOWN", "OTHER", "NONE", "N/A", "NA", "UNDEFINED", "MR"})
# Body part -> word stems in names and in BodyPartExamined.
OTHER_PARTS: tuple[tuple[str, str], ...] = (
    (
        "spine",
        r"\w*spine\w*|lumbar\w*|cervical\w*|thoracic\w*|sacr\w*|lws|bws|hws",
    ),
    ("prostate", r"prostat\w*"),
    ("knee", r"knee\w*|knie\w*|patella\w*"),
    ("hip", r"hips?|pelvi\w*"),
    ("shoulder", r"shoulder\w*|schulter"),
    ("arm", r"elbow|wrist|hand|arm|forearm|humerus|finger"),
    ("leg", r"ankle|foot|leg|thigh|femur|tibia|calf|toe"),
    ("abdomen", r"abdo\w*|liver|kidney\w*|pancreas|renal|hepat\w*|bowel|spleen|mrcp"),
    ("chest", r"chest|thorax|lung\w*|breast\w*|mamma\w*|heart|cardi\w*|aort\w*|partialbody"),
    ("neck", r"neck|thyroid|larynx|tspinec"),
    ("whole body", r"whole ?body|wholebody"),
)


def _named_part(text: str) -> str | None:
    for part, pattern in OTHER_PARTS:
        if re.search(rf" (?:{pattern}) ", text):
            return part
    return None


def judge_body_part(seen: Acquisition) -> tuple[str, bool]:
    """The body part in a closed vocabulary, and whether it may be the head.

    Args:
        seen: the series' acquisition.

    Returns:
        "head", "unknown" or another part's name; True for head and unknown.
    """
    stated = " ".join(seen.body_part.replace("_", " ").split())
    named = _named_part(seen.words)
    if named is not None and named != "neck":
        return named, False
    if stated in HEAD_TERMS or stated.replace(" ", "") in HEAD_TERMS:
        return HEAD, True
    if stated in SAYS_NOTHING:
        head = re.search(r" (?:brain|head|cranial|cerebral|neuro|schaedel|kopf) ", seen.words)
        return (HEAD if head else UNKNOWN), True
    if any(term in stated.split() for term in ("BRAIN", "HEAD", "SKULL")):
        return HEAD, True
    return _named_part(f" {stated.lower()} ") or "another body part", False
