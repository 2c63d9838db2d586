"""Enhanced MR images and segmentations."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import pack_bits

from tests.dicom_bridge.deid.answers.images import MR_CLASS, anatomy
from tests.dicom_bridge.deid.answers.key import Answer
from tests.dicom_bridge.deid.answers.modules import Slot, Words, plant_common
from tests.dicom_bridge.deid.answers.planter import Planter

ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
FRAMES = 4
_EMR = Words(
    "MRI BRAIN W/WO CONTRAST",
    "AX T1 3D TFE",
    "T1 TFE isotropic",
    "BRAIN",
    "Philips Medical Systems",
    "Ingenia",
    "seizure",
)
_SEG = Words(
    "MRI BRAIN W/WO CONTRAST",
    "Segmentation of lesions",
    "",
    "",
    "QIICR",
    "dcmqi",
    "multiple sclerosis",
)


def make_enhanced_mr(slot: Slot) -> Answer:
    """A volume of several frames."""
    answer = Answer("Enhanced MR", "clean", Dataset())
    p = plant_common(answer, ENHANCED_MR, "MR", slot, _EMR)
    del p.ds.BodyPartExamined
    answer.expected[:] = [e for e in answer.expected if e.place != "BodyPartExamined"]
    p.keep(ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], PixelPresentation="MONOCHROME")
    p.keep(VolumetricProperties="VOLUME", VolumeBasedCalculationTechnique="NONE")
    p.keep(ComplexImageComponent="MAGNITUDE", AcquisitionContrast="T1")
    p.keep(ContentQualification="PRODUCT", ResonantNucleus="1H", KSpaceFiltering="NONE")
    p.keep(MagneticFieldStrength="3", ApplicableSafetyStandardAgency="IEC")
    p.put(ApplicableSafetyStandardDescription="IEC 60601-2-33", AcquisitionNumber="1")
    p.keep(AcquisitionDuration=120.5, BurnedInAnnotation="NO", LossyImageCompression="00")
    p.keep(PresentationLUTShape="IDENTITY")
    p.date(AcquisitionDateTime=f"{slot.person.day()}101500", ContentDate=slot.person.day())
    p.put(ContentTime="101520", PositionReferenceIndicator="", AcquisitionContextSequence=[])
    p.uid(FrameOfReferenceUID=slot.frame_uid)
    p.text("AcquisitionProtocolDescription", "T1 TFE", ("A", slot.person.family))
    _pulse(p)
    _dimensions(p, slot)
    _shared(p, slot)
    for frame in range(FRAMES):
        _frame(p, slot, frame)
    pixels = np.stack([anatomy(slot) for _ in range(FRAMES)])
    p.keep(SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2", NumberOfFrames=str(FRAMES))
    p.keep(Rows=pixels.shape[1], Columns=pixels.shape[2], BitsAllocated=16, BitsStored=12)
    p.keep(HighBit=11, PixelRepresentation=0)
    p.ds.PixelData = pixels.tobytes()
    p.ds["PixelData"].VR = "OW"
    p.pixels()
    return answer


def _pulse(p: Planter) -> None:
    p.keep(PulseSequenceName="T1TFE", MRAcquisitionType="3D", EchoPulseSequence="GRADIENT")
    p.keep(PatientPosition="HFS", MultiPlanarExcitation="NO", PhaseContrast="NO")
    p.keep(TimeOfFlightContrast="NO", SteadyStatePulseSequence="NONE")
    p.keep(
        EchoPlanarPulseSequence="NO", SaturationRecovery="NO", SpectrallySelectedSuppression="NONE"
    )
    p.keep(OversamplingPhase="NONE", GeometryOfKSpaceTraversal="RECTILINEAR")
    p.keep(RectilinearPhaseEncodeReordering="LINEAR", SegmentedKSpaceTraversal="SINGLE")
    p.keep(CoverageOfKSpace="FULL", NumberOfKSpaceTrajectories=1)


def _dimensions(p: Planter, slot: Slot) -> None:
    uid = slot.person.uid(8, slot.series)
    p.item("DimensionOrganizationSequence").uid(DimensionOrganizationUID=uid)
    for pointer, label in ((0x00209056, "Stack ID"), (0x00209057, "In-Stack Position Number")):
        index = p.item("DimensionIndexSequence")
        index.put(DimensionIndexPointer=pointer, FunctionalGroupPointer=0x00209111)
        index.uid(DimensionOrganizationUID=uid)
        index.text("DimensionDescriptionLabel", label)


def _shared(p: Planter, slot: Slot) -> None:
    shared = p.item("SharedFunctionalGroupsSequence")
    measures = shared.item("PixelMeasuresSequence")
    measures.keep(PixelSpacing=[1.0, 1.0], SliceThickness="5")
    shared.item("PlaneOrientationSequence").keep(ImageOrientationPatient=[1.0, 0, 0, 0, 1.0, 0])
    values = shared.item("PixelValueTransformationSequence")
    values.keep(RescaleIntercept="0", RescaleSlope="1.5", RescaleType="US")
    window = shared.item("FrameVOILUTSequence")
    window.keep(WindowCenter="600", WindowWidth="1200")
    anatomy_item = shared.item("FrameAnatomySequence")
    anatomy_item.keep(FrameLaterality="U")
    anatomy_item.code("AnatomicRegionSequence", "12738006", "SCT", "Brain")
    frame_type = shared.item("MRImageFrameTypeSequence")
    frame_type.keep(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])
    frame_type.keep(PixelPresentation="MONOCHROME", VolumetricProperties="VOLUME")
    frame_type.keep(VolumeBasedCalculationTechnique="NONE", ComplexImageComponent="MAGNITUDE")
    frame_type.keep(AcquisitionContrast="T1")
    _mr_groups(shared, slot)


def _mr_groups(shared: Planter, slot: Slot) -> None:
    timing = shared.item("MRTimingAndRelatedParametersSequence")
    timing.keep(RepetitionTime="8.1", FlipAngle="8", EchoTrainLength="0")
    timing.keep(RFEchoTrainLength=0, GradientEchoTrainLength=1, GradientOutputType="DB_DT")
    timing.keep(GradientOutput=42.5)
    rate = timing.item("OperatingModeSequence")
    rate.keep(OperatingModeType="STATIC FIELD", OperatingMode="IEC_NORMAL")
    power = timing.item("SpecificAbsorptionRateSequence")
    power.keep(SpecificAbsorptionRateDefinition="IEC_HEAD", SpecificAbsorptionRateValue=0.2)
    view = shared.item("MRFOVGeometrySequence")
    view.keep(InPlanePhaseEncodingDirection="ROW", MRAcquisitionFrequencyEncodingSteps=80)
    view.keep(
        MRAcquisitionPhaseEncodingStepsInPlane=64, MRAcquisitionPhaseEncodingStepsOutOfPlane=1
    )
    view.keep(PercentSampling="100", PercentPhaseFieldOfView="100")
    shared.item("MREchoSequence").keep(EffectiveEchoTime=3.7)
    shared.item("MRAveragesSequence").keep(NumberOfAverages="1")
    modifier = shared.item("MRModifierSequence")
    modifier.keep(InversionRecovery="NO", FlowCompensation="NONE", Spoiling="RF")
    modifier.keep(
        T2Preparation="NO", SpectrallySelectedExcitation="NONE", SpatialPresaturation="NONE"
    )
    modifier.keep(PartialFourier="NO", ParallelAcquisition="NO")
    imaging = shared.item("MRImagingModifierSequence")
    imaging.keep(MagnetizationTransfer="NONE", BloodSignalNulling="NO", Tagging="NONE")
    imaging.keep(TransmitterFrequency=127.7, PixelBandwidth="240")
    coil = shared.item("MRReceiveCoilSequence")
    coil.keep(ReceiveCoilName="dStream Head 32", ReceiveCoilType="MULTICOIL")
    coil.keep(ReceiveCoilManufacturerName="Philips", QuadratureReceiveCoil="NO")
    element = coil.item("MultiCoilDefinitionSequence")
    element.keep(MultiCoilElementName="H1", MultiCoilElementUsed="YES")
    send = shared.item("MRTransmitCoilSequence")
    send.keep(TransmitCoilManufacturerName="Philips", TransmitCoilType="BODY")
    send.hide(
        "TransmitCoilName",
        f"Coil {slot.person.doctor_family}",
        "A",
        "not listed: text",
        slot.person.doctor_family,
    )


def _frame(p: Planter, slot: Slot, number: int) -> None:
    frame = p.item("PerFrameFunctionalGroupsSequence")
    content = frame.item("FrameContentSequence")
    content.keep(FrameAcquisitionNumber=1, StackID="1", InStackPositionNumber=number + 1)
    content.put(DimensionIndexValues=[1, number + 1])
    content.date(
        FrameAcquisitionDateTime=f"{slot.person.day()}101501",
        FrameReferenceDateTime=f"{slot.person.day()}101501",
    )
    content.keep(FrameAcquisitionDuration=100.0)
    content.text("FrameComments", "motion artifact", ("A", slot.person.given))
    position = frame.item("PlanePositionSequence")
    position.keep(ImagePositionPatient=[-40.0, -32.0, 5.0 * number])


def make_segmentation(slot: Slot) -> Answer:
    """A binary segmentation of one segment over two frames of the patient's MR series."""
    answer = Answer("SEG", "clean", Dataset())
    p = plant_common(answer, SEGMENTATION, "SEG", slot, _SEG)
    p.keep(ImageType=["DERIVED", "PRIMARY"], SegmentationType="BINARY", ContentLabel="LESIONS")
    p.put(InstanceNumber="1", PositionReferenceIndicator="", LossyImageCompression="00")
    p.text("ContentDescription", "Segmentation of lesions", ("A", slot.person.doctor_family))
    p.hide("ContentCreatorName", slot.person.doctor, "A", "Z", slot.person.doctor_family)
    p.date(ContentDate=slot.person.day())
    p.put(ContentTime="111213")
    p.uid(FrameOfReferenceUID=slot.frame_uid)
    sources = [slot.person.uid(1, 1, number) for number in (1, 2)]
    series = p.item("ReferencedSeriesSequence")
    series.uid(SeriesInstanceUID=slot.person.uid(1, 1))
    for source in sources:
        item = series.item("ReferencedInstanceSequence")
        item.keep(ReferencedSOPClassUID=MR_CLASS)
        item.uid("U*", ReferencedSOPInstanceUID=source)
    _segment(p, slot)
    uid = slot.person.uid(8, slot.series)
    p.item("DimensionOrganizationSequence").uid(DimensionOrganizationUID=uid)
    for pointer, group in ((0x0062000B, 0x0062000A), (0x00200032, 0x00209113)):
        index = p.item("DimensionIndexSequence")
        index.put(DimensionIndexPointer=pointer, FunctionalGroupPointer=group)
        index.uid(DimensionOrganizationUID=uid)
    shared = p.item("SharedFunctionalGroupsSequence")
    shared.item("PixelMeasuresSequence").keep(PixelSpacing=[1.0, 1.0], SliceThickness="5")
    shared.item("PlaneOrientationSequence").keep(ImageOrientationPatient=[1.0, 0, 0, 0, 1.0, 0])
    for number, source in enumerate(sources, 1):
        _segmented_frame(p, number, source)
    mask = anatomy(slot) > 1200
    p.keep(SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2", NumberOfFrames="2")
    p.keep(Rows=mask.shape[0], Columns=mask.shape[1], BitsAllocated=1, BitsStored=1, HighBit=0)
    p.keep(PixelRepresentation=0)
    p.ds.PixelData = pack_bits(np.stack([mask, mask[::-1]]).astype(np.uint8))
    p.ds["PixelData"].VR = "OB"
    p.pixels()
    return answer


def _segment(p: Planter, slot: Slot) -> None:
    segment = p.item("SegmentSequence")
    segment.keep(SegmentNumber=1, SegmentLabel="Lesion", SegmentAlgorithmType="MANUAL")
    category = ("49755003", "SCT", "Morphologically abnormal structure")
    segment.code("SegmentedPropertyCategoryCodeSequence", *category)
    segment.code("SegmentedPropertyTypeCodeSequence", "52988006", "SCT", "Lesion")
    segment.text("SegmentDescription", "white matter lesion", ("A", slot.person.family))
    segment.uid(TrackingUID=slot.person.uid(6, 1))
    segment.hide("TrackingID", f"{slot.person.family}-1", "A", "X/D", slot.person.family)
    p.answer.dataset.SegmentSequence[0].RecommendedDisplayCIELabValue = [34885, 53485, 50171]


def _segmented_frame(p: Planter, number: int, source: str) -> None:
    frame = p.item("PerFrameFunctionalGroupsSequence")
    frame.item("FrameContentSequence").put(DimensionIndexValues=[1, number])
    frame.item("PlanePositionSequence").keep(ImagePositionPatient=[-40.0, -32.0, 5.0 * number])
    frame.item("SegmentIdentificationSequence").keep(ReferencedSegmentNumber=1)
    derivation = frame.item("DerivationImageSequence")
    derivation.code("DerivationCodeSequence", "113076", "DCM", "Segmentation")
    image = derivation.item("SourceImageSequence")
    image.keep(ReferencedSOPClassUID=MR_CLASS)
    image.uid("U*", ReferencedSOPInstanceUID=source)
    purpose = ("121322", "DCM", "Source image for image processing operation")
    image.code("PurposeOfReferenceCodeSequence", *purpose)
