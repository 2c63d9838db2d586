"""One page in headless Chromium, driven over the DevTools protocol through a pair of pipes.

Chromium reads commands from file descriptor 3 and answers on 4 (``--remote-debugging-pipe``):
JSON messages, each ended by a zero byte. No port, no web socket and no driver package is needed.
The protocol: https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import base64
import io
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.tools import in_ci
from tests.waiting import wait_for

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
ANSWER_SECONDS = 60.0
KEPT_MESSAGES = 40
# WebGL in software, the same on every machine; nothing may be fetched from outside this machine.
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--force-color-profile=srgb",
    "--force-device-scale-factor=1",
    "--hide-scrollbars",
    "--mute-audio",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    "--remote-debugging-pipe",
)


class BrowserError(AssertionError):
    """Chromium refused a command, ended, or did not answer in time."""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of the page in CSS pixels; one is one pixel of a screenshot."""

    x: float
    y: float
    width: float
    height: float


def find_chromium() -> Path:
    """Chromium's program; without it the test is skipped, and fails where ``CI=true``."""
    for name in PROGRAMS:
        found = shutil.which(name)
        if found is not None:
            return Path(found)
    message = "Chromium is not installed: run `bash packaging/setup_long.sh` as root or with sudo"
    if in_ci():
        pytest.fail(message)
    pytest.skip(message)


