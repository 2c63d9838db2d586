"""NVFLARE as a contender: provisioned with its own authority, real server and client processes."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.federation.case import Case, ContenderFailed, free_port, processes, read_starts
from benchmarks.federation.environments import python_of
from benchmarks.federation.measured import Figures, Watch, figures

HERE = Path(__file__).parent
ADMIN = "admin@bench.org"
HOST = "localhost"
QUICK_S = 0.05
_PROJECT = """\
api_version: 3
name: bench
description: rounds without training
participants:
  - {{name: {host}, type: server, org: bench, fed_learn_port: {port}}}
{clients}
  - {{name: {admin}, type: admin, org: bench, role: project_admin}}
builders:
  - path: nvflare.lighter.impl.workspace.WorkspaceBuilder
    args: {{template_file: [master_template.yml]}}
  - path: nvflare.lighter.impl.static_file.StaticFileBuilder
    args: {{config_folder: config}}
  - path: nvflare.lighter.impl.cert.CertBuilder
  - path: nvflare.lighter.impl.signature.SignatureBuilder
"""


def _provision(case: Case, folder: Path, python: Path) -> Path:
    """Startup kits; gives the folder that holds them."""
    clients = "\n".join(f"  - {{name: {n}, type: client, org: bench}}" for n in case.site_names)
    text = _PROJECT.format(host=HOST, port=free_port(), clients=clients, admin=ADMIN)
    (folder / "project.yml").write_text(text)
    command = [str(python.with_name("nvflare")), "provision", "-p", "project.yml", "-w", "kits"]
    done = subprocess.run(
        [*command, "--force"], cwd=folder, capture_output=True, text=True, check=False
    )
    kits = folder / "kits" / "bench" / "prod_00"
    if not kits.is_dir():
        raise ContenderFailed(f"nvflare provision: {(done.stdout + done.stderr)[-200:]}")
    return kits


def _job(case: Case, folder: Path, *, tuned: bool) -> Path:
    """The job's folder: FedAvg at the server, an executor at the sites, both with our parts."""
    job = folder / "job"
    config, custom = job / "app" / "config", job / "app" / "custom"
    config.mkdir(parents=True)
    custom.mkdir()
    shutil.copy(HERE / "model.py", custom / "model.py")
    shutil.copy(HERE / "peers" / "nvflare_parts.py", custom / "nvflare_parts.py")
    arguments = {
        "num_clients": case.sites,
        "num_rounds": case.total,
        "persistor_id": "",
        "megabytes": case.megabytes,
        "starts": str(folder / "starts"),
    }
    if tuned:
        arguments["task_check_period"] = QUICK_S
    workflow = {"id": "rounds", "path": "nvflare_parts.Rounds", "args": arguments}
    executor = {"tasks": ["train"], "executor": {"path": "nvflare_parts.AddConstant", "args": {}}}
    filters: dict[str, Any] = {"task_data_filters": [], "task_result_filters": []}
    documents = {
        job / "meta.json": {
            "name": "bench",
            "resource_spec": {},
            "min_clients": case.sites,
            "deploy_map": {"app": ["@ALL"]},
        },
        config / "config_fed_server.json": {
            "format_version": 2,
            "workflows": [workflow],
            "components": [],
            **filters,
            **({"server": {"task_request_interval": QUICK_S}} if tuned else {}),
        },
        config / "config_fed_client.json": {
            "format_version": 2,
            "executors": [executor],
            "components": [],
            **filters,
            **({"default_task_fetch_interval": QUICK_S} if tuned else {}),
        },
    }
    for path, document in documents.items():
        path.write_text(json.dumps(document, indent=1))
    return job


def run_nvflare(case: Case, folder: Path, *, tuned: bool = False) -> Figures:
    """One repetition; ``tuned`` shortens every pause that the job's own settings can shorten."""
    python = python_of("nvflare")
    kits = _provision(case, folder, python)
    starts = folder / "starts"
    env = {"PYTHONPATH": "", "VIRTUAL_ENV": str(python.parent.parent)}
    with processes(folder) as made:
        roots = {}
        for name in (HOST, *case.site_names):
            role = "server" if name == HOST else "client"
            command: list[str | Path] = [
                python,
                "-u",
                "-m",
                f"nvflare.private.fed.app.{role}.{role}_train",
            ]
            command += ["-m", kits / name, "-s", f"fed_{role}.json", "--set", "secure_train=true"]
            command += ["org=bench", "config_folder=config"]
            command += [f"uid={name}"] if role == "client" else []
            process = made.start(name, command, env=env, cwd=kits / name)
            roots["server" if name == HOST else name] = process.pid
        job = _job(case, folder, tuned=tuned)
        submit = [str(python), str(HERE / "peers" / "nvflare_submit.py"), str(kits / ADMIN), ADMIN]
        done = subprocess.run(
            [*submit, str(job), str(case.sites)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ContenderFailed(f"submitting: {(done.stdout + done.stderr).strip()[-300:]}")
        watch = Watch(roots)
        try:
            made.wait_for(lambda: len(read_starts(starts)) >= case.total, "rounds", every=0.5)
        finally:
            watch.close()
    return figures(watch, read_starts(starts)[case.warmup :])
