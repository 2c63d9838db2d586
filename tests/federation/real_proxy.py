"""A real HTTP proxy (tinyproxy), and TLS in front of it as some hospitals have it."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from pathlib import Path

from federation.wire.pump import Pump
from tests.certificates import Pair
from tests.tools import require_tool
from tests.waiting import wait_for

USER, PASSWORD = "node", "s3cretpass"


class TinyProxy:
    """tinyproxy on the loopback; CONNECT to ``ports`` only, with user and password if asked.

    Args:
        folder: configuration and log.
        ports: that CONNECT may reach.
        port: of its own.
        password: None asks for none.
    """

    def __init__(
        self, folder: Path, ports: tuple[int, ...], port: int, *, password: str | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = port
        self.log = folder / "proxy.log"
        self._configuration = folder / "proxy.conf"
        lines = [f"Port {port}", "Listen 127.0.0.1", "Timeout 60", "Allow 127.0.0.1"]
        lines += [f'LogFile "{self.log}"', "LogLevel Connect", "MaxClients 20"]
        lines += [f"ConnectPort {allowed}" for allowed in ports]
        if password is not None:
            lines.append(f"BasicAuth {USER} {password}")
        self._configuration.write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        program = require_tool("tinyproxy")
        self._process = subprocess.Popen(
            [str(program), "-d", "-c", str(self._configuration)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(self._answers, what="the proxy to listen", seconds=20)

    def kill(self) -> None:
        """SIGKILL: every connection through it breaks."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def connects(self) -> int:
        """CONNECT requests in its log."""
        return self.log.read_text(errors="replace").count("CONNECT ") if self.log.exists() else 0

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False


class TlsInFront:
    """Ends TLS and passes the bytes on to a plain port.

    Args:
        pair: certificate and key.
        port: where the bytes go.
    """

    def __init__(self, pair: Pair, port: int) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(pair.certificate, pair.key)
        self._behind = port
        self._stopping = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        """End everything."""
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(raw,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, raw: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            raw,
            self._context.wrap_socket(raw, server_side=True) as tls,
            socket.create_connection(("127.0.0.1", self._behind)) as plain,
        ):
            tls.setblocking(False)
            plain.setblocking(False)
            Pump(tls, plain).run(self._stopping)
