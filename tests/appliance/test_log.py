"""The log: JSON lines, plain values only, nothing from libraries that may hold identifiers."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import structlog
from pydicom.dataset import Dataset

from appliance.log import configure_log

NAME = "DOE^JANE"


@dataclass
class Holder:
    name: str


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    quiet = [logging.getLogger(name) for name in ("pynetdicom", "pydicom")]
    disabled = [logger.disabled for logger in quiet]
    handlers = list(logging.getLogger().handlers)
    yield io.StringIO()
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = handlers
    for logger, before in zip(quiet, disabled, strict=True):
        logger.disabled = before


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_json_line_with_level_and_utc_time(stream: io.StringIO) -> None:
    configure_log(stream)
    structlog.get_logger("x").info("study ready", study="st0123", images=40, inputs=["FLAIR"])
    (line,) = lines(stream)
    assert line["event"] == "study ready"
    assert (line["level"], line["images"], line["inputs"]) == ("info", 40, ["FLAIR"])
    assert str(line["timestamp"]).endswith("Z")


def test_values_that_may_hold_identity_become_their_types_name(stream: io.StringIO) -> None:
    configure_log(stream)
    header = Dataset()
    header.PatientName = NAME
    log = structlog.get_logger("x")
    log.error(
        "failed",
        header=header,
        element=header["PatientName"],
        raw=NAME.encode(),
        error=ValueError(NAME),
        held=Holder(NAME),
        table={"name": NAME},
        several=[header],
    )
    try:
        raise ValueError(NAME)
    except ValueError:
        log.exception("trace")
    assert NAME not in stream.getvalue()
    line = lines(stream)[0]
    assert (line["raw"], line["error"], line["header"]) == ("<bytes>", "<ValueError>", "<Dataset>")


def test_a_line_break_in_a_value_makes_no_second_line(stream: io.StringIO) -> None:
    configure_log(stream)
    structlog.get_logger("x").info("event", reason='a\n{"event": "forged"}')
    assert [line["event"] for line in lines(stream)] == ["event"]


@pytest.mark.parametrize(
    ("level", "expected"),
    [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)],
)
def test_the_level_holds_back_what_is_below(stream: io.StringIO, level: str, expected: int) -> None:
    configure_log(stream, level=level)
    log = structlog.get_logger("x")
    for write in (log.debug, log.info, log.warning, log.error):
        write("event")
    assert len(lines(stream)) == expected


@pytest.mark.parametrize("name", ["pynetdicom", "pynetdicom.acse", "pydicom", "elsewhere"])
def test_what_libraries_log_reaches_no_stream(
    stream: io.StringIO, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    configure_log(stream)
    logging.getLogger(name).error("received %s", NAME)
    said = capsys.readouterr()
    assert NAME not in stream.getvalue() + said.out + said.err
