"""The conformance statement of a node's settings."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from appliance.home import Home
from appliance.pipeline.stages.deidentify import profile_of
from appliance.settings import Settings, default_settings, load_settings
from dicom_bridge.conformance import Facts, Peer, conformance_statement


def statement_of(home: Path | None) -> str:
    """The statement of the settings in a home, or of the defaults.

    Args:
        home: a node home; None, or one without settings, gives the defaults.

    Raises:
        SettingsInvalid: the settings have problems.
        SettingsRefused: the de-identification profile has.
    """
    file = Home(home).settings_file if home is not None else None
    found = file is not None and file.exists()
    settings = load_settings(file) if found and file is not None else default_settings("site")
    return conformance_statement(facts_of(settings))


def facts_of(settings: Settings) -> Facts:
    """What the statement needs of the settings."""
    return Facts(
        version=version("clinode"),
        ae_title=settings.dicom.ae_title,
        port=settings.dicom.port,
        max_associations=settings.dicom.max_associations,
        receiver_processes=settings.dicom.receiver_processes,
        tls_profile=settings.dicom.tls.profile if settings.dicom.tls else "",
        peers=tuple(
            Peer(
                name=pacs.name,
                transport=pacs.transport,
                retrieve=pacs.retrieve,
                associations=pacs.associations,
                commitment=pacs.commitment,
                tls=pacs.tls or bool(pacs.web and pacs.web.url.startswith("https://")),
                roles=pacs.role,
            )
            for pacs in settings.pacs
        ),
        profile=profile_of(settings.deidentification),
        form=settings.results.form,
        disclaimer=settings.results.disclaimer,
        commitment_hours=settings.results.commitment_hours,
    )
