"""A de-identification profile: which options run beside the Basic Profile, and the pixel rules."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dicom_bridge.deid.table import Option, table_hash
from dicom_bridge.errors import SettingsRefused

ENGINE_VERSION = "1"
LARGEST_PROFILE = 1024 * 1024
_UNAVAILABLE = {
    Option.CLEAN_PIXEL_DATA: "images with text in their pixels are refused, not painted over",
    Option.CLEAN_RECOGNIZABLE_VISUAL_FEATURES: "faces are removed after conversion, not in DICOM",
}


@dataclass(frozen=True)
class Profile:
    """What de-identification does; equal profiles have equal hashes.

    Attributes:
        options: options of PS3.15 Annex E beside the Basic Profile.
        detect_text: look for burned-in text in the pixels of images that are taken.
        trust_annotation_no: take secondary captures and ultrasound when BurnedInAnnotation is NO
            and no text is seen; refused otherwise.

    Raises:
        SettingsRefused: options contradict each other, or one cannot run here.
    """

    options: frozenset[Option] = frozenset()
    detect_text: bool = True
    trust_annotation_no: bool = False

    def __post_init__(self) -> None:
        dates = {Option.RETAIN_FULL_DATES, Option.RETAIN_MODIFIED_DATES}
        if dates <= self.options:
            names = " and ".join(sorted(dates))
            raise SettingsRefused(f"the options {names} contradict each other: choose one")
        for option, reason in _UNAVAILABLE.items():
            if option in self.options:
                raise SettingsRefused(f"the option {option} cannot be claimed: {reason}")

    @classmethod
    def basic(cls, options: Iterable[Option] = frozenset()) -> Profile:
        """The Basic Profile with these options."""
        return cls(options=frozenset(options))

    @classmethod
    def load(cls, path: Path) -> Profile:
        """Read a TOML file: ``options = [...]``, ``[pixels] detect_text, trust_annotation_no``.

        Raises:
            SettingsRefused: the file cannot be read, has an unknown key, or is contradictory.
        """
        try:
            if path.stat().st_size > LARGEST_PROFILE:
                raise SettingsRefused(f"the profile is larger than {LARGEST_PROFILE} bytes")
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise SettingsRefused(f"the profile cannot be read: {error}") from error
        return cls._from_document(document)

    @classmethod
    def _from_document(cls, document: dict[str, Any]) -> Profile:
        pixels = document.pop("pixels", {})
        names = document.pop("options", [])
        if not isinstance(pixels, dict) or not isinstance(names, list):
            raise SettingsRefused("the profile needs a list `options` and a table `[pixels]`")
        unknown = [*document, *(set(pixels) - {"detect_text", "trust_annotation_no"})]
        if unknown:
            raise SettingsRefused(f"the profile has unknown keys: {', '.join(sorted(unknown))}")
        known = {str(option) for option in Option}
        wrong = sorted(str(name) for name in names if name not in known)
        if wrong:
            expected = ", ".join(sorted(known))
            raise SettingsRefused(f"unknown options {', '.join(wrong)}: choose from {expected}")
        if not all(isinstance(value, bool) for value in pixels.values()):
            raise SettingsRefused("the keys of `[pixels]` are true or false")
        return cls(options=frozenset(Option(name) for name in names), **pixels)

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the settings, the tables and the engine's version, hexadecimal."""
        settings = {
            "options": sorted(self.options),
            "detect_text": self.detect_text,
            "trust_annotation_no": self.trust_annotation_no,
            "tables": table_hash(),
            "engine": ENGINE_VERSION,
        }
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
