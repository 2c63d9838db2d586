"""The floor's two processes: a bare gRPC stream over mutual TLS, and what durability adds.

``bare``: the model comes down and the update goes up in chunks, in memory, then one averaging pass.
``durable``: SHA-256 at each end of both ways (the server hashes its model once, not once per site)
and one write with fsync of every download and every update; averaging reads the written files.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from benchmarks.federation.model import step_of

MEGABYTE = 1_000_000
BLOCK = 1 << 18
SERVICE = "floor.Floor"
_OPTIONS = (
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 16 << 20),
)


@dataclass(frozen=True, slots=True)
class Setting:
    """What both processes are told."""

    folder: Path
    megabytes: int
    sites: int
    rounds: int
    port: int
    chunk: int
    durable: bool

    @classmethod
    def parse(cls, words: list[str]) -> Setting:
        """From a command line."""
        folder, megabytes, sites, rounds, port, chunk, durable = words
        return cls(
            Path(folder),
            int(megabytes),
            int(sites),
            int(rounds),
            int(port),
            int(chunk),
            durable == "durable",
        )


def _chunks(data: memoryview, size: int) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        yield bytes(data[at : at + size])


class _Sink:
    """Takes an object's chunks: into memory, or hashed and into a file."""

    def __init__(self, setting: Setting, path: Path, memory: memoryview) -> None:
        self._path, self._memory, self._at = path, memory, 0
        self._digest = hashlib.sha256()
        self._file = path.open("wb", buffering=0) if setting.durable else None

    def take(self, data: bytes) -> None:
        """One chunk."""
        if self._file is None:
            self._memory[self._at : self._at + len(data)] = data
            self._at += len(data)
            return
        self._digest.update(data)
        self._file.write(data)

    def close(self) -> None:
        """The object is whole."""
        if self._file is not None:
            self._digest.hexdigest()
            os.fsync(self._file.fileno())
            self._file.close()


class Server:
    """Serves every round's model, takes every update, averages."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        count = setting.megabytes * MEGABYTE // 4
        random = np.random.default_rng(setting.megabytes)
        self._model = random.standard_normal(count, dtype=np.float32)
        self._held = [np.zeros(0 if setting.durable else count, "f4") for _ in range(setting.sites)]
        self._condition = threading.Condition()
        self._round = -1
        self._arrived: set[int] = set()
        self.over = threading.Event()

    def open_round(self) -> None:
        """Stamp the round's beginning and offer its model."""
        with self._condition:
            if self._setting.durable:
                hashlib.sha256(self._model.data.cast("B")).hexdigest()
            with (self._setting.folder / "starts").open("a") as stream:
                stream.write(f"{time.time():.6f}\n")
            self._arrived.clear()
            self._round += 1
            self._condition.notify_all()

    def download(self, request: bytes, _: grpc.ServicerContext) -> Iterator[bytes]:
        """The model of the round that the caller waits for."""
        wanted = int(request)
        with self._condition:
            self._condition.wait_for(lambda: self._round >= wanted)
        yield from _chunks(self._model.data.cast("B"), self._setting.chunk)

    def upload(self, chunks: Iterator[bytes], _: grpc.ServicerContext) -> bytes:
        """One site's update; the last one closes the round."""
        site = int(next(chunks))
        path = self._setting.folder / f"update-{site}.new"
        sink = _Sink(self._setting, path, self._held[site].data.cast("B"))
        for data in chunks:
            sink.take(data)
        sink.close()
        with self._condition:
            self._arrived.add(site)
            last = len(self._arrived) == self._setting.sites
        if last:
            threading.Thread(target=self._close_round, daemon=True).start()
        return b""

    def _close_round(self) -> None:
        self._average()
        if self._round + 2 > self._setting.rounds:
            self.over.set()
        else:
            self.open_round()

    def _average(self) -> None:
        """One pass over all updates in blocks that stay in the cache."""
        setting = self._setting
        files = [setting.folder / f"update-{site}.new" for site in range(setting.sites)]
        sources: list[Any] = self._held
        if setting.durable:
            sources = [np.memmap(path, "<f4", "r") for path in files]
        share = np.float32(1 / setting.sites)
        for at in range(0, self._model.size, BLOCK):
            part = slice(at, at + BLOCK)
            total = sources[0][part] * share
            for source in sources[1:]:
                total += source[part] * share
            self._model[part] = total
        if setting.durable:
            del sources
            for path in files:
                path.unlink()


def serve(setting: Setting) -> None:
    """The server's process."""
    server = Server(setting)
    handlers = {
        "Download": grpc.unary_stream_rpc_method_handler(server.download),
        "Upload": grpc.stream_unary_rpc_method_handler(server.upload),
    }
    made = grpc.server(ThreadPoolExecutor(2 * setting.sites + 2), options=_OPTIONS)
    made.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    keys = setting.folder.parent / "tls"
    credentials = grpc.ssl_server_credentials(
        [((keys / "server.key").read_bytes(), (keys / "server.crt").read_bytes())],
        (keys / "ca.crt").read_bytes(),
        require_client_auth=True,
    )
    made.add_secure_port(f"127.0.0.1:{setting.port}", credentials)
    made.start()
    server.open_round()
    server.over.wait()
    (setting.folder / "over").touch()
    made.stop(1).wait()


def take_part(setting: Setting, site: int) -> None:
    """A client's process."""
    keys = setting.folder.parent / "tls"
    credentials = grpc.ssl_channel_credentials(
        (keys / "ca.crt").read_bytes(),
        (keys / "client.key").read_bytes(),
        (keys / "client.crt").read_bytes(),
    )
    options = (*_OPTIONS, ("grpc.enable_http_proxy", 0))
    channel = grpc.secure_channel(f"127.0.0.1:{setting.port}", credentials, options=options)
    grpc.channel_ready_future(channel).result(30)
    download = channel.unary_stream(f"/{SERVICE}/Download", None, None)
    upload = channel.stream_unary(f"/{SERVICE}/Upload", None, None)
    held = np.zeros(setting.megabytes * MEGABYTE // 4, np.float32)
    path = setting.folder / f"download-{site}"
    for number in range(setting.rounds):
        sink = _Sink(setting, path, held.data.cast("B"))
        for data in download(str(number).encode(), wait_for_ready=True):
            sink.take(data)
        sink.close()
        source = np.memmap(path, "<f4", "r") if setting.durable else held
        np.add(source, np.float32(step_of(str(site), number)), out=held)
        del source
        _send(setting, site, held, upload)
    channel.close()


def _send(setting: Setting, site: int, held: Any, upload: Any) -> None:  # noqa: ANN401
    def _stream() -> Iterator[bytes]:
        digest = hashlib.sha256()
        yield str(site).encode()
        for data in _chunks(held.data.cast("B"), setting.chunk):
            if setting.durable:
                digest.update(data)
            yield data

    upload(_stream())


def main() -> None:
    """``server SETTING...`` or ``client SITE SETTING...``."""
    role, *rest = sys.argv[1:]
    if role == "server":
        serve(Setting.parse(rest))
    else:
        # The server ends with the last round: what the client still waits for is over.
        with contextlib.suppress(grpc.RpcError):
            take_part(Setting.parse(rest[1:]), int(rest[0]))


if __name__ == "__main__":
    main()
