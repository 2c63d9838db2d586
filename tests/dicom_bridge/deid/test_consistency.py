"""The same original always becomes the same new value, and what ran is recorded exactly."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_bridge.deid import (
    Option,
    Profile,
    Pseudonymizer,
    deidentify_bytes,
    deidentify_dataset,
    deidentify_file,
    deidentify_header,
)
from dicom_bridge.errors import DataRefused, SettingsRefused
from tests.dicom_bridge.deid.objects import (
    BASIC,
    code,
    file_bytes,
    mr_image,
    pseudonymizer,
    reference,
    write,
)


def through(ds: Dataset, profile: Profile = BASIC, project: str = "trial") -> Dataset:
    content = b"".join(deidentify_bytes(file_bytes(ds), profile, pseudonymizer(project)).parts)
    return dcmread(io.BytesIO(content))


def test_identifiers_go_and_geometry_stays() -> None:
    before, after = mr_image(), through(mr_image())
    assert after.PatientName == after.PatientID
    assert len(after.PatientID) == 10
    for keyword in ("PatientBirthDate", "AccessionNumber", "StudyDate", "PatientSex", "StudyID"):
        assert after[keyword].is_empty
    for keyword in ("InstitutionName", "PatientAge", "StudyDescription", "DeviceSerialNumber"):
        assert keyword not in after
    for keyword in ("EchoTime", "Rows", "ImagePositionPatient", "PixelSpacing", "PixelData"):
        assert after[keyword].value == before[keyword].value
    assert np.array_equal(after.pixel_array, np.frombuffer(before.PixelData, "<u2").reshape(24, 32))


def test_the_record_says_what_ran() -> None:
    options = {Option.CLEAN_DESCRIPTORS, Option.RETAIN_MODIFIED_DATES}
    after = through(mr_image(), Profile.basic(options))
    codes = [item.CodeValue for item in after.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113105", "113107"]
    assert after.PatientIdentityRemoved == "YES"
    assert after.LongitudinalTemporalInformationModified == "MODIFIED"
    assert Profile.basic(options).hash[:16] in after.DeidentificationMethod
    assert through(mr_image()).LongitudinalTemporalInformationModified == "REMOVED"
    full = through(mr_image(), Profile.basic({Option.RETAIN_FULL_DATES}))
    assert full.LongitudinalTemporalInformationModified == "UNMODIFIED"
    assert full.StudyDate == "20210305"


def test_a_claim_of_the_source_is_not_carried_over() -> None:
    ds = mr_image()
    ds.PatientIdentityRemoved = "NO"
    ds.DeidentificationMethodCodeSequence = [code("113111", "DCM", "Retain Safe Private Option")]
    ds.LongitudinalTemporalInformationModified = "UNMODIFIED"
    after = through(ds)
    assert after.PatientIdentityRemoved == "YES"
    assert [i.CodeValue for i in after.DeidentificationMethodCodeSequence] == ["113100"]
    assert after.LongitudinalTemporalInformationModified == "REMOVED"


def test_uids_agree_across_the_series_of_a_study_and_over_time() -> None:
    first, second = through(mr_image(1)), through(mr_image(2))
    assert first.StudyInstanceUID == second.StudyInstanceUID
    assert first.FrameOfReferenceUID == second.FrameOfReferenceUID
    assert first.SOPInstanceUID != second.SOPInstanceUID
    ds = mr_image(1)
    ds.ReferencedImageSequence = reference("1.2.3.4.1.2")
    assert through(ds).ReferencedImageSequence[0].ReferencedSOPInstanceUID == second.SOPInstanceUID
    later = mr_image(1, study="1.2.9.9")
    assert through(later).PatientID == first.PatientID
    assert first.file_meta.MediaStorageSOPInstanceUID == first.SOPInstanceUID


def test_two_projects_and_two_secrets_cannot_be_linked() -> None:
    one, two = through(mr_image(), project="a"), through(mr_image(), project="b")
    other = Pseudonymizer(b"another secret of 32 bytes or so", "a")
    assert one.PatientID != two.PatientID
    assert one.StudyInstanceUID != two.StudyInstanceUID
    assert other.patient("", "PAT-7731") != pseudonymizer("a").patient("", "PAT-7731")
    assert b"secret" not in repr(other).encode()


def test_dates_of_one_patient_move_together_by_whole_weeks() -> None:
    profile = Profile.basic({Option.RETAIN_MODIFIED_DATES})
    first, later = mr_image(), mr_image(study="1.2.9")
    later.StudyDate = "20210405"
    a, b = through(first, profile), through(later, profile)
    from_text = np.datetime64
    day_a = from_text(f"{a.StudyDate[:4]}-{a.StudyDate[4:6]}-{a.StudyDate[6:]}")
    day_b = from_text(f"{b.StudyDate[:4]}-{b.StudyDate[4:6]}-{b.StudyDate[6:]}")
    assert day_b - day_a == np.timedelta64(31, "D")
    moved = int((day_a - from_text("2021-03-05")).astype(int))
    assert moved == pseudonymizer().day_offset("", "PAT-7731")
    assert moved % 7 == 0
    assert a.StudyTime == "101112"
    assert a["PatientBirthDate"].is_empty


def test_the_same_file_gives_the_same_bytes_and_a_second_pass_changes_only_names() -> None:
    content = file_bytes(mr_image())
    once = b"".join(deidentify_bytes(content, BASIC, pseudonymizer()).parts)
    assert once == b"".join(deidentify_bytes(content, BASIC, pseudonymizer()).parts)
    twice = dcmread(io.BytesIO(b"".join(deidentify_bytes(once, BASIC, pseudonymizer()).parts)))
    first = dcmread(io.BytesIO(once))
    changed = {e.keyword for e in first if e.value != twice[e.tag].value}
    renamed = {"SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"}
    assert set(first.keys()) == set(twice.keys())
    assert changed <= renamed | {"PatientName", "PatientID"}


def test_a_header_alone_can_be_deidentified_and_the_input_stays(tmp_path: Path) -> None:
    path = write(mr_image(), tmp_path / "a.dcm")
    header = dcmread(path, stop_before_pixels=True)
    done = deidentify_dataset(header, BASIC, pseudonymizer())
    assert "PixelData" not in done.dataset
    assert done.dataset.EchoTime == header.EchoTime
    assert header.PatientID == "PAT-7731"
    whole = deidentify_file(path, tmp_path / "out" / "b.dcm", BASIC, pseudonymizer())
    assert whole.sop_instance == done.dataset.SOPInstanceUID
    assert whole.actions["U"] == 4
    checked = deidentify_header(path, BASIC, pseudonymizer())
    assert checked.dataset == done.dataset
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataRefused, match="truncated"):
        deidentify_header(path, BASIC, pseudonymizer())
    assert whole.codes == ("113100",)


def test_a_header_alone_shows_what_an_image_is() -> None:
    ds = mr_image()
    ds.ImageType = ["DERIVED", "SECONDARY"]
    del ds.PixelData
    with pytest.raises(DataRefused, match="derived secondary"):
        deidentify_dataset(ds, BASIC, pseudonymizer())


def test_a_patient_without_number_is_told_apart_by_the_study() -> None:
    one, two = mr_image(patient=""), mr_image(patient="", study="1.2.5")
    assert through(one).PatientID != through(two).PatientID


def test_options_keep_what_they_say() -> None:
    wanted = {Option.RETAIN_PATIENT_CHARACTERISTICS, Option.RETAIN_DEVICE_IDENTITY}
    after = through(mr_image(), Profile.basic(wanted | {Option.RETAIN_INSTITUTION_IDENTITY}))
    assert (after.PatientSex, after.PatientAge, after.PatientWeight) == ("F", "090Y", 71)
    assert after.DeviceSerialNumber == "167032"
    assert after.InstitutionName == "Hospital of Plant"
    kept = through(mr_image(), Profile.basic({Option.RETAIN_UIDS}))
    assert kept.SOPInstanceUID == kept.file_meta.MediaStorageSOPInstanceUID == "1.2.3.4.1.1"
    cleaned = through(mr_image(), Profile.basic({Option.CLEAN_DESCRIPTORS}))
    assert cleaned.SeriesDescription == "t1 mprage sag"


def test_safe_private_numbers_stay_only_with_the_option_and_their_creator() -> None:
    ds = mr_image()
    ds.add_new(0x00190010, "LO", "SIEMENS MR HEADER")
    ds.add_new(0x0019100C, "IS", "1000")
    ds.add_new(0x0019100D, "CS", "DIRECTIONAL")
    ds.add_new(0x00290010, "LO", "SIEMENS CSA HEADER")
    ds.add_new(0x00291010, "OB", b"SV10 binary!")
    assert not [e for e in through(ds) if e.tag.is_private]
    kept = [int(e.tag) for e in through(ds, Profile.basic({Option.RETAIN_SAFE_PRIVATE}))]
    assert [tag for tag in kept if tag >> 16 & 1] == [0x00190010, 0x0019100C, 0x0019100D]


def test_contradictions_and_what_cannot_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsRefused, match="contradict"):
        Profile.basic({Option.RETAIN_FULL_DATES, Option.RETAIN_MODIFIED_DATES})
    with pytest.raises(SettingsRefused, match="cannot be claimed"):
        Profile.basic({Option.CLEAN_PIXEL_DATA})
    with pytest.raises(SettingsRefused, match="at least 16"):
        Pseudonymizer(b"short", "trial")
    path = tmp_path / "profile.toml"
    path.write_text('options = ["clean-descriptors"]\n[pixels]\ndetect_text = false\n')
    loaded = Profile.load(path)
    assert loaded == Profile(frozenset({Option.CLEAN_DESCRIPTORS}), detect_text=False)
    assert loaded.hash != BASIC.hash
    for wrong, words in (
        ('options = ["clean-everything"]', "unknown options"),
        ("surprise = 1", "unknown keys"),
        ("options = 3", "needs a list"),
        ("[pixels]\ndetect_text = 2", "true or false"),
        ("options = [", "cannot be read"),
    ):
        path.write_text(wrong)
        with pytest.raises(SettingsRefused, match=words):
            Profile.load(path)


@pytest.mark.parametrize("term", ["ISO_IR 100", "ISO_IR 192", "GB18030", "\\ISO 2022 IR 149"])
def test_a_character_set_is_nobodys_name(term: str) -> None:
    ds = mr_image()
    ds.PatientName = "Iso^Ir 2022 100 192 149^Gb18030"
    ds.SpecificCharacterSet = term.split("\\")
    assert through(ds).SpecificCharacterSet == ds.SpecificCharacterSet


def test_an_unknown_character_set_with_a_name_in_it_goes() -> None:
    ds = mr_image()
    ds.PatientName = "Qwertzui"
    ds.SpecificCharacterSet = "QWERTZUI"
    with pytest.warns(UserWarning, match="Unknown encoding"):
        content = file_bytes(ds)
    after = dcmread(io.BytesIO(b"".join(deidentify_bytes(content, BASIC, pseudonymizer()).parts)))
    assert "SpecificCharacterSet" not in after


def test_code_meanings_become_the_standards_own() -> None:
    ds = mr_image()
    ds.ReferencedImageSequence = reference("1.2.3.4.1.2")
    ds.ReferencedImageSequence[0].PurposeOfReferenceCodeSequence = [
        code("121311", "DCM", "as discussed with Mrs Quitschmann")
    ]
    item = through(ds).ReferencedImageSequence[0].PurposeOfReferenceCodeSequence[0]
    assert item.CodeMeaning == "Localizer"


def test_an_identifying_uid_that_is_missing_is_refused() -> None:
    ds = mr_image()
    ds.StudyInstanceUID = ""
    with pytest.raises(DataRefused, match="Study Instance UID"):
        through(ds)


_CHILD = """
import sys
from dicom_bridge.deid import Profile, Pseudonymizer, deidentify_file
from pathlib import Path
secret, project, folder = bytes.fromhex(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
for path in sorted(folder.glob("*.dcm")):
    target = folder / project / path.name
    deidentify_file(path, target, Profile.basic(), Pseudonymizer(secret, project))
"""


@pytest.mark.integration
def test_another_process_gives_the_same_and_another_project_nothing_in_common(
    tmp_path: Path,
) -> None:
    ours = pseudonymizer()
    for number in (1, 2):
        (tmp_path / f"{number}.dcm").write_bytes(file_bytes(mr_image(number)))
    for project in (ours.project, "other"):
        arguments = [ours.secret.hex(), project, str(tmp_path)]
        subprocess.run([sys.executable, "-c", _CHILD, *arguments], check=True)
    uids: dict[str, set[str]] = {}
    for project in (ours.project, "other"):
        for number in (1, 2):
            found = dcmread(tmp_path / project / f"{number}.dcm")
            names = uids.setdefault(project, set())
            names |= {str(e.value) for e in found.iterall() if e.VR == "UI"}
            names |= {str(found.PatientID), str(found.PatientName)}
    for number in (1, 2):
        here = deidentify_bytes(file_bytes(mr_image(number)), BASIC, ours)
        assert (tmp_path / ours.project / f"{number}.dcm").read_bytes() == b"".join(here.parts)
    common = uids[ours.project] & uids["other"]
    assert all(uid.startswith("1.2.840.10008.") for uid in common)
