"""``clinode demo``: three hospitals, their PACS and a coordinator on this machine."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from contextlib import redirect_stdout
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from appliance.cli.output import print_json, print_lines

if TYPE_CHECKING:
    from appliance.demo.orchestrator import Demonstration, DemoOptions
    from appliance.demo.outcome import Outcome

DEFAULT_ROUNDS = 12
DEFAULT_LABELLED = 9

app = typer.Typer()
"""Holds the one command, which the root takes over."""


class PacsKind(StrEnum):
    """Which PACS the hospitals get."""

    AUTO = "auto"
    ORTHANC = "orthanc"
    EMBEDDED = "embedded"


@app.command("demo")
def run_demo(
    hospitals: Annotated[int, typer.Option(min=1, max=8, help="How many hospitals.")] = 3,
    rounds: Annotated[int, typer.Option(min=1, max=500, help="Federated rounds.")] = DEFAULT_ROUNDS,
    pacs: Annotated[PacsKind, typer.Option(help="Orthanc where it is installed.")] = PacsKind.AUTO,
    workdir: Annotated[
        Path | None, typer.Option(help="New folder for everything; default a temporary one.")
    ] = None,
    dicom: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of REAL studies for one hospital; repeat for the next ones."),
    ] = None,
    full: Annotated[bool, typer.Option(help="Full voxel sizes in place of half.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the phantoms.")] = 20,
    keep: Annotated[
        bool, typer.Option(help="Leave everything running and say how to look at it.")
    ] = False,
    report: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("demo-report.html"),
    capture: Annotated[
        Path | None, typer.Option(hidden=True, help="Keep every wire message (tests).")
    ] = None,
    labelled: Annotated[
        int,
        typer.Option(min=5, max=50, hidden=True, help="Labelled phantoms per hospital (tests)."),
    ] = DEFAULT_LABELLED,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the whole way on this machine: from the PACS and back to the PACS."""
    from appliance.demo.orchestrator import DemoOptions

    kind, notes = choose_pacs(pacs)
    made = workdir is None
    folder = Path(tempfile.mkdtemp(prefix="clinode-demo-")) if workdir is None else workdir
    if not made and folder.exists() and any(folder.iterdir()):
        raise typer.BadParameter(f"{folder} is not empty: name a new folder", param_hint="workdir")
    notes += private_network(keep)
    options = DemoOptions(
        hospitals=hospitals,
        rounds=rounds,
        pacs=kind,
        workdir=folder.resolve(),
        dicom=tuple(path.resolve() for path in dicom or ()),
        full=full,
        seed=seed,
        notes=tuple(notes),
        capture=capture,
        labelled=labelled,
    )
    outcome = demonstrate(options, report, keep=keep, json=json)
    if made and not keep and not outcome.problems:
        shutil.rmtree(folder, ignore_errors=True)
    elif not json:
        print_lines(f"Folder: {folder}")
    if outcome.problems:
        raise typer.Exit(1)


def choose_pacs(asked: PacsKind) -> tuple[str, list[str]]:
    """Orthanc or the embedded PACS, and what to say about it."""
    from appliance.demo.pacs import find_orthanc

    present = find_orthanc() is not None
    if asked is PacsKind.ORTHANC and not present:
        raise typer.BadParameter(
            "Orthanc is not installed (Debian, Ubuntu: apt-get install orthanc orthanc-dicomweb); "
            "use --pacs embedded",
            param_hint="pacs",
        )
    if asked is PacsKind.EMBEDDED:
        return "embedded", ["the embedded PACS (pynetdicom's Query/Retrieve application) was asked"]
    if present:
        return "orthanc", []
    why = (
        "Orthanc is not installed, so each hospital has the embedded PACS "
        "(pynetdicom's Query/Retrieve application)"
    )
    return "embedded", [why]


def private_network(keep: bool) -> list[str]:
    """Enter a network of our own unless the operator wants to look in from outside."""
    from appliance.demo.namespace import enter_private_network

    if keep:
        return ["the servers listen on this machine's own network, since --keep was given"]
    why_not = enter_private_network()
    return [f"no private network for the demonstration: {why_not}"] if why_not else []


def demonstrate(options: DemoOptions, report: Path, *, keep: bool, json: bool) -> Outcome:
    """Run, gather, report; stop everything unless it is kept."""
    from rich.console import Console

    from appliance.demo.gather import gather
    from appliance.demo.orchestrator import Demonstration, keep_running
    from appliance.demo.progress import DemoProgress
    from appliance.demo.report import write_report
    from appliance.demo.table import print_outcome
    from appliance.log import configure_log

    configure_log(level="warning")
    started, begun = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S"), time.monotonic()
    with DemoProgress() as progress:
        demo = Demonstration(options, progress)
        try:
            demo.prepare()
            demo.run()
            progress.phase("fresh look into each PACS")
            outcome = gather(demo, started, begun)
        except BaseException:  # edge: every process is stopped whatever happened
            demo.stop()
            raise
    write_report(outcome, report)
    if json:
        print_json(outcome.document())
    else:
        print_outcome(outcome, Console(highlight=False, width=None if sys.stdout.isatty() else 190))
        print_lines(f"Report: {report.resolve()}")
    if keep:
        with redirect_stdout(sys.stderr if json else sys.stdout):
            print_lines(*ways_in(demo))
        keep_running(demo)
    demo.stop()
    return outcome


def ways_in(demo: Demonstration) -> list[str]:
    """How to look at what is still running."""
    program = f"{sys.executable} -m appliance.cli"
    lines = ["", "Everything is still running; stop it with Ctrl+C. To look at it:"]
    for hospital in demo.hospitals:
        web = getattr(hospital.pacs, "web_url", "")
        lines.append(f"  {hospital.name}: PACS {web}" if web else f"  {hospital.name}: no web page")
        lines.append(f"    terminal UI  {program} --home {hospital.home} tui")
    board = demo.coordinator_home / "runs"
    lines.append(f"  TensorBoard: {Path(sys.executable).parent}/tensorboard --logdir {board}")
    lines.append(f"  the run: {program} --home {demo.coordinator_home} run show {demo.run_id}")
    return lines
