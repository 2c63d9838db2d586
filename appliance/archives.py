"""A client for each configured PACS, whatever it speaks: the settings become objects here."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path
from zoneinfo import ZoneInfo

from appliance.settings import DicomSection, PacsSection, Settings, WebSection
from dicom_bridge.archive import Archive
from dicom_bridge.net import (
    FindRules,
    OurAddress,
    Pace,
    PacsClient,
    PacsOptions,
    RemoteAE,
    Schedule,
    TlsFiles,
    Traffic,
)
from dicom_bridge.net.get import GetBounds
from dicom_bridge.web import WebAddress, WebClient, WebOptions

ClientFactory = Callable[[PacsSection], Archive]


def client_for(settings: Settings, *, spool: Path | None = None) -> ClientFactory:
    """Makes a client of a configured PACS.

    Args:
        settings: the node's settings.
        spool: folder in the identified zone for large instances while they arrive on our own
            connection; without it only those that fit into memory are taken.
    """

    def make(pacs: PacsSection) -> Archive:
        """A client of this PACS.

        Raises:
            SettingsRefused: a file that the settings name cannot be used.
        """
        traffic = traffic_of(settings, pacs)
        bounds = GetBounds(spool=spool)
        if pacs.transport == "dicomweb" and pacs.web is not None:
            return WebClient(web_address(pacs.web), options=WebOptions(traffic, bounds))
        options = PacsOptions(
            retrieve=pacs.retrieve,
            traffic=traffic,
            find=FindRules(limit=pacs.find_limit),
            tls=tls_files(settings.dicom) if pacs.tls else None,
            ours=our_address(settings.dicom),
            bounds=bounds,
        )
        remote = RemoteAE(pacs.ae_title, pacs.host, pacs.port)
        return PacsClient(remote, calling_ae=settings.dicom.ae_title, options=options)

    return make


def where(pacs: PacsSection) -> str:
    """A PACS's address in words, without credentials."""
    if pacs.transport == "dicomweb" and pacs.web is not None:
        return str(web_address(pacs.web))
    return f"{pacs.ae_title} at {pacs.host}:{pacs.port}"


def traffic_of(settings: Settings, pacs: PacsSection) -> Traffic:
    """When, how fast and on how many associations a PACS may be asked."""
    schedule = Schedule.parse(pacs.windows, ZoneInfo(settings.node.time_zone))
    return Traffic(Pace(schedule, pacs.instances_per_second), pacs.associations)


def tls_files(dicom: DicomSection) -> TlsFiles | None:
    """Our certificate for DICOM TLS, None where none is configured."""
    tls = dicom.tls
    if tls is None:
        return None
    return TlsFiles(tls.certificate, tls.key, tls.authorities, tls.profile)


def our_address(dicom: DicomSection) -> OurAddress:
    """Where our receiver listens, as a PACS's administrator must enter it."""
    try:
        known = not ipaddress.ip_address(dicom.host).is_unspecified
    except ValueError:
        known = True
    return OurAddress(dicom.ae_title, dicom.host if known else "", dicom.port)


def web_address(web: WebSection) -> WebAddress:
    """Where a PACS speaks DICOMweb."""
    return WebAddress(
        url=web.url,
        qido_prefix=web.qido_prefix,
        wado_prefix=web.wado_prefix,
        stow_prefix=web.stow_prefix,
        token_file=web.token_file,
        user=web.user,
        password_file=web.password_file,
        authorities=web.authorities,
    )
