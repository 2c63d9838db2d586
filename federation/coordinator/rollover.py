"""From one project authority to the next while everything runs: prepare, switch, retire.

Files only: ``ca`` signs, ``ca-next`` is announced and trusted, ``ca-former`` is still trusted.
What each site knows, it says in its handshakes; the home's ``authorities.json`` keeps it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, cast

from cryptography import x509

from federation.canonical import read_json, sync_folder, write_atomically, write_json
from federation.coordinator.settings import CoordinatorSettings, Home
from federation.enrolment.authorities import bundle_pem
from federation.errors import SettingsRefused
from federation.keyfile import save_key
from federation.pki import fingerprint, make_authority

MAX_KNOWN: Final = 4


class Rollover:
    """The authorities of one coordinator's home.

    Args:
        paths: the home.
    """

    def __init__(self, paths: Home) -> None:
        self._paths = paths
        self._lock = threading.Lock()
        self._finish_switch()

    def bundle(self) -> list[x509.Certificate]:
        """Who is trusted and announced: the signing authority first."""
        paths = (self._paths.authority, self._paths.next_authority, self._paths.former_authority)
        return [
            x509.load_pem_x509_certificate(path.read_bytes()) for path in paths if path.exists()
        ]

    @property
    def prepared(self) -> bool:
        """Whether there is a next authority."""
        return self._paths.next_authority.exists()

    def bundle_pem(self) -> bytes:
        """The same in PEM."""
        return bundle_pem(self.bundle())

    def heard(self, site: str, known: Sequence[str], issuer: str) -> None:
        """Keep what a site says: the authorities it relies on, and who signed its certificate."""
        said = {"known": sorted(str(one)[:64] for one in known)[:MAX_KNOWN], "issuer": issuer[:64]}
        with self._lock:
            document = self._said()
            if document.get(site) != said:
                document[site] = said
                write_json(self._paths.known_authorities, {"format": 1, "sites": document})

    def _said(self) -> dict[str, Any]:
        try:
            document = cast("dict[str, Any]", read_json(self._paths.known_authorities))
            return dict(document["sites"])
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError):
            return {}  # the sites say it again with their next handshake

    def prepare(
        self, settings: CoordinatorSettings, now: datetime, passphrase: bytes | None
    ) -> str:
        """Make the next authority; gives its fingerprint.

        Raises:
            SettingsRefused: there is one already, or the former one is not retired yet.
        """
        if self._paths.former_authority.exists():
            raise SettingsRefused(
                "the former authority is still trusted: first "
                "`clinode coordinator authority retire`"
            )
        if self._paths.next_authority.exists():
            raise SettingsRefused(
                "there is a next authority already: `clinode coordinator authority show`"
            )
        if not self._paths.authority_key.exists():
            raise SettingsRefused("the authority's key is in no file here: make the next one there")
        made = make_authority(settings.project, now)
        save_key(self._paths.next_authority_key, made.key, passphrase)
        write_atomically(self._paths.next_authority, made.certificate_pem())
        return fingerprint(made.certificate)

    def switch(self, sites: Sequence[str], *, leave: bool = False) -> list[str]:
        """Let the next authority sign; gives the sites that are left behind.

        Args:
            sites: the enrolled ones.
            leave: go on although some do not know it: they need a new token.

        Raises:
            SettingsRefused: there is no next authority, or sites do not know it yet.
        """
        if not self._paths.next_authority.exists():
            raise SettingsRefused(
                "there is no next authority: `clinode coordinator authority next`"
            )
        coming = self._print(self._paths.next_authority.read_bytes())
        said = self._said()
        behind = [name for name in sites if coming not in said.get(name, {}).get("known", ())]
        if behind and not leave:
            raise SettingsRefused(
                f"these sites do not know the next authority yet: {', '.join(behind)}; wait until "
                "each has been connected for an hour, or revoke them"
            )
        write_atomically(self._paths.former_authority, self._paths.authority.read_bytes())
        self._paths.next_authority_key.replace(self._paths.authority_key)
        sync_folder(self._paths.keys)
        self._finish_switch()
        return behind

    def _finish_switch(self) -> None:
        """The certificate follows its key, also where a kill came between the two."""
        paths = self._paths
        if paths.next_authority.exists() and not paths.next_authority_key.exists():
            paths.next_authority.replace(paths.authority)
            sync_folder(paths.keys)

    def retire(self, sites: Sequence[str]) -> None:
        """Trust the former authority no more.

        Raises:
            SettingsRefused: there is none, or a site still shows a certificate of it.
        """
        if not self._paths.former_authority.exists():
            raise SettingsRefused("there is no former authority to retire")
        signs = self._print(self._paths.authority.read_bytes())
        said = self._said()
        behind = [name for name in sites if said.get(name, {}).get("issuer") != signs]
        if behind:
            raise SettingsRefused(
                f"these sites still show a certificate of the former authority: "
                f"{', '.join(behind)}; each renews it within an hour of being connected"
            )
        self._paths.former_authority.unlink()
        sync_folder(self._paths.keys)

    def view(self, sites: Sequence[str]) -> dict[str, Any]:
        """Authorities and what each site knows of them: plain JSON."""
        roles = ("present", "next", "former")
        paths = (self._paths.authority, self._paths.next_authority, self._paths.former_authority)
        shown = []
        for role, path in zip(roles, paths, strict=True):
            if path.exists():
                one = x509.load_pem_x509_certificate(path.read_bytes())
                ends = one.not_valid_after_utc.isoformat(timespec="seconds")
                shown.append({"role": role, "fingerprint": fingerprint(one), "ends": ends})
        names = {row["fingerprint"]: row["role"] for row in shown}
        said = self._said()
        rows = [
            {
                "site": name,
                "knows": [names.get(one, "other") for one in said.get(name, {}).get("known", ())],
                "certificate_of": names.get(said.get(name, {}).get("issuer", ""), "unknown"),
            }
            for name in sites
        ]
        return {"format": 1, "authorities": shown, "sites": rows}

    @staticmethod
    def _print(pem: bytes) -> str:
        return fingerprint(x509.load_pem_x509_certificate(pem))
