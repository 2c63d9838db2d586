"""The floors: how fast the same bytes travel with nothing around them."""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path

from benchmarks.federation.case import Case, free_port, processes, read_starts
from benchmarks.federation.measured import Figures, Watch, figures
from federation.pki import KeyPair, issue_server, issue_site, make_authority, new_key, save_key

CHUNK_BYTES = 4 << 20


def make_tls(folder: Path) -> None:
    """An authority, a server's and a client's certificate: the kind that clinode itself uses."""
    folder.mkdir(parents=True)
    now = dt.datetime.now(dt.UTC)
    authority = make_authority("bench", now)
    server = issue_server(authority, "bench", ("127.0.0.1", "localhost"), now)
    key = new_key()
    signed = issue_site(authority, ("site-a", "bench"), key.public_key(), now)
    client = KeyPair(key, signed)
    save_key(folder / "server.key", server.key)
    save_key(folder / "client.key", key)
    (folder / "server.crt").write_bytes(server.certificate_pem())
    (folder / "ca.crt").write_bytes(authority.certificate_pem())
    (folder / "client.crt").write_bytes(client.certificate_pem())


def run_floor(case: Case, folder: Path, *, durable: bool, chunk: int = CHUNK_BYTES) -> Figures:
    """One repetition."""
    work = folder / "work"
    work.mkdir(parents=True)
    make_tls(folder / "tls")
    port = free_port()
    # One round more than is counted: its beginning ends the last counted one.
    setting = [
        str(part)
        for part in (
            work,
            case.megabytes,
            case.sites,
            case.total,
            port,
            chunk,
            "durable" if durable else "bare",
        )
    ]
    module = [sys.executable, "-m", "benchmarks.federation.floor_processes"]
    starts = work / "starts"
    with processes(folder) as made:
        server = made.start("server", [*module, "server", *setting])
        made.wait_for(starts.exists, "server", 60)
        roots = {"server": server.pid}
        for site in range(case.sites):
            client = made.start(f"client-{site}", [*module, "client", str(site), *setting])
            roots[f"client-{site}"] = client.pid
        watch = Watch(roots)
        try:
            made.wait_for(lambda: len(read_starts(starts)) >= case.total, "rounds")
        finally:
            watch.close()
    return figures(watch, read_starts(starts)[case.warmup :])
