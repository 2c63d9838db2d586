"""A profile file to begin with: the default, with every key explained."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from dicom_bridge.deid.table import BASIC_CODE, OPTION_CODES, Option

_MEANINGS: Mapping[Option, str] = MappingProxyType(
    {
        Option.CLEAN_PIXEL_DATA: "blank the masks below (needs at least one [[pixels.mask]])",
        Option.CLEAN_RECOGNIZABLE_VISUAL_FEATURES: (
            "cannot be claimed here: faces are taken out of the NIfTI (clinode tools deface)"
        ),
        Option.CLEAN_GRAPHICS: "keep graphic objects of presentation states, without their text",
        Option.CLEAN_STRUCTURED_CONTENT: "keep codes, numbers and references of reports, no text",
        Option.CLEAN_DESCRIPTORS: "keep known words of descriptions and comments (AX T2 FLAIR 3mm)",
        Option.RETAIN_FULL_DATES: "keep dates and times as they are",
        Option.RETAIN_MODIFIED_DATES: "move all dates of a patient by one number of weeks",
        Option.RETAIN_PATIENT_CHARACTERISTICS: "keep sex, age (90 at most), size, weight, smoking",
        Option.RETAIN_DEVICE_IDENTITY: "keep serial numbers, station names, calibration dates",
        Option.RETAIN_UIDS: "keep all UIDs (the archive's own UIDs lead back to the patient)",
        Option.RETAIN_SAFE_PRIVATE: "keep the private elements that PS3.15 lists as safe",
        Option.RETAIN_INSTITUTION_IDENTITY: "keep name, address and department of the hospital",
    }
)
_HEAD = """\
# A profile for `clinode tools deidentify IN OUT --profile FILE`: the default, every key explained.
# DICOM PS3.15 Annex E, Basic Application Confidentiality Profile (DCM {basic}); what it names goes,
# and so does every element that no rule names. The report says by hash which profile ran.

# Options beside it. Take the # away from those you want. An object's record (0012,0064) names only
# the options that decided something in that object.
options = [
"""
_TAIL = """\
]

# Encapsulated PDF: "replace" puts an empty page in the document's place, "refuse" refuses it.
documents = "replace"

[pixels]
# Look for lines of text in the pixels of every image that is taken; a hit refuses the image.
detect_text = true
# Take ultrasound and secondary captures with BurnedInAnnotation NO, if no text is seen.
trust_annotation_no = false
# Take them also where the header says nothing, if no text is seen. The weakest rule.
trust_text_detection = false

# Masks: what a device draws over its images, for one size of image each. They need the option
# clean-pixel-data. Name the device by manufacturer, model, station or sop_class (all that are given
# must fit; case does not count). Regions are [x, y, width, height] in pixels from the top left.
# An image of a device that has masks, but none of its size, is refused.
#
# [[pixels.mask]]
# manufacturer = "GE Healthcare"
# model = "LOGIQ E9"
# rows = 720
# columns = 960
# regions = [[0, 0, 960, 56]]
#
# [[pixels.mask]]    # ultrasound that names its regions (0018,6011): all outside is blanked
# model = "EPIQ 7G"
# rule = "outside-regions"
"""


def profile_text() -> str:
    """The default profile as commented TOML; loading it gives ``Profile.basic()``."""
    lines = [
        f'#  "{option}",{" " * (35 - len(option))}# {OPTION_CODES[option][0]} {_MEANINGS[option]}\n'
        for option in Option
    ]
    return _HEAD.format(basic=BASIC_CODE[0]) + "".join(lines) + _TAIL
