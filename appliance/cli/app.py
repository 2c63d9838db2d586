"""The root of the command line: groups, the home folder, errors and exit codes.

Exit codes: 0 done, 1 the job failed (one clear sentence on standard error), 2 wrong usage or
settings.
"""

from __future__ import annotations

import sys
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.cli import (
    audit,
    coordinator,
    dataset,
    demo,
    model,
    node,
    pacs,
    plan,
    result,
    run,
    study,
    tools,
)
from appliance.cli.output import print_error, print_lines
from appliance.log import configure_log

EXIT_FAILED = 1
EXIT_USAGE = 2

GROUPS = {
    "node": (node.app, "Set up, enrol, check and run this hospital's node."),
    "pacs": (pacs.app, "Ask the PACS: echo, find, pull."),
    "study": (study.app, "The studies on their way."),
    "dataset": (dataset.app, "Data sets: create, freeze, approve, revoke."),
    "plan": (plan.app, "Training plans: read, approve, reject."),
    "model": (model.app, "Models offered for inference: accept or reject."),
    "result": (result.app, "Results: release, hold, send to the PACS."),
    "audit": (audit.app, "The audit log and its hash chain."),
    "coordinator": (coordinator.app, "Set up and run the federation's coordinator, and its sites."),
    "run": (run.app, "Training runs: at the coordinator, and this node's part in them."),
    "tools": (tools.app, "One stage on files, no service."),
}

app = typer.Typer(
    name="clinode",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


UsageError: type[Any] = typer.BadParameter.__mro__[1]
"""The parser's root of all wrong usage, which the library does not export by name."""


def _print_version(asked: bool) -> None:
    if asked:
        print_lines(f"clinode {version('clinode')}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    home: Annotated[
        Path,
        typer.Option(
            "--home", envvar="CLINODE_HOME", help="Home folder of the node or coordinator."
        ),
    ] = Path("~/.clinode"),
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Version.")
    ] = False,
) -> None:
    """clinode: the hospital node between the PACS and a research federation."""
    ctx.obj = home.expanduser()


for _name, (_group, _help) in GROUPS.items():
    app.add_typer(_group, name=_name, help=_help)
app.registered_commands.extend(demo.app.registered_commands)


@app.command("tui")
def tui(
    ctx: typer.Context,
    plain: Annotated[
        bool, typer.Option("--plain", help="Print the screens as lines of text and leave.")
    ] = False,
    read_only: Annotated[bool, typer.Option("--read-only", help="Offer no actions.")] = False,
) -> None:
    """Open the node operator's terminal UI."""
    found = list(entry_points(group="clinode.tui", name="app"))
    if not found:
        print_error("the terminal UI is not installed: reinstall clinode with its `tui` package")
        raise typer.Exit(EXIT_FAILED)
    run = found[0].load()
    raise typer.Exit(run(ctx.obj, plain=plain, read_only=read_only))


def main() -> None:
    """Run the command line and leave with the exit code of DESIGN.md."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Run one command line.

    Args:
        arguments: without the program's name.

    Returns:
        The exit code.
    """
    from appliance.cli.failures import exit_code_of

    configure_log(level="warning")
    try:
        result = app(arguments, prog_name="clinode", standalone_mode=False)
    except typer.Exit as error:
        return error.exit_code
    except UsageError as error:
        error.show()
        return EXIT_USAGE
    except typer.Abort:
        print_error("stopped by the operator")
        return EXIT_FAILED
    except Exception as error:  # edge: the command line turns every error into one sentence
        return exit_code_of(error)
    return result if isinstance(result, int) else 0
