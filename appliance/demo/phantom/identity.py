"""Fictitious people, and everything in their headers that would give them away.

Names are rare strings of six letters or more that occur in no other text, so that a search for
them in a node's outputs has no accidental hit. Nobody bears them.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

import numpy as np

FAMILY = (
    "Quellabrunn", "Zwirbelmann", "Ostrandovic", "Fjellkvarnen", "Drosselbartz", "Vantourneau",
    "Krähenwinkler", "Plumbeuxac", "Wolkenschieb", "Tarabuskin", "Ivrefontaine", "Möwenstrand",
    "Grauwackner", "Sylphenberg", "Jacquemontal", "Haferstrohm", "Belzacquiere", "Nordvikarsen",
    "Uhrenschlag", "Cravatelline", "Rübenzahler", "Estragonnet", "Lichterfang", "Pommeraillac",
)  # fmt: skip
GIVEN_F = (
    "Ysaultine", "Brunhildis", "Melisandra", "Oktaviane", "Celestrine", "Walpurgia", "Zephyrine",
    "Aurelindis", "Philomène", "Theudelind", "Rosalvina", "Kunigundis",
)  # fmt: skip
GIVEN_M = (
    "Balthasaro", "Quirinalis", "Hippolythe", "Eginhardus", "Wendelinus", "Tancredien", "Zachariel",
    "Ombraldus", "Leopoldino", "Gisbertulf", "Archibaldon", "Malvoisin",
)  # fmt: skip
PHYSICIANS = (
    "Kesselflick", "Tourtebatte", "Ahornsirupp", "Nachtigaller", "Fromentin-Vauz", "Habichtswald",
    "Pfefferkuchl", "Tournebrouche",
)  # fmt: skip
INSTITUTIONS = {
    "ge": ("Kantonsspital Morgenquell", "Silbermondgasse 17, 4099 Quellental"),
    "siemens": ("Universitätsklinikum Dreisamzauber", "Nebelhornallee 5, 79999 Tannenzauber"),
    "philips": ("Hôpital Sainte-Brumelune", "3 quai des Brumailles, 67999 Brumelune"),
}
STREETS = ("Zaunköniggasse", "Ruelle Vifargent", "Sternschnuppenweg", "Allée Grandcorbeau")


@dataclass(frozen=True, slots=True)
class Identity:
    """One fictitious patient's study, as it stands in the headers. `repr` shows nothing.

    Attributes:
        family: Family name.
        given: Given name.
        sex: "F" or "M".
        birth_date: Birth date.
        age_years: Age at the study.
        weight_kg: Weight.
        size_m: Height.
        patient_id: PatientID.
        issuer: IssuerOfPatientID.
        other_id: A further number in private elements and OtherPatientIDsSequence.
        address: PatientAddress.
        phone: PatientTelephoneNumbers.
        accession: AccessionNumber.
        study_id: StudyID.
        institution: InstitutionName.
        institution_address: InstitutionAddress.
        department: InstitutionalDepartmentName.
        station: StationName.
        device_serial: DeviceSerialNumber.
        referring: ReferringPhysicianName.
        performing: PerformingPhysicianName.
        operator: OperatorsName.
        acquired: Date and time at the scanner, without zone.
    """

    family: str = field(repr=False)
    given: str = field(repr=False)
    sex: str = field(repr=False)
    birth_date: dt.date = field(repr=False)
    age_years: int = field(repr=False)
    weight_kg: float = field(repr=False)
    size_m: float = field(repr=False)
    patient_id: str = field(repr=False)
    issuer: str = field(repr=False)
    other_id: str = field(repr=False)
    address: str = field(repr=False)
    phone: str = field(repr=False)
    accession: str = field(repr=False)
    study_id: str = field(repr=False)
    institution: str = field(repr=False)
    institution_address: str = field(repr=False)
    department: str = field(repr=False)
    station: str = field(repr=False)
    device_serial: str = field(repr=False)
    referring: str = field(repr=False)
    performing: str = field(repr=False)
    operator: str = field(repr=False)
    acquired: dt.datetime = field(repr=False)

    @property
    def patient_name(self) -> str:
        """PatientName (family^given)."""
        return f"{self.family}^{self.given}"

    @property
    def planted(self) -> dict[str, tuple[str, ...]]:
        """Every identifier in the headers by kind: names, ids, dates, others.

        Each string is to be found nowhere outside the identified zone. Dates are DICOM dates
        (YYYYMMDD); a search should try their common spellings.
        """
        physicians = tuple(
            n.split("^")[0] for n in (self.referring, self.performing, self.operator)
        )
        return {
            "names": (self.family, self.given, *physicians),
            "ids": (
                self.patient_id,
                self.other_id,
                self.accession,
                self.study_id,
                self.device_serial,
                self.phone,
            ),
            "dates": (f"{self.birth_date:%Y%m%d}", f"{self.acquired:%Y%m%d}"),
            "others": (
                self.institution,
                self.institution_address,
                self.address,
                self.station,
                self.issuer,
            ),
        }


def make_identity(
    rng: np.random.Generator, *, style: str, index: int, station_prefix: str
) -> Identity:
    """A fictitious patient; the same `style` and `index` never share a name within a hospital.

    Args:
        rng: The stream that all other particulars are drawn from.
        style: Scanner style key, which decides the institution.
        index: Patient number within the hospital.
        station_prefix: Start of the station's name.

    Returns:
        The patient and the study's identifiers.
    """
    turn = sorted(INSTITUTIONS).index(style) if style in INSTITUTIONS else 0
    female = bool(rng.random() < 0.68)
    names = GIVEN_F if female else GIVEN_M
    family = FAMILY[(8 * turn + index) % len(FAMILY)]
    given = names[(5 * turn + index // len(FAMILY) + index) % len(names)]
    acquired = dt.datetime(2019, 1, 7) + dt.timedelta(  # noqa: DTZ001 - DICOM times have no zone
        days=int(rng.integers(0, 1800)), seconds=int(rng.integers(8 * 3600, 18 * 3600))
    )
    age = int(np.clip(rng.normal(41, 11), 19, 74))
    birth = acquired.date() - dt.timedelta(days=int(age * 365.25 + rng.integers(5, 355)))
    number = int(rng.integers(10_000, 99_999))
    institution, where = INSTITUTIONS[style]
    doctors = [str(d) for d in rng.permutation(np.array(PHYSICIANS))[:3]]
    tag = style[:2].upper()
    return Identity(
        family=family,
        given=given,
        sex="F" if female else "M",
        birth_date=birth,
        age_years=age,
        weight_kg=round(float(np.clip(rng.normal(70, 13), 42, 120)), 1),
        size_m=round(float(np.clip(rng.normal(1.71, 0.09), 1.48, 2.0)), 2),
        patient_id=f"Q{tag}Z{number}{index:04d}",
        issuer=f"KIS-{institution.split()[-1].upper()}"[:60],
        other_id=f"SV{rng.integers(10**9, 10**10)}",
        address=f"{STREETS[int(rng.integers(len(STREETS)))]} {rng.integers(100, 999)}",
        phone=f"+999{rng.integers(10**8, 10**9)}",
        accession=f"ACQ{tag}{rng.integers(10**7, 10**8)}",
        study_id=f"SID{rng.integers(10**6, 10**7)}",
        institution=institution,
        institution_address=where,
        department="Neuroradiologie",
        station=f"{station_prefix}{rng.integers(10_000, 99_999)}",
        device_serial=f"{rng.integers(10**6, 10**7)}X{turn}",
        referring=f"{doctors[0]}^Dr",
        performing=f"{doctors[1]}^Dr",
        operator=f"{doctors[2]}^MTRA",
        acquired=acquired,
    )
