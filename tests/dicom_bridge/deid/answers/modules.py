"""The modules that all objects share, with an identifier of every kind planted in them."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.dicom_bridge.deid.answers.key import Answer
from tests.dicom_bridge.deid.answers.people import Person
from tests.dicom_bridge.deid.answers.planter import Planter


@dataclass(frozen=True, slots=True)
class Words:
    """The clinical words of one kind of object.

    Attributes:
        study: StudyDescription. series: SeriesDescription. protocol: ProtocolName.
        body: BodyPartExamined, empty where the IOD has none.
        manufacturer: Manufacturer. model: ManufacturerModelName.
        comment: clinical part of comments.
    """

    study: str
    series: str
    protocol: str
    body: str
    manufacturer: str
    model: str
    comment: str


@dataclass(frozen=True, slots=True)
class Slot:
    """Where an object stands: patient, number of its series in the study, instance number."""

    person: Person
    series: int
    instance: int
    chance: random.Random

    @property
    def study_uid(self) -> str:
        """The study's UID, the same for all kinds of one patient."""
        return self.person.uid(1)

    @property
    def series_uid(self) -> str:
        """The series' UID."""
        return self.person.uid(1, self.series)

    @property
    def sop_uid(self) -> str:
        """The instance's UID."""
        return self.person.uid(1, self.series, self.instance)

    @property
    def frame_uid(self) -> str:
        """The frame of reference, the same for all kinds of one patient."""
        return self.person.uid(9)


