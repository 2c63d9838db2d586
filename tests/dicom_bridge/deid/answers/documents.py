"""Structured reports and encapsulated documents."""

from __future__ import annotations

from pydicom.dataset import Dataset

from tests.dicom_bridge.deid.answers.images import MR_CLASS
from tests.dicom_bridge.deid.answers.key import Answer
from tests.dicom_bridge.deid.answers.modules import Slot, Words, plant_common
from tests.dicom_bridge.deid.answers.planter import Planter

BASIC_TEXT = "1.2.840.10008.5.1.4.1.1.88.11"
COMPREHENSIVE = "1.2.840.10008.5.1.4.1.1.88.33"
ENCAPSULATED_PDF = "1.2.840.10008.5.1.4.1.1.104.1"
_SR = Words(
    "MRI BRAIN W/WO CONTRAST", "Radiology Report", "", "", "SIEMENS", "syngo.via", "headache"
)
_MEASURED = Words(
    "MRI BRAIN W/WO CONTRAST", "Measurements of lesions", "", "", "QIICR", "dcmqi", "follow up"
)
_PDF = Words(
    "MRI BRAIN W/WO CONTRAST", "Radiology Report", "", "", "SIEMENS", "syngo.via", "headache"
)
RULE = "C structured content"


def make_text_report(slot: Slot) -> Answer:
    """A Basic Text SR: findings in words, an observer, an image."""
    answer = Answer("SR text", "clean", Dataset())
    p = _report(answer, BASIC_TEXT, slot, _SR, ("18748-4", "LN", "Diagnostic Imaging Report"))
    person = slot.person
    observer = _content(p, "HAS OBS CONTEXT", "PNAME", ("121008", "DCM", "Person Observer Name"))
    observer.hide("PersonName", person.doctor, "A", RULE, person.doctor_family)
    section = _content(p, "CONTAINS", "CONTAINER", ("121070", "DCM", "Findings"))
    section.keep(RULE, ContinuityOfContent="SEPARATE")
    finding = _content(section, "CONTAINS", "TEXT", ("121071", "DCM", "Finding"))
    text = f"{person.given} {person.family}, {person.phone}: multiple lesions of the white matter"
    finding.hide("TextValue", text, "A", RULE, person.family)
    finding.hide("TextValue", text, "D", RULE, person.phone)
    image = _content(section, "CONTAINS", "IMAGE", None)
    _reference(image, slot)
    return answer


def make_measurement_report(slot: Slot) -> Answer:
    """A Comprehensive SR after TID 1500: a measurement group with a volume."""
    answer = Answer("SR TID 1500", "clean", Dataset())
    title = ("126000", "DCM", "Imaging Measurement Report")
    p = _report(answer, COMPREHENSIVE, slot, _MEASURED, title)
    template = p.item("ContentTemplateSequence")
    template.keep(RULE, MappingResource="DCMR", TemplateIdentifier="1500")
    person = slot.person
    serial = _content(
        p, "HAS OBS CONTEXT", "TEXT", ("121016", "DCM", "Device Observer Serial Number")
    )
    serial.hide("TextValue", person.serial, "M", RULE)
    device = _content(p, "HAS OBS CONTEXT", "UIDREF", ("121012", "DCM", "Device Observer UID"))
    device.uid("U structured content", UID=person.uid(5, 1))
    group = _measurement_group(p, slot)
    volume = _content(group, "CONTAINS", "NUM", ("118565006", "SCT", "Volume"))
    measured = volume.item("MeasuredValueSequence")
    measured.keep(RULE, NumericValue="1234.5")
    measured.code("MeasurementUnitsCodeSequence", "mm3", "UCUM", "cubic millimeter", rule=RULE)
    day = _content(group, "CONTAINS", "DATE", ("111060", "DCM", "Study Date"))
    day.date("C modified dates", Date=person.day())
    return answer


