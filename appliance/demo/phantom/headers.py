"""Headers of phantom studies, in the words of the three makers."""

from __future__ import annotations

import datetime as dt

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import generate_uid

from appliance.demo.phantom.model import Fault, PhantomRequest, PhantomStudy, Severity
from appliance.demo.phantom.series import Stored, header_from
from appliance.demo.phantom.styles import ScannerStyle, Sequence

PRIVATE_GROUP = 0x0029
PRIVATE_CREATOR = "PHANTOM WORKFLOW 1.0"


def stored_format(style: ScannerStyle) -> Stored:
    """How the maker stores pixels: GE 16 bits signed, the others 12 bits unsigned."""
    return Stored(16, True) if style.key == "ge" else Stored(12, False)


def study_uid(request: PhantomRequest, part: str) -> str:
    """A UID of the study by what it names ("study", "frame", "series-4"); equal for equal requests.

    Every attribute of the request counts: other content never bears the same UID.
    """
    fault = request.fault.value if request.fault else "none"
    if request.fault and request.severity is not Severity.MEDIUM:
        fault += f" {request.severity}"
    words = [
        f"phantom {request.style} {request.seed} {request.index}",
        f"{request.half_resolution} {request.lesions} {fault}",
        part,
    ]
    return str(generate_uid(entropy_srcs=words))


def series_header(study: PhantomStudy, sequence: Sequence) -> Dataset:
    """Everything of one series that does not vary between slices.

    Args:
        study: The study.
        sequence: One of its style's two sequences.

    Returns:
        Patient, study, series, equipment and acquisition attributes.
    """
    out = header_from(
        _patient_study(study) | _series(study, sequence) | _acquisition(study, sequence)
    )
    _sequences(out, study)
    _maker(out, study.request.scanner, sequence)
    silent = study.request.severity is Severity.MILD
    if study.request.fault is Fault.BURNED_IN_NAME and not silent:
        out.BurnedInAnnotation = "YES"
    return out


def _patient_study(study: PhantomStudy) -> dict[str, object]:
    """Patient and study modules, with the planted identifiers."""
    who, style = study.identity, study.request.scanner
    knee = _says_knee(study.request)
    return {
        "SpecificCharacterSet": style.character_set,
        "PatientName": who.patient_name,
        "PatientID": who.patient_id,
        "IssuerOfPatientID": who.issuer,
        "PatientBirthDate": f"{who.birth_date:%Y%m%d}",
        "PatientSex": who.sex,
        "PatientAge": f"{who.age_years:03d}Y",
        "PatientSize": f"{who.size_m:.2f}",
        "PatientWeight": f"{who.weight_kg:.1f}",
        "PatientAddress": who.address,
        "PatientTelephoneNumbers": who.phone,
        "PatientComments": f"{'Mme' if who.sex == 'F' else 'M.'} {who.family}, {who.given}",
        "StudyInstanceUID": study_uid(study.request, "study"),
        "StudyDate": f"{who.acquired:%Y%m%d}",
        "StudyTime": f"{who.acquired:%H%M%S}.000",
        "AccessionNumber": who.accession,
        "StudyID": who.study_id,
        "StudyDescription": "MRI KNEE LEFT" if knee else style.study_description,
        "ReferringPhysicianName": who.referring,
        "PerformingPhysicianName": who.performing,
        "OperatorsName": who.operator,
        "InstitutionName": who.institution,
        "InstitutionAddress": who.institution_address,
        "InstitutionalDepartmentName": who.department,
        "StationName": who.station,
        "DeviceSerialNumber": who.device_serial,
    }


def _series(study: PhantomStudy, sequence: Sequence) -> dict[str, object]:
    """Series, frame of reference and equipment modules."""
    style, who = study.request.scanner, study.identity
    start = who.acquired + dt.timedelta(minutes=4, seconds=9 * (sequence.series_number % 100))
    knee = _says_knee(study.request)
    out: dict[str, object] = {
        "ImageType": list(sequence.image_type),
        "SeriesInstanceUID": study_uid(study.request, f"series-{sequence.series_number}"),
        "SeriesNumber": sequence.series_number,
        "AcquisitionNumber": 1,
        "SeriesDescription": _knee_words(sequence) if knee else sequence.description,
        "ProtocolName": "KNEE" if knee else sequence.protocol,
        "BodyPartExamined": "KNEE" if knee else ("HEAD" if style.key == "siemens" else "BRAIN"),
        "PatientPosition": "HFS",
        "FrameOfReferenceUID": study_uid(study.request, "frame"),
        "PositionReferenceIndicator": "" if style.key != "ge" else "NA",
        "Manufacturer": style.manufacturer,
        "ManufacturerModelName": style.model,
        "SoftwareVersions": style.software.split("\\"),
    }
    if knee:
        out |= {"Laterality": "L", "PatientPosition": "FFS"}
    if style.key == "ge":
        out["SoftwareVersions"] = ["27", "LX", "MR Software release:DV26.0_R05_2008.a"]
    for kind in ("Series", "Acquisition", "Content", "InstanceCreation"):
        out[f"{kind}Date"] = f"{start:%Y%m%d}"
        out[f"{kind}Time"] = f"{start:%H%M%S}.{'000' if style.key == 'ge' else '137500'}"
    return out


