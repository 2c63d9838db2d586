"""The node's settings: one TOML file, checked whole, all problems reported together.

`clinode node init` writes a first file with `default_settings`; every key that is not in the
file takes the default given here. Times are in seconds, lengths in mm, memory in bytes.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import tomli_w
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    model_validator,
)

from appliance.errors import ApplianceError
from appliance.settings_base import Section
from appliance.settings_imaging import (
    BidsSection,
    FingerprintSection,
    ImagingSection,
    LabelsSection,
    QcSection,
    SeriesSection,
)
from appliance.settings_network import FederationSection

MAX_SETTINGS_BYTES = 1_048_576

_AE_TITLE = re.compile(r"[\x20-\x5b\x5d-\x7e]{1,16}")
_SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_WINDOW = re.compile(
    r"([a-z]{3}(-[a-z]{3})?) ([01]\d|2[0-3]):[0-5]\d-(([01]\d|2[0-3]):[0-5]\d|24:00)"
)
_ACCOUNT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@$-]{0,63}")
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_HOST_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


class SettingsInvalid(ApplianceError):
    """The settings file cannot be used.

    Attributes:
        problems: every problem found, each one sentence naming the key.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems: tuple[str, ...] = tuple(problems)
        noun = "problem" if len(self.problems) == 1 else "problems"
        super().__init__(f"settings: {len(self.problems)} {noun}: " + "; ".join(self.problems))


def _ae_title(value: str) -> str:
    """An AE title (PS3.5 VR AE: 1 to 16 characters of ASCII without backslash)."""
    if not _AE_TITLE.fullmatch(value) or not value.strip():
        raise ValueError("an AE title has 1 to 16 ASCII characters, no backslash")
    return value.strip()


def _slug(value: str) -> str:
    if not _SLUG.fullmatch(value):
        raise ValueError("use 1 to 63 characters of a-z, 0-9 and '-', starting with a-z or 0-9")
    return value


def _host(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        labels = value.rstrip(".").split(".")
        if len(value) <= 253 and all(_HOST_LABEL.fullmatch(label) for label in labels):
            return value
    raise ValueError("expected a host name or an IP address")


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError("expected an IANA time zone such as Europe/Zurich") from error
    return value


def _option(value: str) -> str:
    from dicom_bridge.deid.table import Option

    known = [option.value for option in Option]
    if value not in known:
        raise ValueError(f"is no option of the Basic Profile; known are {', '.join(known)}")
    return value


def _window(value: str) -> str:
    text = " ".join(value.lower().split())
    days = text.split(" ", 1)[0].split("-")
    if not _WINDOW.fullmatch(text) or not set(days) <= set(_DAYS):
        raise ValueError(
            "expected days and times such as 'mon-fri 19:00-06:00' or 'sat 00:00-24:00'"
        )
    return text


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, str) else value


