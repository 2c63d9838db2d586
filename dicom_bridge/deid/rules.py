"""The profile compiled for one SOP class: a tree of rules by tag. What has no rule goes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cache
from typing import Any

from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import tag_for_keyword

from dicom_bridge.deid import values
from dicom_bridge.deid.profile import Documents, Profile
from dicom_bridge.deid.table import (
    OPTION_CODES,
    Action,
    Option,
    Row,
    load_rows,
    read_table,
    resolve,
)
from dicom_bridge.deid.values import Judge
from dicom_bridge.errors import DataRefused


class Method(IntEnum):
    """How an element that has a rule is treated."""

    EMPTY = 0
    DUMMY = 1
    JUDGE = 2
    RAW = 3
    UID = 4
    DATE = 5
    PATIENT = 6
    MEANING = 7
    SEQUENCE = 8
    DUMMY_ITEM = 9
    PIXELS = 10


@dataclass(slots=True, eq=False)
class Node:
    """The rules of one data set: top level, or the items of one sequence.

    Attributes:
        rules: by tag.
        top: public technical numbers and terms outside the IOD may stay here: at top level, and
            where the IOD admits any attribute.
    """

    rules: dict[int, Rule] = field(default_factory=dict)
    top: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """What happens to one attribute at one place.

    Attributes:
        action: the letter of PS3.15 for the record; ``K`` where the table does not name it.
        method: how it is done.
        kind: ``1``, ``2`` or ``3``: what may be left where the value may not stay.
        vrs: VRs the dictionary knows for it; with another one the element goes.
        judge: decides on the value, for ``Method.JUDGE``.
        child: rules of the items, for sequences.
        label: the action and, after a blank, the codes (CID 7050) of the options that decided so,
            joined by commas: what is counted when the rule has run.
    """

    action: Action
    method: Method
    kind: str
    vrs: frozenset[bytes]
    judge: Judge | None = None
    child: Node | None = None
    label: str = ""


PATIENT_TAGS = frozenset({0x00100010, 0x00100020})
CHARACTER_SET = 0x00080005
CODE_VALUE, CODE_SCHEME, CODE_MEANING = 0x00080100, 0x00080102, 0x00080104
CONTENT_SEQUENCE, GRAPHIC_OBJECTS, GRAPHIC_ANNOTATION = 0x0040A730, 0x00700009, 0x00700001
OURS = frozenset({0x00120062, 0x00120063, 0x00120064, 0x00280303})
DECLARED_SAFE = 0x00080300  # what a sender says of private blocks that are judged anew
ENCAPSULATED_PDF, DOCUMENT = "1.2.840.10008.5.1.4.1.1.104.1", 0x00420011
UNASSIGNED = frozenset({0x00209170, 0x00209171})  # any attribute of the converted image
TECHNICAL_GROUPS = frozenset({0x0018, 0x0020, 0x0028, 0x0040, 0x0054})
CLOSED_FORMS = frozenset({"US", "SS", "UL", "SL", "FL", "FD", "DS", "IS", "CS", "US or SS"})
_BULK = (
    *("PixelData", "FloatPixelData", "DoubleFloatPixelData", "LUTData", "SpectroscopyData"),
    *("RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData", "ExtendedOffsetTable"),
    *("BluePaletteColorLookupTableData", "SegmentedRedPaletteColorLookupTableData"),
    *("SegmentedGreenPaletteColorLookupTableData", "SegmentedBluePaletteColorLookupTableData"),
    *("AlphaPaletteColorLookupTableData", "ExtendedOffsetTableLengths", "PointCoordinatesData"),
    *("FirstOrderPhaseCorrectionAngle", "LongPrimitivePointIndexList", "VectorCoordinateData"),
    *("LongEdgePointIndexList", "LongTrianglePointIndexList", "LongVertexPointIndexList"),
    *("VectorGridData", "BlendingLookupTableData"),
)
_VENDOR = (
    *("Manufacturer", "DetectorManufacturerName", "ReceiveCoilManufacturerName"),
    *("TransmitCoilManufacturerName", "SecondaryCaptureDeviceManufacturer"),
)
_DEVICE = (
    *("ManufacturerModelName", "SoftwareVersions", "SequenceName", "PulseSequenceName"),
    *("ReceiveCoilName", "TransmitCoilName", "MultiCoilElementName", "ConvolutionKernel"),
    *("FilterType", "ImageFilter", "OutputPower", "DetectorManufacturerModelName", "ImagedNucleus"),
    *("TypeOfFilters", "PlateType", "PhosphorType", "ReconstructionMethod", "RescaleType"),
    *("AttenuationCorrectionMethod", "ScatterCorrectionMethod", "ModalityLUTType", "LUTLabel"),
    *("SegmentAlgorithmName", "AlgorithmName", "AlgorithmVersion", "StackID", "EnergyWindowName"),
    *("CardiacFramingType", "SecondaryCaptureDeviceManufacturerModelName"),
    *("SecondaryCaptureDeviceSoftwareVersions", "PhosphorType", "DetectorLinesOfResponseUsed"),
    *("TransducerData", "TransducerType", "ProcessingFunction"),
)
_WORDS = (
    *("SegmentLabel", "DimensionDescriptionLabel", "PositionReferenceIndicator", "FrameLabel"),
    *("WindowCenterWidthExplanation", "LUTExplanation", "Radiopharmaceutical", "ViewName"),
    *(
        "RadiopharmaceuticalRoute",
        "ContrastBolusRoute",
        "ProcessingFunction",
        "MappingResourceName",
    ),
    *("PatientSpeciesDescription", "TriggerSourceOrType", "PVCRejection"),
)


def _tags(*keywords: str) -> frozenset[int]:
    return frozenset(tag for tag in map(tag_for_keyword, keywords) if tag is not None)


BULK = _tags(*_BULK)
PIXELS = _tags("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_TEXT_JUDGES: Mapping[int, Judge] = {
    **dict.fromkeys(_tags(*_VENDOR), values.vendor),
    **dict.fromkeys(_tags(*_DEVICE), values.device_text),
    **dict.fromkeys(_tags(*_WORDS), values.words_text),
    CODE_VALUE: values.code_value,
    CODE_SCHEME: values.code_scheme,
    **dict.fromkeys(_tags("CodingSchemeVersion"), values.device_text),
    **dict.fromkeys(_tags("MIMETypeOfEncapsulatedDocument", "ListOfMIMETypes"), values.pdf_type),
}
_FORM_JUDGES: Mapping[str, Judge] = {
    "DS": values.number,
    "IS": values.number,
    "CS": values.code_string,
    "AS": values.age,
    "DA": values.date_value,
    "TM": values.time_value,
    "DT": values.date_time_value,
}
_DESCRIPTIONS = frozenset({"LO", "LT", "SH", "ST", "UC", "UT"})
_FREE_TEXT = frozenset({"AE", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})


@cache
def sop_classes() -> Mapping[str, str]:
    """The SOP classes that can be de-identified: UID to the name of the IOD."""
    found: dict[str, str] = _iods()["classes"]
    return found


@cache
def _iods() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(read_table("iod_attributes.json"))
    return document


def compile_rules(profile: Profile, sop_class: str) -> Node:
    """The rules for one SOP class.

    Raises:
        DataRefused: the SOP class is unknown or cannot be de-identified.
    """
    if not sop_class:
        raise DataRefused("the SOP Class UID is missing or empty")
    iod = sop_classes().get(sop_class)
    if iod is None:
        raise DataRefused(_not_supported(sop_class))
    if sop_class == ENCAPSULATED_PDF and profile.documents is Documents.REFUSE:
        raise DataRefused("encapsulated document: the profile refuses documents")
    compiler = _Compiler(profile)
    root = compiler.node(_iods()["roots"][iod], top=True)
    compiler.add_options(root)
    return root


_ROOT = "1.2.840.10008.5.1.4.1.1."
_FAMILIES = (
    ("9.", "waveforms: their channels cannot be searched for a name or a voice"),
    ("66", "raw data: private contents that nobody can search"),
    ("77.", "visible light images, videos and slides: faces and labels may be in the picture"),
    ("104.", "encapsulated documents other than PDF"),
    ("481.", "this kind of radiotherapy object"),
    ("11.", "this kind of presentation state"),
    ("88.", "this kind of structured report"),
)


def _not_supported(sop_class: str) -> str:
    """Why objects of a SOP class are refused, by its family."""
    rest = sop_class.removeprefix(_ROOT)
    for prefix, words in _FAMILIES if rest != sop_class else ():
        if rest.startswith(prefix):
            return f"objects of this SOP class cannot be de-identified: {words}"
    return "objects of this SOP class cannot be de-identified: it is not an image, SEG, SR or PDF"


class _Compiler:
    """Builds rules; equal subtrees of the IOD are compiled once."""

    def __init__(self, profile: Profile) -> None:
        self._options = profile.options
        self._ordered = sorted(profile.options)
        self._rows = load_rows()
        self._done: dict[int, Node] = {}

    def node(self, number: int, *, top: bool = False) -> Node:
        """The rules for one stored subtree."""
        if number in self._done and not top:
            return self._done[number]
        node = Node(top=top)
        self._done[number] = node
        for name, entry in _iods()["nodes"][number].items():
            kind, child = entry if isinstance(entry, list) else (entry, None)
            rule = self._rule(int(name, 16), str(kind), child)
            if rule is not None:
                node.rules[int(name, 16)] = self._labelled(rule, int(name, 16))
        self._recursion(node)
        return node

    def add_options(self, root: Node) -> None:
        """Attributes outside the IOD that an option of the profile keeps."""
        for tag, row in self._rows.items():
            if tag not in root.rules and any(option in row.options for option in self._options):
                rule = self._rule(tag, "3", None)
                if rule is not None and rule.method is not Method.SEQUENCE:
                    root.rules[tag] = self._labelled(rule, tag)

    def _labelled(self, rule: Rule, tag: int) -> Rule:
        """The rule with its label: an option is named where its own action is the rule's."""
        row = self._rows.get(tag)
        cells = row.options if row is not None else {}
        deciding = (option for option in self._ordered if cells.get(option) is rule.action)
        return replace(rule, label=labelled(rule.action, deciding))

    def _recursion(self, node: Node) -> None:
        content = node.rules.get(CONTENT_SEQUENCE)
        if content is not None and content.child is not None:
            content.child.rules[CONTENT_SEQUENCE] = content

    def _rule(self, tag: int, kind: str, child: int | None) -> Rule | None:
        known = DicomDictionary.get(tag)
        group = tag >> 16
        if (
            known is None
            or tag in OURS
            or tag == DECLARED_SAFE
            or group % 2
            or group in (2, 0xFFFC)
            or group >> 8
            in (
                0x50,
                0x60,
            )
        ):
            return None
        vr = str(known[0])
        kind = kind[0] if kind[0] in "123" else "3"
        row = self._rows.get(tag)
        if row is None:
            return self._unlisted(tag, vr, kind, child)
        return self._listed(row, vr, kind, child)

    def _listed(self, row: Row, vr: str, kind: str, child: int | None) -> Rule | None:
        action = resolve(row, self._options, kind)
        vrs = _vrs(vr)
        if action is Action.REMOVE:
            return None
        if row.tag in PATIENT_TAGS:
            return Rule(action, Method.PATIENT, kind, vrs)
        if vr == "SQ":
            return self._sequence(row.tag, action, kind, child)
        if action is Action.EMPTY:
            return Rule(action, Method.EMPTY, kind, vrs)
        if vr == "UI" and action is not Action.KEEP:
            return Rule(Action.UID, Method.UID, kind, vrs)
        if action is Action.DUMMY:
            return Rule(action, Method.DUMMY, kind, vrs)
        return self._retained(row, action, vr, kind)

    def _retained(self, row: Row, action: Action, vr: str, kind: str) -> Rule | None:
        """An attribute that an option keeps or cleans."""
        vrs = _vrs(vr)
        if vr in ("DA", "DT") and action is Action.CLEAN:
            return Rule(action, Method.DATE, kind, vrs)
        if vr in _FORM_JUDGES:
            return Rule(action, Method.JUDGE, kind, vrs, _FORM_JUDGES[vr])
        if vr == "UI":
            return Rule(action, Method.JUDGE, kind, vrs, values.uid_value)
        if vr in _FREE_TEXT and action is Action.KEEP:
            return Rule(action, Method.JUDGE, kind, vrs, values.kept_text)
        if vr in _FREE_TEXT and vr not in ("AE", "PN", "UR"):
            return Rule(action, Method.JUDGE, kind, vrs, values.cleaned_text)
        if vr in ("US", "SS", "UL", "SL", "FL", "FD") and action is Action.KEEP:
            return Rule(action, Method.RAW, kind, vrs)
        fallback = resolve(row, frozenset(), kind)
        if fallback is Action.REMOVE:
            return None
        method = Method.EMPTY if fallback is Action.EMPTY else Method.DUMMY
        return Rule(fallback, method, kind, vrs)

    def _sequence(self, tag: int, action: Action, kind: str, child: int | None) -> Rule | None:
        vrs = _vrs("SQ")
        if action is Action.EMPTY:
            return Rule(action, Method.EMPTY, kind, vrs)
        if child is None and tag not in UNASSIGNED:
            return None if kind == "3" else Rule(Action.EMPTY, Method.EMPTY, kind, vrs)
        node = Node(top=True) if child is None else self.node(child)
        if action is Action.DUMMY and (CODE_VALUE in node.rules or tag == CONTENT_SEQUENCE):
            return Rule(action, Method.DUMMY_ITEM, kind, vrs, child=node)
        if tag == GRAPHIC_ANNOTATION and Option.CLEAN_GRAPHICS not in self._options:
            rules = {t: rule for t, rule in node.rules.items() if t != GRAPHIC_OBJECTS}
            node = Node(rules=rules)
        return Rule(action, Method.SEQUENCE, kind, vrs, child=node)

    def _unlisted(self, tag: int, vr: str, kind: str, child: int | None) -> Rule | None:
        """An attribute that the table does not name: only closed forms may stay."""
        keep, vrs = Action.KEEP, _vrs(vr)
        if vr == "SQ":
            return self._sequence(tag, keep, kind, child)
        if tag in PIXELS:
            return Rule(keep, Method.PIXELS, kind, vrs)
        if tag == CODE_MEANING:
            return Rule(Action.CLEAN, Method.MEANING, kind, vrs)
        if tag == CHARACTER_SET:  # without it a text is ASCII: a dummy would be no character set
            return Rule(keep, Method.JUDGE, "3", vrs, values.character_set)
        judge = _TEXT_JUDGES.get(tag)
        if judge is None and vr in ("DS", "IS", "CS", "AS"):
            judge = _FORM_JUDGES[vr]
        if judge is not None:
            return Rule(keep, Method.JUDGE, kind, vrs, judge)
        if vr == "UI":
            return Rule(Action.UID, Method.UID, kind, vrs)
        if tag in BULK or (vrs and all(v in values.BINARY_SIZES and v[:1] != b"O" for v in vrs)):
            return Rule(keep, Method.RAW, kind, vrs)
        if Option.CLEAN_DESCRIPTORS in self._options and vr in _DESCRIPTIONS:
            clean = Action.CLEAN
            return Rule(clean, Method.JUDGE, kind, vrs, values.cleaned_text)
        return _denied(kind, vrs)


