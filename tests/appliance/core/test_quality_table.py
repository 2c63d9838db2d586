"""The table of quality figures: complete, consistent, and what the settings are checked against."""

from __future__ import annotations

import pytest

from appliance.quality_table import (
    IMAGES,
    METRICS,
    complaint_of,
    default_bounds,
    direction_of,
    known_names,
    metrics_markdown,
    split_name,
    words_of,
)
from appliance.settings import SettingsInvalid, parse_settings, settings_toml

NODE = '[node]\nsite = "a"\n'


def test_every_line_is_complete_and_bounds_lie_the_right_way() -> None:
    for info in METRICS.values():
        assert info.words, info.name
        assert info.formula, info.name
        assert info.source, info.name
        assert info.degenerate, info.name
        assert info.unit in {"mm", "ml", "ratio", "share", "count", "1"}, info.name
        for key, (review, fail) in info.bounds.items():
            assert key == "*" or key in IMAGES
            direction = info.better.get(key, info.direction)
            assert direction != "none", info.name
            if review is not None and fail is not None:
                assert (review > fail) == (direction == "higher"), info.name
        assert not info.bounds or info.complaint, info.name


def test_names_of_reports_lead_back_to_their_line() -> None:
    names = list(known_names())
    assert len(names) == len(set(names))
    for name in names:
        prefix, rest = split_name(name)
        assert prefix in IMAGES
        assert rest in METRICS
        assert "{" not in complaint_of(name)
        assert direction_of(name) in {"higher", "lower", "none"}
        default_bounds(name)
    for unknown in ("flair_nothing", "snr", "xr_snr", "", "t1w_brain_overlap"):
        with pytest.raises(KeyError):
            split_name(unknown)
    assert words_of("nothing") == ""


def test_the_documentation_has_every_figure() -> None:
    lines = metrics_markdown().splitlines()
    assert len(lines) == len(METRICS) + 2
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_settings_of_quality() -> None:
    settings = parse_settings(
        NODE
        + """
[qc.protocol.FLAIR]
spacing_mm = [1.0, 1.0, 1.0]
mismatch = "fail"
[qc.thresholds]
flair_snr = [12.0, "off"]
brain_overlap = [0.95, 0.9]
[qc.site]
least = 30
"""
    )
    assert settings.qc.bounds() == {"flair_snr": (12.0, None), "brain_overlap": (0.95, 0.9)}
    assert settings.qc.protocol["FLAIR"].tolerance_mm == 0.1
    assert settings.qc.site.least == 30
    assert parse_settings(settings_toml(settings)) == settings


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[qc.thresholds]\nflair_snrr = [1, 2]", "no quality figure is called flair_snrr"),
        ("[qc.thresholds]\nflair_wm2max = [1, 2]", "only describes"),
        ("[qc.thresholds]\nflair_snr = [1, 'none']", "qc.thresholds"),
        ("[qc.protocol.XR]\ntolerance_mm = 1", "qc.protocol"),
        ("[qc.protocol.FLAIR]\nspacing_mm = [0, 1, 1]", "qc.protocol.FLAIR.spacing_mm"),
        ("[qc.site]\nleast = 1", "qc.site.least"),
    ],
)
def test_settings_that_make_no_sense(text: str, words: str) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        parse_settings(NODE + text)
    assert any(words in problem for problem in caught.value.problems)
