"""Invented patients with an identifier of every HIPAA kind, from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import date, timedelta

# Surnames as they are met: of several languages, some with accents, some that are also words of
# anatomy, colours or months, some that are also names of signs and diseases.
FAMILIES = (
    *("Kaufman", "Okonkwo", "Müller-Lüdenscheidt", "García Ríos", "Nguyen", "Østergård", "Young"),
    *("O'Brien", "Szczepański", "Brown", "Zhāng", "Van der Berg", "Hand", "Ivanova", "Haddad"),
    *("Williams", "Yamamoto", "Rose", "Petrosyan", "Ferreira", "Marsh", "Dąbrowski", "Hill"),
    *("Lindqvist", "Abernathy", "King", "Thibodeaux", "Gray", "Papadopoulou", "Wójcik", "Ng"),
)
GIVENS = (
    *("Scott", "Adaeze", "Jürgen", "María", "Linh", "Åse", "Grace", "Siobhán", "Kazimierz", "May"),
    *("Wei", "Pieter", "Robert", "Olga", "Karim", "Evan", "Keiko", "Dawn", "Anahit", "Thiago"),
    *(
        "Beatrix",
        "Władysław",
        "Victor",
        "Ingrid",
        "Mortimer",
        "Charles",
        "Odette",
        "Rosalind",
        "Li",
    ),
)
DOCTORS = (
    *("Fairweather^Imogen", "Castellanos^Hugo", "Prendergast^Rory", "Takahashi^Ren"),
    *("Wetherby^Philippa", "Brzezicki^Marek", "Quartermain^Allan", "Oyelaran^Tunde"),
)
STREETS = (
    "Larchmont",
    "Quincey",
    "Oakhollow",
    "Birchfield",
    "Wiesengrund",
    "Tolbooth",
    "Saltmarsh",
)
TOWNS = ("Ellensburgh", "Port Avalon", "Schwarzenbek", "Greywater", "Montclairville", "Tarnbrook")
HOSPITALS = ("St Aldhelm Infirmary", "Mercyfield Hospital", "Klinikum Ostwald", "Tarnbrook General")


@dataclass(frozen=True, slots=True)
class Person:
    """One invented patient; every field identifies her or somebody near her."""

    family: str
    given: str
    number: str
    other_number: str
    issuer: str
    birth: str
    sex: str
    age: str
    ssn: str
    phone: str
    fax: str
    mail: str
    street: str
    town: str
    postcode: str
    plan: str
    account: str
    licence: str
    plate: str
    serial: str
    station: str
    url: str
    address: str
    print_code: str
    hospital: str
    doctor: str
    operator: str
    root: str
    study_day: date

    @property
    def name(self) -> str:
        """As a PN value."""
        return f"{self.family}^{self.given}"

    @property
    def doctor_family(self) -> str:
        """The referring physician's surname."""
        return self.doctor.split("^")[0]

    @property
    def operator_family(self) -> str:
        """The operator's surname."""
        return self.operator.split("^")[0]

    def day(self, offset: int = 0) -> str:
        """A day of the study as DA."""
        return f"{self.study_day + timedelta(days=offset):%Y%m%d}"

    def uid(self, *parts: int) -> str:
        """A UID below the patient's own root."""
        return ".".join((self.root, *map(str, parts)))


def make_person(index: int, seed: int = 0) -> Person:
    """The patient of this number; the same seed gives the same one."""
    chance = random.Random(f"answers {seed} {index}")

    def digits(count: int) -> str:
        return str(chance.randrange(10 ** (count - 1), 10**count))

    family = FAMILIES[index % len(FAMILIES)]
    given = GIVENS[(index * 5 + index // len(FAMILIES)) % len(GIVENS)]
    birth = date(1928, 1, 1) + timedelta(days=chance.randrange(32000))
    study_day = date(2019, 1, 1) + timedelta(days=chance.randrange(1500))
    years = (study_day - birth).days // 365
    first, second = chance.sample(DOCTORS, 2)
    town = chance.choice(TOWNS)
    return Person(
        family=family,
        given=given,
        number=f"MRN{digits(7)}",
        other_number=f"X{digits(8)}",
        issuer=f"{town.upper().split()[0]}_ADT",
        birth=f"{birth:%Y%m%d}",
        sex=chance.choice("MF"),
        age=f"{years:03d}Y",
        ssn=f"{digits(3)}-{digits(2)}-{digits(4)}",
        phone=f"+1 {digits(3)} 555 {digits(4)}",
        fax=f"({digits(3)}) 555-{digits(4)}",
        mail=f"p{digits(6)}@example-mail.org",
        street=f"{chance.randrange(2, 990)} {chance.choice(STREETS)} Road",
        town=town,
        postcode=digits(5),
        plan=f"HPN-{digits(9)}",
        account=f"ACCT{digits(8)}",
        licence=f"DL-{digits(7)}",
        plate=f"KX{digits(2)} {chance.choice('QZV')}JW",
        serial=f"SN{digits(6)}",
        station=f"ROOM{digits(4)}",
        url=f"https://portal.example.org/p/{digits(7)}",
        address=f"10.{chance.randrange(256)}.{chance.randrange(256)}.{chance.randrange(1, 255)}",
        print_code=f"FP{chance.getrandbits(64):016X}",
        hospital=chance.choice(HOSPITALS),
        doctor=first,
        operator=second,
        root=f"1.2.826.0.1.3680043.10.{digits(6)}.{index + 1}",
        study_day=study_day,
    )