def plant_common(
    answer: Answer, sop_class: str, modality: str, slot: Slot, words: Words
) -> Planter:
    """SOP common, patient, study, series and equipment."""
    p = Planter(answer)
    person = slot.person
    p.put(SpecificCharacterSet=charset(person))
    p.keep(SOPClassUID=sop_class, Modality=modality)
    p.uid(SOPInstanceUID=slot.sop_uid, StudyInstanceUID=slot.study_uid)
    p.uid(SeriesInstanceUID=slot.series_uid)
    p.notnull("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
    _patient(p, person)
    _study(p, slot, words)
    _series(p, slot, words)
    _equipment(p, person, words)
    _others(p, slot)
    return p


def charset(person: Person) -> str:
    """Latin-1 where the names fit into it, else UTF-8."""
    texts = (person.family, person.given, person.doctor, person.operator)
    try:
        "".join(texts).encode("latin-1")
    except UnicodeEncodeError:
        return "ISO_IR 192"
    return "ISO_IR 100"


def _patient(p: Planter, person: Person) -> None:
    p.hide("PatientName", person.name, "A", "Z", person.family, person.given)
    p.notnull("PatientName", rule="Z/D: the pseudonym")
    p.patient_id(person.number)
    p.date("Z", PatientBirthDate=person.birth)
    p.present("Z", PatientBirthDate=person.birth)
    p.keep("K patient characteristics", PatientSex=person.sex, PatientWeight="71.5")
    if int(person.age[:3]) >= 90:
        p.hide("PatientAge", "094Y", "C", "C patient characteristics")
    else:
        p.keep("K patient characteristics", PatientAge=person.age)
    p.hide("IssuerOfPatientID", person.issuer, "R", "X")
    p.hide("OtherPatientNames", f"{person.family}^Old", "A", "X", person.family)
    p.hide("PatientAddress", f"{person.street}, {person.town} {person.postcode}", "B", "X")
    p.hide("PatientTelephoneNumbers", person.phone, "D", "X")
    p.hide("MilitaryRank", "Sergeant Major", "R", "X")
    p.hide("RegionOfResidence", person.town, "B", "X")
    p.hide("MedicalRecordLocator", f"{person.other_number}-LOC", "H", "X")
    p.hide("Occupation", "village mayor", "R", "X")
    insurance = p.item("OtherPatientIDsSequence")
    insurance.hide("PatientID", person.plan, "I", "X")
    insurance.put(TypeOfPatientID="TEXT")
    social = p.item("OtherPatientIDsSequence")
    social.hide("PatientID", person.ssn, "G", "X")
    social.put(TypeOfPatientID="TEXT")
    p.hide(
        "PatientComments",
        f"fax {person.fax}, {person.mail}, car {person.plate}, finger {person.print_code}",
        "E",
        "X",
        person.fax,
    )
    for letter, value in (("F", person.mail), ("L", person.plate), ("P", person.print_code)):
        p.hide("PatientComments", p.ds.PatientComments, letter, "X", value)


def _study(p: Planter, slot: Slot, words: Words) -> None:
    person = slot.person
    p.date(StudyDate=person.day())
    p.present("K modified dates", StudyDate=person.day(), StudyTime="101112")
    p.hide("AccessionNumber", f"A{person.other_number[1:]}", "R", "Z")
    p.present("Z", AccessionNumber=p.ds.AccessionNumber)
    p.hide("ReferringPhysicianName", person.doctor, "A", "Z", person.doctor_family)
    p.present("Z", ReferringPhysicianName=person.doctor)
    p.hide("StudyID", person.account, "J", "Z")
    p.text("StudyDescription", words.study, ("A", person.doctor_family), form="{} Dr. {}")
    p.hide("PhysiciansOfRecord", person.doctor, "A", "X", person.doctor_family)
    p.hide("AdmissionID", person.account, "J", "X")
    p.text(
        "AdditionalPatientHistory",
        words.comment,
        ("A", person.given),
        ("D", person.phone),
        ("C", f"{person.study_day:%m/%d/%Y}"),
        ("N", person.url),
    )
    code = p.item("ProcedureCodeSequence")
    code.keep(CodeValue="77477000", CodingSchemeDesignator="SCT")
    code.put(CodeMeaning="Computed tomography")
    code.notnull("CodeMeaning")


def _series(p: Planter, slot: Slot, words: Words) -> None:
    person = slot.person
    p.date(SeriesDate=person.day())
    p.put(SeriesTime="101500")
    p.keep(SeriesNumber=str(slot.series), InstanceNumber=str(slot.instance))
    p.text("SeriesDescription", words.series, ("A", person.family), form="{} ({})")
    if words.protocol:
        p.text("ProtocolName", words.protocol, ("B", person.town), form="{} {}")
    if words.body:
        p.keep(BodyPartExamined=words.body)
    p.hide("OperatorsName", person.operator, "A", "X", person.operator_family)
    p.hide("PerformingPhysicianName", person.doctor, "A", "X", person.doctor_family)
    _request(p, slot, words)
    p.hide("PerformedProcedureStepID", f"PP{person.account[4:]}", "R", "X")
    p.text("PerformedProcedureStepDescription", words.study, ("F", person.mail))
    p.date(PerformedProcedureStepStartDate=person.day())


def _request(p: Planter, slot: Slot, words: Words) -> None:
    """The request: in reports under another sequence, without scheduled step."""
    person = slot.person
    number = f"RP{person.account[4:]}"
    if p.ds.Modality == "SR":
        request = p.item("ReferencedRequestSequence")
        request.put(ReferencedStudySequence=[], RequestedProcedureCodeSequence=[])
        request.hide("AccessionNumber", p.ds.AccessionNumber, "R", "Z")
        request.hide("PlacerOrderNumberImagingServiceRequest", f"PO{number}", "R", "Z")
        request.hide("FillerOrderNumberImagingServiceRequest", f"FO{number}", "R", "Z")
        request.uid(StudyInstanceUID=slot.study_uid)
    else:
        request = p.item("RequestAttributesSequence")
        request.hide("ScheduledProcedureStepID", f"SP{person.account[4:]}", "R", "X")
        request.text("ScheduledProcedureStepDescription", words.series, ("O", person.address))
        protocol = request.item("ScheduledProtocolCodeSequence")
        protocol.keep(CodeValue="113014", CodingSchemeDesignator="DCM")
        protocol.put(CodeMeaning="Study")
    request.hide("RequestedProcedureID", number, "R", "X/Z")
    request.text("RequestedProcedureDescription", words.study, ("A", person.family))


def _equipment(p: Planter, person: Person, words: Words) -> None:
    p.keep(Manufacturer=words.manufacturer, ManufacturerModelName=words.model)
    p.keep(SoftwareVersions="4.2.1")
    p.hide("InstitutionName", person.hospital, "B", "X/Z/D")
    p.hide("InstitutionAddress", f"{person.street}, {person.town}", "B", "X")
    p.hide("InstitutionalDepartmentName", f"Radiology {person.town}", "B", "X", person.town)
    p.hide("StationName", person.station, "M", "X/Z/D")
    p.hide("DeviceSerialNumber", person.serial, "M", "X/Z/D")
    gear = p.item("ContributingEquipmentSequence")
    gear.code("PurposeOfReferenceCodeSequence", "109103", "DCM", "Modifying Equipment")
    gear.put(Manufacturer="Agfa")
    gear.hide("InstitutionName", person.hospital, "B", "X/Z/D")
    gear.hide("OperatorsName", person.operator, "A", "X", person.operator_family)
    gear.hide("DeviceSerialNumber", f"{person.serial}-C", "M", "X")
    gear.hide("ContributionDescription", f"sent to {person.mail}", "F", "X", person.mail)
    gear.hide("StationName", person.station, "M", "X")


def _others(p: Planter, slot: Slot) -> None:
    """Attributes in changed form, private elements, and the file around the data set."""
    person = slot.person
    original = p.item("OriginalAttributesSequence")
    changed = original.item("ModifiedAttributesSequence")
    changed.hide("PatientName", person.name, "A", "X", person.family)
    changed.hide("PatientID", person.other_number, "H", "X")
    original.put(AttributeModificationDateTime=f"{person.day()}101112")
    original.put(
        ModifyingSystem="GATE",
        SourceOfPreviousValues="",
        ReasonForTheAttributeModification="COERCE",
    )
    p.private(0x0009, "CLINIC SYSTEM 1.0", 0x01, "LO", person.family, hipaa="A")
    p.private(0x0009, "CLINIC SYSTEM 1.0", 0x02, "ST", f"tel {person.phone}", hipaa="D")
    p.private(0x0009, "CLINIC SYSTEM 1.0", 0x03, "UN", person.licence.encode(), hipaa="K")
    p.private(0x0009, "CLINIC SYSTEM 1.0", 0x04, "DA", person.birth, hipaa="C")
    header = f"<Patient>{person.number}</Patient>".encode()
    p.private(0x0029, "SIEMENS CSA HEADER", 0x10, "OB", header, hipaa="H")
    p.answer.secrets.add(person.number)
    p.answer.preamble = f"{person.number} {person.mail}".encode()