def labelled(action: Action, options: Iterable[Option] = ()) -> str:
    """An action with the codes of the options that decided on it."""
    return " ".join(filter(None, (str(action), ",".join(OPTION_CODES[o][0] for o in options))))


def technical_rule(tag: int) -> Rule | None:
    """The rule for a public number or term outside the IOD at top level, if there is one."""
    known = DicomDictionary.get(tag)
    if known is None or (tag >> 16) not in TECHNICAL_GROUPS or tag in load_rows() or tag in OURS:
        return None
    vr = str(known[0])
    if vr not in CLOSED_FORMS:
        return None
    if vr in _FORM_JUDGES:
        return Rule(Action.KEEP, Method.JUDGE, "3", _vrs(vr), _FORM_JUDGES[vr], label="K")
    return Rule(Action.KEEP, Method.RAW, "3", _vrs(vr), label="K")


@cache
def private_rule(vr: bytes) -> Rule:
    """The rule for a safe private element, by its VR in Table E.3.10-1."""
    label = labelled(Action.CLEAN, [Option.RETAIN_SAFE_PRIVATE])
    judge = _FORM_JUDGES.get(vr.decode())
    if judge is None and vr in (b"LO", b"SH"):
        judge = values.device_text
    method = Method.RAW if judge is None else Method.JUDGE
    return Rule(Action.CLEAN, method, "3", frozenset({vr}), judge, label=label)


def _denied(kind: str, vrs: frozenset[bytes]) -> Rule | None:
    """Default deny that leaves the object valid: a dummy for type 1, nothing else."""
    if kind == "3" or not vrs <= values.DUMMIES.keys():
        return None
    method = Method.DUMMY if kind == "1" else Method.EMPTY
    return Rule(Action.DUMMY if kind == "1" else Action.EMPTY, method, kind, vrs)


def _vrs(vr: str) -> frozenset[bytes]:
    names = {part.encode("ascii") for part in vr.split(" or ")}
    return frozenset(names | ({b"OB", b"OW"} if "OW" in vr else set()))
