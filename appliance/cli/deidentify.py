"""``clinode tools deidentify``: folders of DICOM without identity."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from appliance.cli.output import print_error, print_json, print_lines, print_table, printable

if TYPE_CHECKING:
    from dicom_bridge.deid import TreeSummary


def _print_profile(asked: bool) -> None:
    if asked:
        from dicom_bridge.deid.profile_text import profile_text

        sys.stdout.write(profile_text())
        raise typer.Exit


def deidentify(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN", help="A folder of DICOM files of any kind and depth, or one file."
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="Folder for the outputs, outside IN; made if absent."),
    ],
    profile: Annotated[
        Path | None,
        typer.Option("--profile", help="What to do, as TOML; default: Basic Profile, no options."),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            "--key",
            help="The project's secret: the same key gives the same pseudonyms, UIDs and date "
            "shifts. Made if absent. Without it a key is made for this run and thrown away.",
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="Write a JSON report: a proof per series.")
    ] = None,
    quarantine: Annotated[
        Path | None,
        typer.Option(
            "--quarantine", help="Copy refused files here. They are as identified as before!"
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, max=256, help="Processes that work side by side.")
    ] = 2,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would happen; write no output.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the report instead of a summary.")
    ] = False,
    _profile_text: Annotated[
        bool,
        typer.Option(
            "--print-profile",
            callback=_print_profile,
            is_eager=True,
            help="Print a commented profile to start from, and leave.",
        ),
    ] = False,
) -> None:
    """Remove identity from DICOM by PS3.15 Annex E; what cannot be decided is refused, with why.

    Outputs are named by their new UIDs: OUT/study/series/instance.dcm. A run that was stopped goes
    on where it was when it is given the same IN, OUT, --profile and --key. Refused files leave
    nothing in OUT. Exit code 0: done (also when some files were refused); 1: nothing could be
    written; 2: wrong usage or profile.

    docs/deidentify.md has the whole story.
    """
    from appliance.home import key_file
    from dicom_bridge.deid import DeidentifyRequest, Profile, Pseudonymizer, deidentify_tree

    chosen = Profile.load(profile) if profile else Profile.basic()
    request = DeidentifyRequest(
        source=source,
        destination=out,
        pseudonymizer=Pseudonymizer(
            key_file(None if dry_run and not _there(key) else key), "tools"
        ),
        profile=chosen,
        report=report,
        quarantine=quarantine,
        workers=workers,
        dry_run=dry_run,
    )
    with _progress() as progress:
        summary = deidentify_tree(request, progress)
    if json:
        print_json(summary.to_json())
    else:
        _print_summary(summary, kept_key=key is not None)
    if not summary.written and not summary.unchanged:
        print_error("nothing could be written: no file of the input could be de-identified")
        raise typer.Exit(1)


def _there(key: Path | None) -> bool:
    return key is not None and key.exists()


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error where that is a terminal, nothing otherwise."""
    if not sys.stderr.isatty():
        yield lambda _done, _all: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("files", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print_summary(summary: TreeSummary, *, kept_key: bool) -> None:
    """Counts, then reasons, then kinds."""
    verb = "would be written" if summary.dry_run else "written"
    parts = [f"{summary.written} of {summary.files} files {verb}"]
    if summary.unchanged:
        parts.append(f"{summary.unchanged} were there already, verified")
    if summary.duplicates:
        parts.append(f"{summary.duplicates} duplicates")
    parts.append(f"{len(summary.refused)} refused")
    speed = f"; {summary.per_second:.0f} per second" if summary.written else ""
    print_lines(", ".join(parts) + speed)
    for what, count in summary.skipped.items():
        print_lines(f"  {count} x skipped: {what}")
    for reason, count in summary.reasons.items():
        print_lines(f"  {count} x refused: {reason}")
    if summary.series:
        refused = summary.refused_kinds
        names = [*summary.kinds, *(kind for kind in refused if kind not in summary.kinds)]
        rows = [
            (printable(kind), summary.kinds.get(kind, 0), refused.get(kind, 0)) for kind in names
        ]
        print_lines("")
        print_table(("kind", "out", "refused"), rows, empty="")
    if not kept_key and summary.written and not summary.dry_run:
        print_lines("", "the key of this run is gone: with --key FILE a later run fits to this one")
