"""Flower as a contender: SuperLink with TLS, one SuperNode process per site, apps in processes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from benchmarks.federation.case import (
    REPOSITORY,
    Case,
    ContenderFailed,
    free_port,
    processes,
    read_starts,
)
from benchmarks.federation.environments import python_of
from benchmarks.federation.floor import make_tls
from benchmarks.federation.measured import Figures, Watch, figures

HERE = Path(__file__).parent
_APP = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "bench-app"
version = "1.0.0"
license = {{ file = "LICENSE" }}
dependencies = ["flwr>=1.42.0"]

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "bench"
fab-format-version = 1
flwr-version-target = "1.42.0"

[tool.flwr.app.components]
serverapp = "bench_app.app:server"
clientapp = "bench_app.app:client"

[tool.flwr.app.config]
sites = {sites}
rounds = {rounds}
megabytes = {megabytes}
starts = "{starts}"
"""
_LINK = """\
[superlink]
default = "bench"

[superlink.bench]
address = "127.0.0.1:{port}"
root-certificates = "{authority}"
"""


def _app(case: Case, folder: Path) -> Path:
    app = folder / "app"
    package = app / "bench_app"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    shutil.copy(HERE / "peers" / "flower_app.py", package / "app.py")
    shutil.copy(HERE / "model.py", package / "model.py")
    text = _APP.format(
        sites=case.sites,
        rounds=case.total,
        megabytes=case.megabytes,
        starts=folder / "starts",
    )
    shutil.copy(REPOSITORY / "LICENSE", app / "LICENSE")
    (app / "pyproject.toml").write_text(text)
    return app


def run_flower(case: Case, folder: Path) -> Figures:
    """One repetition."""
    python = python_of("flower")
    make_tls(folder / "tls")
    tls = folder / "tls"
    port, starts = free_port(), folder / "starts"
    home = folder / "home"
    home.mkdir()
    (home / "config.toml").write_text(_LINK.format(port=port, authority=tls / "ca.crt"))
    env = {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "VIRTUAL_ENV": str(python.parent.parent),
        "PATH": f"{python.parent}:/usr/bin:/bin",
    }
    shown: list[str | Path] = [
        "--ssl-certfile",
        tls / "server.crt",
        "--ssl-keyfile",
        tls / "server.key",
    ]
    shown += ["--ssl-ca-certfile", tls / "ca.crt"]
    with processes(folder) as made:
        link: list[str | Path] = [python.with_name("flower-superlink"), *shown, "--port", str(port)]
        link += ["--disable-runtime-dependency-installation"]
        roots = {"server": made.start("server", link, env=env, cwd=folder).pid}
        for name in case.site_names:
            node: list[str | Path] = [
                python.with_name("flower-supernode"),
                "--root-certificates",
                tls / "ca.crt",
            ]
            node += ["--superlink", f"127.0.0.1:{port}", "--port", str(free_port())]
            node += ["--node-config", f'site="{name}"', *shown]
            roots[name] = made.start(name, node, env=env, cwd=folder).pid
        app = _app(case, folder)
        made.wait_for(lambda: _submitted(python, app, env), "submission", 120, every=2)
        watch = Watch(roots)
        try:
            made.wait_for(lambda: len(read_starts(starts)) >= case.total, "rounds", every=0.5)
        finally:
            watch.close()
    return figures(watch, read_starts(starts)[case.warmup :])


def _submitted(python: Path, app: Path, env: dict[str, str]) -> bool:
    command = [str(python.with_name("flwr")), "run", str(app), "bench"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode and "connect" not in (done.stdout + done.stderr).lower():
        raise ContenderFailed(f"flwr run: {(done.stdout + done.stderr).strip()[-300:]}")
    return not done.returncode
