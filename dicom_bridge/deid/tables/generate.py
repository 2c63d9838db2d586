"""Makes ``iod_attributes.json`` and ``codes.json`` from what two packages carry of the standard.

The first says which attributes each SOP class has, at which path, of which type (PS3.3 module
tables in highdicom); trees are merged per IOD and equal subtrees stored once. The second holds
the meanings of coded concepts (PS3.16, in pydicom). After either has moved to a newer edition run
``python -m dicom_bridge.deid.tables.generate``; a test compares the result with the files.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from pydicom.datadict import tag_for_keyword
from pydicom.sr._concepts_dict import concepts
from pydicom.sr._snomed_dict import mapping

IODS = (
    "computed-radiography-image",
    "ct-image",
    "digital-x-ray-image",
    "digital-mammography-x-ray-image",
    "digital-intra-oral-x-ray-image",
    "mr-image",
    "mr-spectroscopy",
    "enhanced-mr-image",
    "enhanced-mr-color-image",
    "enhanced-ct-image",
    "enhanced-pet-image",
    "legacy-converted-enhanced-ct-image",
    "legacy-converted-enhanced-mr-image",
    "legacy-converted-enhanced-pet-image",
    "positron-emission-tomography-image",
    "nuclear-medicine-image",
    "secondary-capture-image",
    "multi-frame-grayscale-byte-secondary-capture-image",
    "multi-frame-grayscale-word-secondary-capture-image",
    "multi-frame-single-bit-secondary-capture-image",
    "multi-frame-true-color-secondary-capture-image",
    "ultrasound-image",
    "ultrasound-multi-frame-image",
    "enhanced-us-volume",
    "x-ray-angiographic-image",
    "x-ray-radiofluoroscopic-image",
    "enhanced-xa-image",
    "enhanced-xrf-image",
    "breast-tomosynthesis-image",
    "breast-projection-x-ray-image",
    "rt-dose",
    "rt-structure-set",
    "rt-plan",
    "segmentation",
    "parametric-map",
    "real-world-value-mapping",
    "spatial-registration",
    "surface-segmentation",
    "basic-text-sr",
    "enhanced-sr",
    "comprehensive-sr",
    "comprehensive-3d-sr",
    "x-ray-radiation-dose-sr",
    "key-object-selection-document",
    "grayscale-softcopy-presentation-state",
    "encapsulated-pdf",
)
LEFT_OUT = frozenset({"overlay-plane", "multi-frame-overlay", "overlay", "curve", "audio"})
STRICTNESS = {"1": 0, "1C": 1, "2": 2, "2C": 3, "3": 4, "None": 5}

Tree = dict[str, list[Any]]


def _load(name: str) -> Any:  # noqa: ANN401 (JSON of another package)
    text = resources.files("highdicom").joinpath("_standard", name).read_text(encoding="utf-8")
    return json.loads(text)


def _tree(modules: list[str], attributes: dict[str, list[dict[str, Any]]]) -> Tree:
    """The merged tree of an IOD's modules: tag in hexadecimal to [type, subtree or nothing]."""
    root: Tree = {}
    for module in modules:
        for attribute in attributes[module]:
            node = root
            for keyword in attribute["path"]:
                node = node.setdefault(_hex(keyword), ["3", {}])[1]
            tag = _hex(attribute["keyword"])
            kind = str(attribute["type"])
            if tag in node:
                node[tag][0] = min(node[tag][0], kind, key=lambda k: STRICTNESS.get(k, 5))
            else:
                node[tag] = [kind, {}]
    return root


def _hex(keyword: str) -> str:
    tag = tag_for_keyword(keyword)
    if tag is None:
        return "00000000"
    return f"{tag:08x}"


def _store(tree: Tree, nodes: list[dict[str, Any]], known: dict[str, int]) -> int:
    """Store a tree bottom-up, equal subtrees once, and return its number."""
    flat: dict[str, Any] = {}
    for tag in sorted(tree):
        kind, child = tree[tag]
        if tag != "00000000":
            flat[tag] = [kind, _store(child, nodes, known)] if child else kind
    key = json.dumps(flat, sort_keys=True)
    if key not in known:
        known[key] = len(nodes)
        nodes.append(flat)
    return known[key]


def build() -> str:
    """The text of ``iod_attributes.json``."""
    iods = _load("iod_module_map.json")
    attributes = _load("module_attribute_map.json")
    nodes: list[dict[str, Any]] = []
    known: dict[str, int] = {}
    roots = {
        iod: _store(
            _tree([m["key"] for m in iods[iod] if m["key"] not in LEFT_OUT], attributes),
            nodes,
            known,
        )
        for iod in IODS
    }
    classes = {
        uid: iod for uid, iod in sorted(_load("sop_class_iod_map.json").items()) if iod in roots
    }
    document = {"format": 1, "classes": classes, "roots": roots, "nodes": nodes}
    return json.dumps(document, separators=(",", ":")).replace("},{", "},\n{") + "\n"


def build_codes() -> str:
    """The text of ``codes.json``: scheme to code to meaning, retired SRT codes included."""
    known: dict[str, dict[str, Any]] = concepts
    meanings: dict[str, dict[str, str]] = {
        scheme: {
            value: entry[0] for by_value in keywords.values() for value, entry in by_value.items()
        }
        for scheme, keywords in known.items()
    }
    snomed = meanings["SCT"]
    meanings["SRT"] = {old: snomed[new] for old, new in mapping["SRT"].items() if new in snomed}
    return (
        json.dumps(meanings, separators=(",", ":"), sort_keys=True).replace('","', '",\n"') + "\n"
    )


def main() -> None:
    """Write the files beside this module."""
    Path(__file__).with_name("iod_attributes.json").write_text(build(), encoding="utf-8")
    Path(__file__).with_name("codes.json").write_text(build_codes(), encoding="utf-8")


if __name__ == "__main__":
    main()