AETitle = Annotated[str, AfterValidator(_ae_title)]
Slug = Annotated[str, AfterValidator(_slug)]
Host = Annotated[str, AfterValidator(_host)]
Port = Annotated[int, Field(ge=1, le=65535)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class NodeSection(Section):
    """Who this node is."""

    site: Slug
    """The site's name in the federation; the certificate's name must be the same."""
    project: Slug = "research"
    """The project: one coordinator CA, one secret, one BIDS tree."""
    time_zone: Annotated[str, AfterValidator(_zone)] = "UTC"
    """IANA zone of the hospital's clocks; schedules are in it."""


class TlsSection(Section):
    """DICOM TLS (PS3.15 Annex B): our certificate and whom we believe. PEM files."""

    certificate: Path
    """The node's certificate, for receiver and outgoing associations."""
    key: Path
    """Private key without passphrase; only the service's user may read it."""
    authorities: Path
    """Certificates of the authorities whose peers are believed."""
    profile: Literal["bcp195", "non-downgrading"] = "bcp195"


class DicomSection(Section):
    """The node's own application entity (Storage and Verification SCP)."""

    ae_title: AETitle = "CLINODE"
    """The node's own AE title."""
    host: Host = "127.0.0.1"
    """The address that the receiver binds to."""
    port: Annotated[int, Field(ge=0, le=65535)] = 11112
    """TCP port of the receiver; 0 lets the system choose (tests)."""
    allowed_ae: tuple[AETitle, ...] = ()
    """Calling AE titles that may store; the configured PACS are always added."""
    receiver_processes: Annotated[int, Field(ge=1, le=16)] = 1
    """Processes that receive on the one port."""
    max_associations: Annotated[int, Field(ge=1, le=256)] = 8
    """Associations that the receiver holds at once; more are rejected for the moment."""
    tls: TlsSection | None = None
    """Our certificate: the receiver then takes TLS only, and PACS with ``tls = true`` see it."""


class QuerySection(Section):
    """Which studies the node asks for (C-FIND keys)."""

    modalities: tuple[str, ...] = ("MR",)
    """ModalitiesInStudy."""
    study_date_from: date | None = None
    """First StudyDate."""
    study_date_to: date | None = None
    """Last StudyDate."""
    description: str | None = None
    """StudyDescription; the wildcards ``*`` and ``?`` of PS3.4 C.2.2.2.4 are allowed."""


class WebSection(Section):
    """Where a PACS speaks DICOMweb (PS3.18)."""

    url: Annotated[str, Field(pattern=r"\Ahttps?://[^\s]{1,2000}\z")]
    """The service's root, such as ``https://pacs.example.org/dicom-web``."""
    qido_prefix: str = ""
    """Path below the root for queries (QIDO-RS), empty for the root itself."""
    wado_prefix: str = ""
    """Path below the root for retrieval (WADO-RS)."""
    stow_prefix: str = ""
    """Path below the root for storing (STOW-RS)."""
    token_file: Path | None = None
    """File with a bearer token; read anew for each request."""
    user: str = ""
    """User for HTTP basic authentication; needs `password_file`."""
    password_file: Path | None = None
    """File with that user's password; read anew for each request."""
    authorities: Path | None = None
    """Certificates (PEM) that vouch for the server; empty uses the system's."""


class PacsSection(Section):
    """One PACS that the node talks to."""

    name: Slug
    """How commands and other settings call it."""
    transport: Literal["dimse", "dicomweb"] = "dimse"
    """How the node talks to it: DIMSE needs AE title, host and port, DICOMweb needs ``web``."""
    ae_title: AETitle = "PACS"
    """The PACS's AE title."""
    host: Host = "localhost"
    """Its name or address."""
    port: Port = 104
    """Its DICOM port."""
    tls: bool = False
    """DICOM TLS towards this PACS; needs ``[dicom.tls]``."""
    web: WebSection | None = None
    retrieve: Literal["move", "get"] = "move"
    """C-MOVE, or C-GET where the PACS cannot be told about this node."""
    associations: Annotated[int, Field(ge=1, le=8)] = 1
    """Associations at once; a PACS expects one unless its administrator says otherwise."""
    instances_per_second: Annotated[float, Field(gt=0.0)] | None = None
    """Retrieve no faster than this; None does not slow down."""
    windows: tuple[Annotated[str, AfterValidator(_window)], ...] = ()
    """When to retrieve, in the site's time zone, such as ``mon-fri 19:00-06:00``; empty: always."""
    find_limit: Annotated[int, Field(ge=1)] | None = None
    """The most answers that this PACS gives to one query, where it is known to cut off."""
    commitment: bool = False
    """Ask for storage commitment (PS3.4 Annex J) of results that were sent to it."""
    role: Annotated[
        tuple[Literal["query", "results"], ...], BeforeValidator(_as_tuple), Field(min_length=1)
    ] = ("query",)
    """``query``: studies are fetched from it; ``results``: segmentations may be sent to it."""
    query: QuerySection = QuerySection()


class IntakeSection(Section):
    """When and what to fetch."""

    on_start: bool = True
    """Ask the PACS as soon as the service runs."""
    every_s: Annotated[float, Field(ge=1.0)] = 900.0
    """Seconds between two queries."""
    reopen: Literal["auto", "ask"] = "auto"
    """Late source images of a study that was processed: a new version, or wait for a person."""
    instance_modalities: tuple[str, ...] = ("MR", "SEG", "RTSTRUCT")
    """Series of other modalities are left in the PACS; an empty tuple takes all."""
    max_instances_per_study: Annotated[int, Field(ge=1)] = 20_000
    """A larger study is refused."""


class DeidentificationSection(Section):
    """How identity is removed (PS3.15 Annex E)."""

    options: tuple[Annotated[str, AfterValidator(_option)], ...] = ()
    """Options of the Basic Profile by their names, such as ``retain-device-identity``."""
    profile: Path | None = None
    """A profile file (TOML) in place of the built-in Basic Profile; it names its own options."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.options and self.profile is not None:
            raise ValueError("options and profile are both given: write the options in the profile")
        if self.options:
            from dicom_bridge.deid import Option, Profile
            from dicom_bridge.errors import SettingsRefused

            try:
                Profile.basic(Option(name) for name in self.options)
            except SettingsRefused as refused:
                raise ValueError(str(refused)) from None
        return self


class ResourcesSection(Section):
    """The budget of the whole node; pipeline and training both ask it."""

    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Worker processes of the pipeline."""
    threads: Annotated[int, Field(ge=1, le=512)] = 1
    """Threads per worker process and for the trainer."""
    memory_bytes: Annotated[int, Field(ge=536_870_912)] = 4_294_967_296
    """The node's memory; checked, not enforced yet."""
    device: Literal["cpu", "cuda"] = "cpu"


class RetrySection(Section):
    """How often and when a failed stage is repeated."""

    attempts: Annotated[int, Field(ge=1, le=100)] = 5
    """Tries of a failing stage before a person is asked."""
    first_wait_s: Annotated[float, Field(ge=0.0)] = 5.0
    """The wait after the first failure; it doubles each time."""
    longest_wait_s: Annotated[float, Field(ge=0.0)] = 3600.0
    """The longest wait."""


class SplitSection(Section):
    """The site's own test set, fixed at a patient's first freeze."""

    test_share: Share = 2 / 9
    """Share of labelled patients that never train."""
    minimum_labelled: Annotated[int, Field(ge=1)] = 5
    """From this many labelled patients on at least one is in the test set."""


class GovernanceSection(Section):
    """What happens without a person; everything is off unless written here."""

    auto_freeze: bool = False
    """Freeze and approve a data set when the first intake has settled."""
    auto_approve_plans: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = ()
    """Fingerprints of plan signers whose plans are approved at once; ``any`` accepts all."""
    auto_accept_models: bool = False
    """Accept a finished model of an approved plan for inference."""
    approval_days: Annotated[float, Field(gt=0.0, le=3650.0)] | None = None
    """How long a plan's approval stands; None has no end. Approving it again begins anew."""


def _account(value: str) -> str:
    if not _ACCOUNT.fullmatch(value):
        raise ValueError("expected the name or the number of an account of this machine")
    return value


class AccessSection(Section):
    """Who may do what beyond using the node's account."""

    custodians: tuple[Annotated[str, BeforeValidator(_as_text), AfterValidator(_account)], ...] = ()
    """Accounts (names or numbers) that may see who a pseudonym is; empty: the node's own account,
    whoever uses it."""


class ResultsSection(Section):
    """What happens with segmentations that a model made."""

    release: Literal["none", "all"] = "none"
    """``none``: every result is held until a person releases it."""
    destination: Slug | None = None
    """Name of the PACS, with the role ``results``, that released results are sent to."""
    form: Annotated[
        tuple[Literal["seg", "sr", "sc"], ...], BeforeValidator(_as_tuple), Field(min_length=1)
    ] = ("seg", "sr")
    """What is made: segmentation, measurement report, pictures for viewers that show neither."""
    disclaimer: Annotated[str, Field(min_length=1, max_length=200)] = (
        "Research result of clinode. Not for diagnostic use."
    )
    """Wording in report and pictures."""
    send_no_finding: bool = True
    """Whether a report that nothing was found is sent like other results."""
    commitment_hours: Annotated[float, Field(gt=0.0, le=720.0)] = 24.0
    """How long the PACS may take to report storage commitment."""


class AuditSection(Section):
    """Where audit messages in ATNA form go besides the node's own file."""

    host: Host | None = None
    """Audit record repository (IHE ATNA); None keeps them in the file alone."""
    port: Port = 6514
    """Its port."""
    transport: Literal["tls", "udp"] = "tls"
    """Syslog over TLS (RFC 5425, certificate of ``[dicom.tls]``) or over UDP (RFC 5426)."""


class CoordinatorSection(Section):
    """The federation's coordinator; the node only dials out to it."""

    host: Host
    """For your notes: the node uses the address that enrolment told it."""
    port: Port
    """As above."""
    enrolment_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """As above."""


class Settings(Section):
    """The whole settings file of a node.

    Examples:
        >>> settings = default_settings("hospital-a")
        >>> settings.dicom.ae_title
        'CLINODE'
    """

    format: Literal[1] = 1
    node: NodeSection
    dicom: DicomSection = DicomSection()
    pacs: tuple[PacsSection, ...] = ()
    intake: IntakeSection = IntakeSection()
    deidentification: DeidentificationSection = DeidentificationSection()
    imaging: ImagingSection = ImagingSection()
    series: SeriesSection = SeriesSection()
    qc: QcSection = QcSection()
    bids: BidsSection = BidsSection()
    fingerprint: FingerprintSection = FingerprintSection()
    resources: ResourcesSection = ResourcesSection()
    retry: RetrySection = RetrySection()
    labels: LabelsSection = LabelsSection()
    split: SplitSection = SplitSection()
    governance: GovernanceSection = GovernanceSection()
    access: AccessSection = AccessSection()
    results: ResultsSection = ResultsSection()
    audit: AuditSection = AuditSection()
    federation: FederationSection = FederationSection()
    coordinator: CoordinatorSection | None = None

    def query_pacs(self) -> tuple[PacsSection, ...]:
        """The PACS that studies are fetched from."""
        return tuple(pacs for pacs in self.pacs if "query" in pacs.role)

    def results_pacs(self) -> PacsSection | None:
        """The PACS that released results are sent to, or None where none is configured."""
        for pacs in self.pacs:
            if pacs.name == self.results.destination and "results" in pacs.role:
                return pacs
        return None

    def allowed_ae(self) -> frozenset[str]:
        """Every calling AE title that may store at the node."""
        peers = (pacs.ae_title for pacs in self.pacs if pacs.transport == "dimse")
        return frozenset((*self.dicom.allowed_ae, *peers))


def parse_settings(text: str) -> Settings:
    """Settings from TOML text.

    Raises:
        SettingsInvalid: with every problem of the text.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsInvalid([f"not valid TOML: {error}"]) from error
    return settings_from(document)


def settings_from(document: Mapping[str, Any]) -> Settings:
    """Settings from a parsed document.

    Raises:
        SettingsInvalid: with every problem of the document.
    """
    problems: list[str] = []
    settings: Settings | None = None
    try:
        settings = Settings.model_validate(document)
    except ValidationError as error:
        problems.extend(_sentence(item) for item in error.errors(include_url=False))
    problems.extend(_cross_problems(document))
    if settings is None or problems:
        raise SettingsInvalid(problems)
    return settings


def load_settings(path: Path) -> Settings:
    """Settings from a file.

    Raises:
        SettingsInvalid: the file is absent, too large, not UTF-8, or has problems.
    """
    try:
        if path.stat().st_size > MAX_SETTINGS_BYTES:
            raise SettingsInvalid([f"{path.name} is larger than {MAX_SETTINGS_BYTES} bytes"])
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SettingsInvalid(
            [f"{path} is absent: create it with `clinode --home DIR node init`"]
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsInvalid([f"{path} cannot be read: {error}"]) from error
    return parse_settings(text)


def default_settings(site: str, project: str = "research") -> Settings:
    """The settings that `clinode node init` writes, before a PACS is entered."""
    return settings_from({"node": {"site": site, "project": project}})


def settings_document(settings: Settings) -> dict[str, Any]:
    """The settings as plain TOML values; keys that are None are left out."""
    return settings.model_dump(mode="json", exclude_none=True)


def settings_toml(settings: Settings) -> str:
    """The settings as TOML text with hints; `parse_settings` gives the same settings back."""
    document = settings_document(settings)
    hints = []
    if not settings.pacs:
        del document["pacs"]
        hints.append(_PACS_HINT)
    if settings.coordinator is None:
        hints.append(_COORDINATOR_HINT)
    return "\n".join([_HEADING, tomli_w.dumps(document), *hints])


_HEADING = """\
# clinode node settings. Every key is optional but [node] site.
# `clinode node check` reports all problems of this file together.
"""

_PACS_HINT = """\
# [[pacs]]
# name = "main"
# ae_title = "PACS"
# host = "10.0.0.5"
# port = 104
# role = ["query", "results"]
# [pacs.query]
# modalities = ["MR"]
# study_date_from = 2024-01-01
# description = "*HEAD*"
"""

_COORDINATOR_HINT = """\
# [coordinator]
# host = "coordinator.example.org"
# port = 8443
"""


def _sentence(item: Mapping[str, Any]) -> str:
    """One pydantic problem as a sentence: key, what is wrong, what came."""
    where = ".".join(str(part) for part in item["loc"]) or "the file"
    text = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] in ("missing", "extra_forbidden"):
        text = {"missing": "is required", "extra_forbidden": "is not a known key"}[item["type"]]
        return f"{where} {text}"
    return f"{where}: {text} (came: {item['input']!r})"


def _table(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = document.get(key)
    return value if isinstance(value, Mapping) else {}


def _cross_problems(document: Mapping[str, Any]) -> list[str]:
    """Problems that only several keys together show; tolerant of values of the wrong type."""
    entries = document.get("pacs")
    tables = [p for p in entries if isinstance(p, Mapping)] if isinstance(entries, list) else []
    problems: list[str] = []
    names = [str(p.get("name")) for p in tables]
    problems.extend(
        f"pacs: the name {name!r} is given more than once"
        for name in sorted({name for name in names if names.count(name) > 1})
    )
    results = _table(document, "results")
    destination = results.get("destination")
    takers = {
        str(p.get("name"))
        for p in tables
        if "results" in (p.get("role") or ()) or not p.get("name")
    }
    if destination is not None and destination not in takers:
        problems.append(
            f"results.destination: {destination!r} is not a [[pacs]] whose role holds 'results'"
        )
    form = results.get("form")
    if isinstance(form, list | str) and "sr" in form and "seg" not in form:
        problems.append("results.form: the report 'sr' describes a segmentation: add 'seg'")
    if results.get("release") == "all" and destination is None:
        problems.append("results.destination is required where results.release is 'all'")
    audit = _table(document, "audit")
    over_tls = audit.get("host") is not None and audit.get("transport", "tls") == "tls"
    if over_tls and not _table(_table(document, "dicom"), "tls"):
        problems.append("audit.host: transport 'tls' needs our own certificate in [dicom.tls]")
    for number, table in enumerate(tables):
        query = _table(table, "query")
        first, last = query.get("study_date_from"), query.get("study_date_to")
        if isinstance(first, date) and isinstance(last, date) and first > last:
            problems.append(f"pacs.{number}.query: study_date_from is after study_date_to")
        problems.extend(f"pacs.{number}{text}" for text in _transport_problems(table, document))
    return problems


def _transport_problems(pacs: Mapping[str, Any], document: Mapping[str, Any]) -> list[str]:
    """What one PACS lacks for its way of talking."""
    problems = []
    web = pacs.get("web")
    if pacs.get("transport", "dimse") == "dicomweb":
        if not isinstance(web, Mapping):
            problems.append(".web is required where transport is 'dicomweb'")
        elif bool(web.get("user")) != bool(web.get("password_file")):
            problems.append(".web: user and password_file go together")
        return problems
    problems.extend(
        f".{key} is required" for key in ("ae_title", "host", "port") if key not in pacs
    )
    if pacs.get("tls") is True and not _table(_table(document, "dicom"), "tls"):
        problems.append(".tls needs our own certificate in [dicom.tls]")
    return problems
