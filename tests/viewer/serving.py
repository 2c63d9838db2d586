"""Serving the OHIF viewer beside an Orthanc, on one origin.

The viewer's prebuilt files and Orthanc's DICOMweb interface are served by one small web server, so
that the browser needs no cross-origin permission. Where the files come from:
``packaging/setup_long.sh``.
"""

from __future__ import annotations

import json
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.tools import in_ci

# The oldest version that clinode vouches for; CLINODE_TEST_OHIF tries another one by hand.
VERSION = os.environ.get("CLINODE_TEST_OHIF", "3.12.10")
DICOMWEB = "/dicom-web"
TYPES = {
    ".css": "text/css",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
    ".woff2": "font/woff2",
}
CONFIGURATION = {
    "routerBasename": "/",
    "extensions": [],
    "modes": [],
    "customizationService": [{"ohif.tours": {"$set": []}}],  # no guided tour over the page
    "showStudyList": True,
    "maxNumberOfWebWorkers": 2,
    "showWarningMessageForCrossOrigin": False,
    "showCPUFallbackMessage": False,
    "showLoadingIndicator": True,
    "strictZSpacingForVolumeViewport": True,
    "investigationalUseDialog": {"option": "never"},
    "defaultDataSourceName": "dicomweb",
    "dataSources": [
        {
            "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
            "sourceName": "dicomweb",
            "configuration": {
                "friendlyName": "Orthanc",
                "name": "orthanc",
                "wadoUriRoot": DICOMWEB,
                "qidoRoot": DICOMWEB,
                "wadoRoot": DICOMWEB,
                "qidoSupportsIncludeField": False,
                "imageRendering": "wadors",
                "thumbnailRendering": "wadors",
                "enableStudyLazyLoad": True,
                "supportsFuzzyMatching": False,
                "supportsWildcard": True,
                "omitQuotationForMultipartRequest": True,
                "bulkDataURI": {"enabled": True},
            },
        }
    ],
}


def cache_folder() -> Path:
    """Where fetched viewers lie: ``CLINODE_TEST_CACHE`` or ~/.cache/clinode-tests."""
    chosen = os.environ.get("CLINODE_TEST_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "clinode-tests"


def find_viewer(name: str, file: str) -> Path:
    """A fetched viewer's folder; without it the test is skipped, and fails where ``CI=true``.

    Args:
        name: package and version, such as "dwv-0.36.4".
        file: a file that must be in it.
    """
    folder = cache_folder() / name
    if (folder / file).is_file():
        return folder
    message = f"{name} is not here: run `bash packaging/setup_long.sh` (it needs npm)"
    if in_ci():
        pytest.fail(message)
    pytest.skip(message)


def find_ohif() -> Path:
    """OHIF's built files."""
    return find_viewer(f"ohif-app-{VERSION}", "dist/index.html") / "dist"


class _Handler(BaseHTTPRequestHandler):
    """Answers from the viewer's folder, or passes the request to Orthanc."""

    protocol_version = "HTTP/1.1"
    dist: Path
    archive: str

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith(f"{DICOMWEB}/"):
            self._pass_on()
        elif path == "/app-config.js":
            text = f"window.config = {json.dumps(CONFIGURATION)};\n"
            self._answer(200, "text/javascript", text.encode())
        else:
            self._file(path)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Nothing: addresses hold UIDs."""

    def _file(self, path: str) -> None:
        file = (self.dist / path.lstrip("/")).resolve()
        inside = file.is_relative_to(self.dist) and file.is_file()
        if not inside and Path(path).suffix in TYPES:
            self._answer(404, "text/plain", b"not found\n")
            return
        if not inside:
            file = self.dist / "index.html"  # the viewer's own router takes the address
        kind = TYPES.get(file.suffix, "application/octet-stream")
        self._answer(200, kind, file.read_bytes())

    def _pass_on(self) -> None:
        headers = {"Accept": self.headers.get("Accept", "*/*"), "Host": self.headers["Host"]}
        request = urllib.request.Request(self.archive + self.path, headers=headers)
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(request, timeout=60) as answer:
                status, content = answer.status, answer.read()
                kind = answer.headers.get("Content-Type", "application/octet-stream")
        except urllib.error.HTTPError as error:
            with error:
                status, content = error.code, error.read()
                kind = error.headers.get("Content-Type", "text/plain")
        self._answer(status, kind, content)

    def _answer(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        # From the browser's cache OHIF 3.12.10 starts too fast for itself and stays blank.
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        try:
            self.wfile.write(content)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the page was left meanwhile


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: the browser drops connections when it leaves a page."""


@contextmanager
def serving(dist: Path, archive: str) -> Iterator[str]:
    """Serve the viewer with Orthanc behind ``/dicom-web``.

    Args:
        dist: the viewer's files.
        archive: Orthanc's root, such as "http://127.0.0.1:8042".

    Yields:
        The address of the viewer, without a slash at the end.
    """
    handler = type("Handler", (_Handler,), {"dist": dist.resolve(), "archive": archive})
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
