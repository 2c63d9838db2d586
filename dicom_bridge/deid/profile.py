"""A de-identification profile: options beside the Basic Profile, pixel rules, masks, documents."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

from dicom_bridge.deid.masks import Mask
from dicom_bridge.deid.table import Option, table_hash
from dicom_bridge.errors import SettingsRefused

ENGINE_VERSION = "2"
LARGEST_PROFILE = 1024 * 1024
_FLAGS = ("detect_text", "trust_annotation_no", "trust_text_detection")


class Documents(StrEnum):
    """What becomes of encapsulated PDF documents.

    ``REPLACE``: the document is replaced by an empty one, as Table E.1-1 has it (D); the object
    stays. ``REFUSE``: the object is refused.
    """

    REPLACE = "replace"
    REFUSE = "refuse"


@dataclass(frozen=True)
class Profile:
    """What de-identification does; equal profiles have equal hashes.

    Attributes:
        options: options of PS3.15 Annex E beside the Basic Profile.
        detect_text: look for burned-in text in the pixels of images that are taken.
        trust_annotation_no: take secondary captures and ultrasound when BurnedInAnnotation is NO
            and no text is seen; refused otherwise.
        trust_text_detection: take them also when the header says nothing, if no text is seen. The
            weakest rule: the detection does not see every text.
        masks: areas to blank by device and size; with the option Clean Pixel Data only.
        documents: what becomes of encapsulated PDF documents.

    Raises:
        SettingsRefused: the settings contradict each other, or an option cannot run here.
    """

    options: frozenset[Option] = frozenset()
    detect_text: bool = True
    trust_annotation_no: bool = False
    trust_text_detection: bool = False
    masks: tuple[Mask, ...] = ()
    documents: Documents = Documents.REPLACE

    def __post_init__(self) -> None:
        dates = {Option.RETAIN_FULL_DATES, Option.RETAIN_MODIFIED_DATES}
        if dates <= self.options:
            names = " and ".join(sorted(dates))
            raise SettingsRefused(f"the options {names} contradict each other: choose one")
        if Option.CLEAN_RECOGNIZABLE_VISUAL_FEATURES in self.options:
            name = Option.CLEAN_RECOGNIZABLE_VISUAL_FEATURES
            reason = "faces are removed after conversion, not in DICOM"
            raise SettingsRefused(f"the option {name} cannot be claimed: {reason}")
        self._check_pixels()

    def _check_pixels(self) -> None:
        wanted = Option.CLEAN_PIXEL_DATA in self.options
        if wanted and not self.masks:
            message = f"the option {Option.CLEAN_PIXEL_DATA} cannot be claimed without masks"
            raise SettingsRefused(f"{message}: add [[pixels.mask]] or leave the option out")
        if self.masks and not wanted:
            message = f"the masks need the option {Option.CLEAN_PIXEL_DATA}"
            raise SettingsRefused(f"{message}: add it to `options` or remove the masks")
        if self.masks and not self.detect_text:
            message = "masks and detect_text = false contradict each other"
            raise SettingsRefused(f"{message}: what a mask leaves must be looked at")
        if self.trust_text_detection and not self.detect_text:
            message = "trust_text_detection and detect_text = false contradict each other"
            raise SettingsRefused(f"{message}: there is then nothing to trust")

    @classmethod
    def basic(cls, options: Iterable[Option] = frozenset()) -> Profile:
        """The Basic Profile with these options."""
        return cls(options=frozenset(options))

    @classmethod
    def load(cls, path: Path) -> Profile:
        """Read a TOML file.

        Keys: ``options = [...]``, ``documents = "replace"|"refuse"``, and a table ``[pixels]`` with
        ``detect_text``, ``trust_annotation_no``, ``trust_text_detection`` and ``[[pixels.mask]]``.

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
        documents = document.pop("documents", str(Documents.REPLACE))
        if not isinstance(pixels, dict) or not isinstance(names, list):
            raise SettingsRefused("the profile needs a list `options` and a table `[pixels]`")
        masks = pixels.pop("mask", [])
        unknown = [*document, *(set(pixels) - set(_FLAGS))]
        if unknown:
            raise SettingsRefused(f"the profile has unknown keys: {', '.join(sorted(unknown))}")
        known = {str(option) for option in Option}
        wrong = sorted(str(name) for name in names if name not in known)
        if wrong:
            expected = ", ".join(sorted(known))
            raise SettingsRefused(f"unknown options {', '.join(wrong)}: choose from {expected}")
        if not all(isinstance(value, bool) for value in pixels.values()):
            raise SettingsRefused(f"{', '.join(_FLAGS)} of `[pixels]` are true or false")
        if documents not in list(Documents):
            raise SettingsRefused(f"`documents` is one of {', '.join(Documents)}")
        if not isinstance(masks, list) or not all(isinstance(mask, dict) for mask in masks):
            raise SettingsRefused("masks are tables: write [[pixels.mask]]")
        return cls(
            options=frozenset(Option(name) for name in names),
            masks=tuple(Mask.from_table(mask) for mask in masks),
            documents=Documents(documents),
            **pixels,
        )

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the settings, the tables and the engine's version, hexadecimal."""
        settings = {
            "options": sorted(self.options),
            "detect_text": self.detect_text,
            "trust_annotation_no": self.trust_annotation_no,
            "trust_text_detection": self.trust_text_detection,
            "masks": [mask.to_json() for mask in self.masks],
            "documents": str(self.documents),
            "tables": table_hash(),
            "engine": ENGINE_VERSION,
        }
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