def _says_knee(request: PhantomRequest) -> bool:
    """Whether the header admits to the wrong body part."""
    return request.fault is Fault.WRONG_BODY_PART and request.severity is not Severity.MILD


def _knee_words(sequence: Sequence) -> str:
    """SeriesDescription of the study of the wrong body part."""
    return "t1_sag_knee_left" if sequence.ti_ms < 1500 else "tirm_sag_knee_left"


def _acquisition(study: PhantomStudy, sequence: Sequence) -> dict[str, object]:
    """MR image module."""
    style = study.request.scanner
    volume = study.flair if sequence is style.flair else study.t1w
    columns, rows, _ = volume.shape
    thick = volume.spacing[2]
    out: dict[str, object] = {
        "ScanningSequence": list(sequence.scanning),
        "SequenceVariant": list(sequence.variant),
        "ScanOptions": list(sequence.options),
        "MRAcquisitionType": sequence.acquisition,
        "SliceThickness": f"{thick:g}",
        "RepetitionTime": f"{sequence.tr_ms:g}",
        "EchoTime": f"{sequence.te_ms:g}",
        "FlipAngle": f"{sequence.flip_deg:g}",
        "EchoTrainLength": sequence.echo_train,
        "EchoNumbers": 1,
        "NumberOfAverages": "1",
        "ImagingFrequency": f"{style.frequency_mhz:g}",
        "ImagedNucleus": "1H",
        "MagneticFieldStrength": f"{style.field_t:g}",
        "NumberOfPhaseEncodingSteps": rows - 1,
        "PercentSampling": "100",
        "PercentPhaseFieldOfView": "100",
        "PixelBandwidth": f"{sequence.bandwidth_hz:g}",
        "ReceiveCoilName": style.coil,
        "AcquisitionMatrix": [0, columns, rows, 0],
        "InPlanePhaseEncodingDirection": "ROW",
        "SAR": "0.42",
        "AngioFlag": "N",
    }
    if "IR" in sequence.scanning:
        out["InversionTime"] = f"{sequence.ti_ms:g}"
    if sequence.name:
        out["SequenceName"] = sequence.name
    if style.key != "siemens":
        out["SpacingBetweenSlices"] = f"{thick:g}"
    slope = study.rescale["flair" if sequence is style.flair else "t1w"]
    if slope != 1.0:
        out |= {
            "RescaleIntercept": "0",
            "RescaleSlope": f"{slope:.13f}",
            "RescaleType": "normalized",
        }
    return out


def _sequences(out: Dataset, study: PhantomStudy) -> None:
    """Identifiers that hide in sequences and private elements."""
    who, style = study.identity, study.request.scanner
    other = header_from({"PatientID": who.other_id, "TypeOfPatientID": "TEXT"})
    out.OtherPatientIDsSequence = Items([other])
    asked = header_from(
        {
            "RequestedProcedureID": who.study_id,
            "ScheduledProcedureStepID": f"{who.study_id}-1",
            "ScheduledProcedureStepDescription": style.study_description,
            "RequestedProcedureDescription": f"Kontrolle {who.family}",
        }
    )
    out.RequestAttributesSequence = Items([asked])
    out.PerformedProcedureStepID = who.accession
    out.PerformedProcedureStepStartDate = f"{who.acquired:%Y%m%d}"
    out.PerformedProcedureStepStartTime = f"{who.acquired:%H%M%S}"
    out.PerformedProcedureStepDescription = style.study_description
    block = out.private_block(PRIVATE_GROUP, PRIVATE_CREATOR, create=True)
    block.add_new(0x10, "LO", who.patient_name)
    block.add_new(0x11, "LO", who.other_id)
    block.add_new(0x12, "OB", f"PatientName={who.family};Birth={who.birth_date}".encode())


def _maker(out: Dataset, style: ScannerStyle, sequence: Sequence) -> None:
    """Small habits of each maker."""
    if style.key == "ge":
        out.HighRRValue, out.LowRRValue, out.CardiacNumberOfImages = 0, 0, 0
        out.BurnedInAnnotation = "NO"
        out.ImagesInAcquisition = 1
    elif style.key == "philips":
        out.TemporalPositionIdentifier = 1
        out.NumberOfTemporalPositions = 1
        out.PatientOrientation = ["L", "P"]
    else:
        out.VariableFlipAngleFlag = "Y" if sequence.echo_train > 1 else "N"
        out.dBdt = "0"
