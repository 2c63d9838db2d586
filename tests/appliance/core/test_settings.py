"""Settings: defaults survive the file, all problems come together, cross-checks."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.settings import (
    MAX_SETTINGS_BYTES,
    Settings,
    SettingsInvalid,
    default_settings,
    load_settings,
    parse_settings,
    settings_from,
    settings_toml,
)

WHOLE = """
[node]
site = "hospital-a"
project = "ms"
time_zone = "Europe/Zurich"

[dicom]
ae_title = "NODE_A"
port = 0
allowed_ae = ["SCANNER"]

[[pacs]]
name = "main"
ae_title = "PACS_A"
host = "127.0.0.1"
port = 4242
role = ["query", "results"]
[pacs.query]
modalities = ["MR"]
study_date_from = 2024-01-01
study_date_to = 2024-12-31
description = "*HEAD*"

[results]
release = "all"
destination = "main"

[governance]
auto_approve_plans = "any"
"""


def problems_of(text: str) -> tuple[str, ...]:
    with pytest.raises(SettingsInvalid) as caught:
        parse_settings(text)
    return caught.value.problems


def test_defaults_survive_the_file() -> None:
    settings = default_settings("hospital-a", "ms")
    assert parse_settings(settings_toml(settings)) == settings


def test_the_written_default_can_be_extended_at_its_end() -> None:
    text = settings_toml(default_settings("hospital-a"))
    hint = text[text.index("# [[pacs]]") :]
    filled = "\n".join(line.removeprefix("# ") for line in hint.splitlines())
    settings = parse_settings(text.replace(hint, filled))
    assert settings.pacs[0].name == "main"
    assert settings.coordinator is not None


def test_whole_file() -> None:
    settings = parse_settings(WHOLE)
    assert parse_settings(settings_toml(settings)) == settings
    assert settings.allowed_ae() == {"SCANNER", "PACS_A"}
    assert [pacs.name for pacs in settings.query_pacs()] == ["main"]
    destination = settings.results_pacs()
    assert destination is not None
    assert destination.ae_title == "PACS_A"
    assert settings.governance.auto_approve_plans == ("any",)


def test_all_problems_come_together() -> None:
    problems = problems_of(
        """
        colour = "red"
        [node]
        site = "Hospital A"
        time_zone = "Mars/Olympus"
        [dicom]
        ae_title = "A_TITLE_THAT_IS_TOO_LONG"
        port = 70000
        [[pacs]]
        name = "main"
        host = "not a host"
        port = 104
        role = "archive"
        [labels]
        codes = { lesion = 1 }
        [results]
        release = "all"
        """
    )
    named = (
        "colour",
        "node.site",
        "node.time_zone",
        "dicom.ae_title",
        "dicom.port",
        "pacs.0.ae_title",
        "pacs.0.host",
        "pacs.0.role",
        "labels.codes",
        "results.destination",
    )
    for name in named:
        assert any(problem.startswith(name) for problem in problems), name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('destination = "main"', 'destination = "other"'), "results.destination"),
        (('role = ["query", "results"]', 'role = "query"'), "results.destination"),
        (("2024-01-01", "2025-01-01"), "study_date_from is after study_date_to"),
    ],
)
def test_keys_that_do_not_fit_together(change: tuple[str, str], words: str) -> None:
    assert any(words in problem for problem in problems_of(WHOLE.replace(*change)))


def test_two_pacs_of_one_name() -> None:
    extra = '\n[[pacs]]\nname = "main"\nae_title = "B"\nhost = "b"\nport = 1\n'
    assert any("more than once" in problem for problem in problems_of(WHOLE + extra))


def test_not_toml() -> None:
    assert problems_of("[node")[0].startswith("not valid TOML")


def test_absent_and_large_files(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="node init"):
        load_settings(tmp_path / "settings.toml")
    large = tmp_path / "large.toml"
    large.write_text("#" * (MAX_SETTINGS_BYTES + 1))
    with pytest.raises(SettingsInvalid, match="larger"):
        load_settings(large)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsInvalid, match="cannot be read"):
        load_settings(binary)


@given(
    workers=st.integers(1, 256),
    share=st.floats(0, 1),
    port=st.integers(0, 65535),
    title=st.from_regex(r"\A[A-Z0-9_]{1,16}\Z"),
)
def test_any_valid_settings_survive_the_file(
    workers: int, share: float, port: int, title: str
) -> None:
    settings = settings_from(
        {
            "node": {"site": "s"},
            "resources": {"workers": workers},
            "split": {"test_share": share},
            "dicom": {"port": port, "ae_title": title},
        }
    )
    assert isinstance(settings, Settings)
    assert parse_settings(settings_toml(settings)) == settings


def test_transport_of_a_pacs_is_complete() -> None:
    head = '[node]\nsite = "a"\n[[pacs]]\nname = "p"\n'
    web = 'transport = "dicomweb"\n'
    assert problems_of(head) == tuple(
        f"pacs.0.{key} is required" for key in ("ae_title", "host", "port")
    )
    assert problems_of(head + web) == ("pacs.0.web is required where transport is 'dicomweb'",)
    url = '[pacs.web]\nurl = "https://pacs.example.org/dicom-web"\n'
    assert problems_of(head + web + url + 'user = "u"\n') == (
        "pacs.0.web: user and password_file go together",
    )
    settings = parse_settings(head + web + url)
    assert settings.allowed_ae() == frozenset()
    address = 'ae_title = "P"\nhost = "p"\nport = 104\n'
    assert problems_of(head + address + "tls = true\n") == (
        "pacs.0.tls needs our own certificate in [dicom.tls]",
    )


@pytest.mark.parametrize("text", ["mon-fri 19:00-06:00", "SAT 00:00-24:00"])
def test_windows_are_days_and_times(text: str) -> None:
    head = '[node]\nsite = "a"\n[[pacs]]\nname = "p"\nae_title = "P"\nhost = "p"\nport = 104\n'
    settings = parse_settings(f'{head}windows = ["{text}"]\n')
    assert settings.pacs[0].windows == (text.lower(),)
    assert "expected days and times" in problems_of(f'{head}windows = ["nightly"]\n')[0]


def test_custodians_are_accounts_by_name_or_number() -> None:
    base = {"node": {"site": "a"}}
    found = settings_from(base | {"access": {"custodians": ["anna", 1003]}})
    assert found.access.custodians == ("anna", "1003")
    assert settings_from(base).access.custodians == ()
    for wrong in ("a b", "", True, "x" * 65):
        with pytest.raises(SettingsInvalid, match="custodians"):
            settings_from(base | {"access": {"custodians": [wrong]}})


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ('options = ["retain-full-dates", "retain-modified-dates"]', "contradict each other"),
        ('options = ["clean-pixel-data"]', "without masks"),
        ('options = ["retain-uids"]\nprofile = "deid.toml"', "both given"),
    ],
)
def test_options_of_deidentification_that_contradict_are_refused(section: str, words: str) -> None:
    problems = problems_of(f"{WHOLE}\n[deidentification]\n{section}\n")
    assert any(words in problem for problem in problems)