class Page:
    """The browser's one page."""

    def __init__(self, commands: int, answers: int) -> None:
        """Take the two pipes' ends."""
        self._commands, self._answers = commands, answers
        self._buffer = bytearray()
        self._number = 0
        self._session: str | None = None
        self.messages: list[str] = []

    def attach(self) -> None:
        """Open a blank page and speak to it from now on."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = str(attached["sessionId"])
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> dict[str, object]:
        """Send one command and return its result.

        Raises:
            BrowserError: refused, or no answer in time.
        """
        self._number += 1
        message: dict[str, object] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._write(json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            answer = self._read(deadline, method)
            if answer.get("id") == self._number:
                break
            self._note(answer)
        if "error" in answer:
            raise BrowserError(f"Chromium refused {method}: {answer['error']}")
        result = answer["result"]
        assert isinstance(result, dict)
        return result

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._commands, data) :]

    def _read(self, deadline: float, method: str) -> dict[str, object]:
        while b"\0" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._answers], [], [], left)[0]:
                raise BrowserError(f"Chromium did not answer {method} in {ANSWER_SECONDS:g} s")
            part = os.read(self._answers, 1 << 20)
            if not part:
                raise BrowserError(f"Chromium ended during {method}")
            self._buffer += part
        message, _, rest = bytes(self._buffer).partition(b"\0")
        self._buffer = bytearray(rest)
        answer = json.loads(message)
        assert isinstance(answer, dict)
        return answer

    def _note(self, event: Mapping[str, object]) -> None:
        """Keep what the page complains of, for a failure's text."""
        parameters = event.get("params")
        if not isinstance(parameters, dict):
            return
        if event.get("method") == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            text = str(details.get("exception", {}).get("description") or details.get("text"))
        elif event.get("method") == "Runtime.consoleAPICalled" and parameters["type"] == "error":
            said = (a.get("description") or str(a.get("value")) for a in parameters["args"])
            text = f"console: {' '.join(said)}"
        elif event.get("method") == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            text = f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}"
        else:
            return
        self.messages = [*self.messages, text[:600]][-KEPT_MESSAGES:]

    def open(self, url: str, *, width: int = 1000, height: int = 640) -> None:
        """Load an address in a window of the given size; returns before the page is complete."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.messages = []
        answer = self.call("Page.navigate", url=url)
        if answer.get("errorText"):
            raise BrowserError(f"the page does not load: {answer['errorText']}")

    def evaluate(self, expression: str) -> object:
        """The value of a JavaScript expression, awaited where it is a promise.

        Raises:
            BrowserError: it threw.
        """
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise BrowserError(f"the page threw: {json.dumps(answer['exceptionDetails'])[:600]}")
        result = answer["result"]
        assert isinstance(result, dict)
        return result.get("value")

    def ask(self, function: str, *arguments: object) -> object:
        """Call a JavaScript function with plain values."""
        return self.evaluate(f"({function})({', '.join(json.dumps(a) for a in arguments)})")

    def box(self, selector: str, text: str = "") -> Box | None:
        """Where the first element with the text is, None while there is none of any size."""
        found = self.ask(
            """(selector, text) => {
              for (const element of document.querySelectorAll(selector)) {
                if (!element.textContent.includes(text)) continue;
                element.scrollIntoView({block: 'nearest'});
                const r = element.getBoundingClientRect();
                if (r.width && r.height) return [r.x, r.y, r.width, r.height];
              }
              return null;
            }""",
            selector,
            text,
        )
        return Box(*found) if isinstance(found, list) else None

    def await_box(self, selector: str, text: str = "", *, what: str, seconds: float = 90) -> Box:
        """Wait until the element is there and stays where it is."""
        last: Box | None = None

        def still() -> Box | None:
            nonlocal last
            last, before = self.box(selector, text), last
            return last if last == before else None

        try:
            return wait_for(still, what=what, seconds=seconds, every=0.2)
        except AssertionError as error:
            raise BrowserError(f"{error}; {self.state()}") from None

    def state(self) -> str:
        """What the page complains of and the beginning of its text, for a failure."""
        text = self.evaluate("document.readyState + ' ' + document.body?.innerText.slice(0, 200)")
        return f"its errors: {self.messages}; its text: {text!r}"

    def settled(self, box: Box | None = None, *, seconds: float = 60) -> NDArray[np.uint8]:
        """A screenshot that equals the one before it: nothing moves any more."""
        last: NDArray[np.uint8] | None = None

        def same() -> bool:
            nonlocal last
            self.evaluate("new Promise(f => requestAnimationFrame(() => requestAnimationFrame(f)))")
            last, before = self.screenshot(box), last
            return before is not None and np.array_equal(last, before)

        wait_for(same, what="the page to come to rest", seconds=seconds)
        assert last is not None
        return last

    def point(self, x: float, y: float) -> None:
        """Move the mouse."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, box: Box, *, clicks: int = 1) -> None:
        """Press and release the left button in the middle of a box, once or twice."""
        place = {"x": box.x + box.width / 2, "y": box.y + box.height / 2}
        self.call("Input.dispatchMouseEvent", type="mouseMoved", **place)
        for count in range(1, clicks + 1):
            for kind in ("mousePressed", "mouseReleased"):
                self.call(
                    "Input.dispatchMouseEvent", type=kind, button="left", clickCount=count, **place
                )

    def screenshot(self, box: Box | None = None) -> NDArray[np.uint8]:
        """(rows, columns, 3) what the page shows, or the part of it in a box."""
        clip = {}
        if box is not None:
            area = {"x": box.x, "y": box.y, "width": box.width, "height": box.height, "scale": 1}
            clip = {"clip": area}
        answer = self.call("Page.captureScreenshot", format="png", optimizeForSpeed=True, **clip)
        with Image.open(io.BytesIO(base64.b64decode(str(answer["data"])))) as image:
            return np.asarray(image.convert("RGB"))


@contextmanager
def running_chromium(folder: Path) -> Iterator[Page]:
    """A headless Chromium with a fresh profile below ``folder``, and its page."""
    program = find_chromium()
    folder.mkdir(parents=True, exist_ok=True)
    command_end, commands = os.pipe()
    answers, answer_end = os.pipe()
    # Only a shell can give the pipes the numbers 3 and 4 without code between fork and exec.
    shell = 'exec "$@" 3<&"$CLINODE_IN" 4>&"$CLINODE_OUT"'
    arguments = [*FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"]
    environment = {
        **os.environ,
        "CLINODE_IN": str(command_end),
        "CLINODE_OUT": str(answer_end),
        "HOME": str(folder),
    }
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", shell, "chromium", str(program), *arguments],
            pass_fds=(command_end, answer_end),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
        )
    os.close(command_end)
    os.close(answer_end)
    page = Page(commands, answers)
    try:
        page.attach()
        yield page
    finally:
        os.close(commands)  # Chromium ends when its command pipe does
        os.close(answers)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait(timeout=10)