def _measurement_group(p: Planter, slot: Slot) -> Planter:
    person = slot.person
    measurements = _content(p, "CONTAINS", "CONTAINER", ("126010", "DCM", "Imaging Measurements"))
    measurements.keep(RULE, ContinuityOfContent="SEPARATE")
    name = ("125007", "DCM", "Measurement Group")
    group = _content(measurements, "CONTAINS", "CONTAINER", name)
    group.keep(RULE, ContinuityOfContent="SEPARATE")
    label = _content(group, "HAS OBS CONTEXT", "TEXT", ("112039", "DCM", "Tracking Identifier"))
    label.hide("TextValue", f"{person.family} lesion 1", "A", RULE, person.family)
    uid = _content(
        group, "HAS OBS CONTEXT", "UIDREF", ("112040", "DCM", "Tracking Unique Identifier")
    )
    uid.uid("U structured content", UID=person.uid(6, 1))
    finding = _content(group, "CONTAINS", "CODE", ("121071", "DCM", "Finding"))
    finding.code("ConceptCodeSequence", "52988006", "SCT", "Lesion", rule=RULE)
    return group


def make_pdf(slot: Slot) -> Answer:
    """A report as PDF: its text identifies, so the document itself must go."""
    answer = Answer("PDF", "clean", Dataset())
    p = plant_common(answer, ENCAPSULATED_PDF, "DOC", slot, _PDF)
    person = slot.person
    p.put(ConversionType="WSD", BurnedInAnnotation="YES", InstanceNumber="1")
    p.date(ContentDate=person.day(), AcquisitionDateTime=f"{person.day()}101500")
    p.put(ContentTime="101520")
    p.hide("DocumentTitle", f"Report on {person.family}", "A", "Z/D", person.family)
    p.put(ConceptNameCodeSequence=[])
    p.keep(MIMETypeOfEncapsulatedDocument="application/pdf")
    text = f"({person.given} {person.family}, {person.street}, SSN {person.ssn})"
    content = _pdf(text)
    p.put(EncapsulatedDocument=content + b"\0" * (len(content) % 2))
    for letter, value in (("B", person.street), ("G", person.ssn)):
        p.hide("EncapsulatedDocument", p.ds.EncapsulatedDocument, letter, "X/D document", value)
    p.notnull("EncapsulatedDocument")
    return answer


def _pdf(text: str) -> bytes:
    stream = f"BT /F1 12 Tf 72 720 Td {text} Tj ET"
    objects = (
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R >>",
        f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream",
    )
    body = "".join(f"{n} 0 obj\n{text}\nendobj\n" for n, text in enumerate(objects, 1))
    return f"%PDF-1.4\n{body}trailer << /Root 1 0 R >>\n%%EOF\n".encode()


def _report(
    answer: Answer, sop_class: str, slot: Slot, words: Words, title: tuple[str, str, str]
) -> Planter:
    p = plant_common(answer, sop_class, "SR", slot, words)
    person = slot.person
    p.date(ContentDate=person.day())
    p.put(ContentTime="120000", InstanceNumber="1", ReferencedPerformedProcedureStepSequence=[])
    p.put(PerformedProcedureCodeSequence=[])
    p.keep(RULE, CompletionFlag="COMPLETE", VerificationFlag="VERIFIED", ValueType="CONTAINER")
    p.keep(RULE, ContinuityOfContent="SEPARATE")
    p.code("ConceptNameCodeSequence", *title, rule=RULE)
    verifier = p.item("VerifyingObserverSequence")
    verifier.hide("VerifyingObserverName", person.doctor, "A", "D", person.doctor_family)
    verifier.hide("VerifyingOrganization", person.hospital, "B", "X/D")
    verifier.date(VerificationDateTime=f"{person.day()}121500")
    verifier.put(VerifyingObserverIdentificationCodeSequence=[])
    evidence = p.item("CurrentRequestedProcedureEvidenceSequence")
    evidence.uid(StudyInstanceUID=slot.study_uid)
    series = evidence.item("ReferencedSeriesSequence")
    series.uid(SeriesInstanceUID=slot.person.uid(1, 1))
    item = series.item("ReferencedSOPSequence")
    item.keep(ReferencedSOPClassUID=MR_CLASS)
    item.uid("U*", ReferencedSOPInstanceUID=person.uid(1, 1, 1))
    return p


def _content(
    parent: Planter, relation: str, kind: str, name: tuple[str, str, str] | None
) -> Planter:
    item = parent.item("ContentSequence")
    item.keep(RULE, RelationshipType=relation, ValueType=kind)
    if name is not None:
        item.code("ConceptNameCodeSequence", *name, rule=RULE)
    return item


def _reference(item: Planter, slot: Slot) -> None:
    reference = item.item("ReferencedSOPSequence")
    reference.keep(ReferencedSOPClassUID=MR_CLASS)
    reference.uid("U*", ReferencedSOPInstanceUID=slot.person.uid(1, 1, 1))
