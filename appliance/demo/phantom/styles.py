"""The three scanners: voxel sizes, sequence times and header words of their makers.

Voxel sizes are those of the three-country MS study (GE 3 T, Siemens 1.5 T, Philips 3 T), lesion
loads those of the three sites of the nnU-Net MS study (median and quartiles of volume and count).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Sequence:
    """One pulse sequence.

    Attributes:
        series_number: SeriesNumber.
        description: SeriesDescription.
        protocol: ProtocolName.
        name: SequenceName (empty where the maker does not write it).
        image_type: ImageType values.
        scanning: ScanningSequence values.
        variant: SequenceVariant values.
        options: ScanOptions values.
        acquisition: MRAcquisitionType.
        tr_ms: RepetitionTime in ms.
        te_ms: EchoTime in ms.
        ti_ms: Inversion (or preparation) time in ms; in the header only where "IR" is scanned.
        flip_deg: FlipAngle in degrees.
        echo_train: EchoTrainLength.
        bandwidth_hz: PixelBandwidth in Hz per pixel.
        orientation: Plane of the slices.
        snr: White matter signal over noise standard deviation at half resolution.
        scale: Stored value of white matter, about.
        rescale_slope: Modality slope that the maker writes, 1 where it writes none.
    """

    series_number: int
    description: str
    protocol: str
    name: str
    image_type: tuple[str, ...]
    scanning: tuple[str, ...]
    variant: tuple[str, ...]
    options: tuple[str, ...]
    acquisition: Literal["2D", "3D"]
    tr_ms: float
    te_ms: float
    ti_ms: float
    flip_deg: float
    echo_train: int
    bandwidth_hz: float
    orientation: Literal["axial", "sagittal"]
    snr: float
    scale: float
    rescale_slope: float = 1.0


@dataclass(frozen=True, slots=True)
class LesionLoad:
    """Lesion load of a site's patients: first quartile, median, third quartile.

    Attributes:
        volume_ml: Total lesion volume in ml.
        count: Number of lesions.
    """

    volume_ml: tuple[float, float, float]
    count: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class ScannerStyle:
    """A hospital's scanner.

    Attributes:
        key: "ge", "siemens" or "philips".
        manufacturer: Manufacturer, as this maker spells itself.
        model: ManufacturerModelName.
        software: SoftwareVersions.
        field_t: MagneticFieldStrength in tesla.
        frequency_mhz: ImagingFrequency in MHz.
        spacing_mm: Voxel size: column, row and slice spacing.
        matrix: Columns, rows and slices of a whole-head acquisition at full resolution.
        coil: ReceiveCoilName.
        character_set: SpecificCharacterSet.
        station_prefix: Start of StationName.
        study_description: StudyDescription.
        flair: The FLAIR sequence.
        t1w: The T1 sequence.
        load: Lesion load of the site.
    """

    key: str
    manufacturer: str
    model: str
    software: str
    field_t: float
    frequency_mhz: float
    spacing_mm: tuple[float, float, float]
    matrix: tuple[int, int, int]
    coil: str
    character_set: str
    station_prefix: str
    study_description: str
    flair: Sequence
    t1w: Sequence
    load: LesionLoad

    def geometry(self, *, half: bool) -> tuple[tuple[float, float, float], tuple[int, int, int]]:
        """Voxel size in mm and matrix (columns, rows, slices), at half or whole resolution."""
        if not half:
            return self.spacing_mm, self.matrix
        x, y, z = self.spacing_mm
        columns, rows, slices = self.matrix
        return (2 * x, 2 * y, 2 * z), (columns // 2, rows // 2, slices // 2)


GE = ScannerStyle(
    key="ge",
    manufacturer="GE MEDICAL SYSTEMS",
    model="DISCOVERY MR750w",
    software="27\\LX\\MR Software release:DV26.0_R05_2008.a",
    field_t=3.0,
    frequency_mhz=127.7658,
    spacing_mm=(0.47, 0.47, 0.90),
    matrix=(432, 512, 196),
    coil="HNS Head",
    character_set="ISO_IR 100",
    station_prefix="GEMR",
    study_description="MRI BRAIN MS PROTOCOL",
    flair=Sequence(
        series_number=5,
        description="Ax CUBE T2 FLAIR",
        protocol="MS BRAIN",
        name="",
        image_type=("ORIGINAL", "PRIMARY", "OTHER"),
        scanning=("SE", "IR"),
        variant=("SK", "MP"),
        options=("FAST_GEMS", "EDR_GEMS", "FS"),
        acquisition="3D",
        tr_ms=8000.0,
        te_ms=119.3,
        ti_ms=2240.0,
        flip_deg=90.0,
        echo_train=160,
        bandwidth_hz=244.1,
        orientation="axial",
        snr=26.0,
        scale=1450.0,
    ),
    t1w=Sequence(
        series_number=3,
        description="Ax 3D T1 BRAVO",
        protocol="MS BRAIN",
        name="",
        image_type=("ORIGINAL", "PRIMARY", "OTHER"),
        scanning=("GR",),
        variant=("SS", "SP", "MP"),
        options=("FAST_GEMS", "EDR_GEMS", "IR_GEMS"),
        acquisition="3D",
        tr_ms=8.46,
        te_ms=3.25,
        ti_ms=450.0,
        flip_deg=12.0,
        echo_train=1,
        bandwidth_hz=195.3,
        orientation="axial",
        snr=30.0,
        scale=2600.0,
    ),
    load=LesionLoad(volume_ml=(2.35, 4.54, 9.36), count=(25, 44, 67)),
)
"""GE 3 T, axial 3D; lesion load of site A."""

SIEMENS = ScannerStyle(
    key="siemens",
    manufacturer="SIEMENS",
    model="Aera",
    software="syngo MR E11",
    field_t=1.5,
    frequency_mhz=63.678,
    spacing_mm=(1.03, 1.03, 1.25),
    matrix=(256, 256, 152),
    coil="HeadNeck_20",
    character_set="ISO_IR 100",
    station_prefix="MRC",
    study_description="Schädel^MS Verlauf",
    flair=Sequence(
        series_number=7,
        description="t2_space_dark-fluid_sag_p2_iso",
        protocol="t2_space_dark-fluid_sag_p2_iso",
        name="*spcir_278ns",
        image_type=("ORIGINAL", "PRIMARY", "M", "ND", "NORM"),
        scanning=("SE", "IR"),
        variant=("SK", "SP", "MP"),
        options=("IR", "PFP", "FS"),
        acquisition="3D",
        tr_ms=5000.0,
        te_ms=335.0,
        ti_ms=1800.0,
        flip_deg=120.0,
        echo_train=278,
        bandwidth_hz=751.0,
        orientation="sagittal",
        snr=22.0,
        scale=240.0,
    ),
    t1w=Sequence(
        series_number=4,
        description="t1_mprage_sag_p2_iso",
        protocol="t1_mprage_sag_p2_iso",
        name="*tfl3d1_16ns",
        image_type=("ORIGINAL", "PRIMARY", "M", "ND", "NORM"),
        scanning=("GR", "IR"),
        variant=("SK", "SP", "MP"),
        options=("IR", "WE"),
        acquisition="3D",
        tr_ms=2200.0,
        te_ms=2.67,
        ti_ms=900.0,
        flip_deg=8.0,
        echo_train=1,
        bandwidth_hz=200.0,
        orientation="sagittal",
        snr=26.0,
        scale=330.0,
    ),
    load=LesionLoad(volume_ml=(1.53, 4.90, 13.81), count=(19, 33, 55)),
)
"""Siemens 1.5 T, sagittal 3D; lesion load of site B."""

PHILIPS = ScannerStyle(
    key="philips",
    manufacturer="Philips Medical Systems",
    model="Ingenia",
    software="5.3.1\\5.3.1.3",
    field_t=3.0,
    frequency_mhz=127.7634,
    spacing_mm=(0.82, 0.82, 2.20),
    matrix=(288, 288, 84),
    coil="MULTI COIL",
    character_set="ISO_IR 192",
    station_prefix="PHIMR",
    study_description="IRM cérébrale SEP",
    flair=Sequence(
        series_number=601,
        description="FLAIR_longTR AX",
        protocol="FLAIR_longTR AX",
        name="",
        image_type=("ORIGINAL", "PRIMARY", "M_IR", "M", "IR"),
        scanning=("IR",),
        variant=("SK", "OSP"),
        options=("FS",),
        acquisition="2D",
        tr_ms=11000.0,
        te_ms=125.0,
        ti_ms=2800.0,
        flip_deg=90.0,
        echo_train=27,
        bandwidth_hz=271.0,
        orientation="axial",
        snr=30.0,
        scale=620.0,
        rescale_slope=1.7245421245421,
    ),
    t1w=Sequence(
        series_number=401,
        description="T1W_3D_TFE AX",
        protocol="T1W_3D_TFE AX",
        name="",
        image_type=("ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"),
        scanning=("GR",),
        variant=("MP", "SP"),
        options=("OTHER",),
        acquisition="3D",
        tr_ms=8.1,
        te_ms=3.7,
        ti_ms=936.0,
        flip_deg=8.0,
        echo_train=180,
        bandwidth_hz=191.0,
        orientation="axial",
        snr=32.0,
        scale=780.0,
        rescale_slope=2.4310134310134,
    ),
    load=LesionLoad(volume_ml=(0.58, 2.48, 3.91), count=(8, 27, 65)),
)
"""Philips 3 T, axial with thick slices; lesion load of site C."""

STYLES: dict[str, ScannerStyle] = {style.key: style for style in (GE, SIEMENS, PHILIPS)}
"""All scanner styles by key."""
