"""``clinode tools``: one stage on files, no service."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from appliance.cli.output import print_lines

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Style(StrEnum):
    """Scanner styles of the phantom."""

    SIEMENS = "siemens"
    GE = "ge"
    PHILIPS = "philips"


@app.command()
def phantom(
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    patients: Annotated[int, typer.Option("--patients", min=1, max=1000, help="How many.")] = 3,
    style: Annotated[Style, typer.Option("--style", help="Scanner style.")] = Style.SIEMENS,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed, the same data.")] = 0,
    half: Annotated[bool, typer.Option("--half", help="Half resolution.")] = False,
    faults: Annotated[
        bool, typer.Option("--faults", help="The last studies carry the planted faults.")
    ] = False,
) -> None:
    """Write brain MR studies with MS-like lesions as DICOM, and the truth about them."""
    from appliance.demo.phantom import CohortRequest, Fault, write_cohort

    cohort = CohortRequest(
        patients=patients,
        style=style.value,
        seed=seed,
        half_resolution=half,
        faults=tuple(Fault) if faults else (),
    )
    written = write_cohort(cohort, out, done=lambda w: print_lines(f"wrote {w.folder}"))
    print_lines(f"{len(written)} studies in {out}/dicom, the truth in {out}/truth")
