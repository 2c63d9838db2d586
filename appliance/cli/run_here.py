"""``clinode run`` on a node's home: what this hospital takes part in, leave, halt, go on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from appliance.cli.output import as_json, print_json, print_lines, print_table
from appliance.control.client import NodeClient
from appliance.home import Home

Run = Annotated[str, typer.Argument(help="Run id, or its unique beginning.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; audited, and told the coordinator.")]


def is_node(home: Path) -> bool:
    """Whether a home folder is a node's."""
    return Home(home).identified.is_dir()


def list_here(home: Path, *, json: bool) -> None:
    """List the runs that this node knows of."""
    with NodeClient(home) as client:
        answer = client.runs()
    if json:
        print_json(as_json(answer)["runs"])
        return
    print_table(
        ("run", "plan", "state", "decided by", "reason", "coordinator"),
        ((r.run, r.name, r.state, r.decided_by, r.reason, r.coordinator) for r in answer.runs),
        empty="no run has been offered to this node yet",
    )


def leave(ctx: typer.Context, run: Run, reason: Reason = "") -> None:
    """At a node: take no further part in a run, for good; its trainer is stopped at once."""
    with NodeClient(ctx.obj) as client:
        print_lines(client.act("run-leave", run, reason=reason).message)


def halt(ctx: typer.Context, reason: Reason = "") -> None:
    """At a node: take part in nothing until `run resume`; the trainer is stopped at once."""
    with NodeClient(ctx.obj) as client:
        print_lines(client.act("runs-halt", "", reason=reason).message)


def resume_here(home: Path) -> None:
    """Take part in runs again after a halt."""
    with NodeClient(home) as client:
        print_lines(client.act("runs-resume", "").message)
