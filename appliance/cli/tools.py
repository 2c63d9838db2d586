"""``clinode tools``: one stage on files, no service."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from appliance.cli import seg_tools
from appliance.cli.deidentify import deidentify
from appliance.cli.output import print_json, print_lines, print_pairs, print_table

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


class Effort(StrEnum):
    """How much work registration and masks take."""

    QUICK = "quick"
    FULL = "full"


Profile = Annotated[Effort, typer.Option("--profile", help="Effort.")]
Threads = Annotated[int, typer.Option("--threads", min=1, max=256, help="Threads.")]


app.command("deidentify")(deidentify)


@app.command()
def classify(
    folder: Annotated[Path, typer.Argument(help="A folder of DICOM files.")],
    settings: Annotated[
        Path | None,
        typer.Option(
            "--settings",
            help="A settings file with the site's own names: the table [series] is enough.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Say what each series is, how sure that is, by which rule, and which would be chosen."""
    from appliance.tools.series import classify_folder, trial_settings

    reports, unreadable = classify_folder(folder, trial_settings(settings))
    if json:
        print_json({"studies": [r.document() for r in reports], "unreadable": unreadable})
        return
    for report in reports:
        print_lines(f"study {report.number} of {len(reports)}")
        rows = report.rows()
        columns = tuple(name.replace("_", " ") for name in rows[0])
        cells = ([("yes" if v is True else v or "-") for v in row.values()] for row in rows)
        print_table(columns, cells, empty="no series")
        for choice in report.chosen():
            number = choice["series"]
            which = "a person must look" if number is None else f"series {number}"
            print_lines(f"  {choice['kind']}: {which}: {choice['why']}")
    if unreadable:
        print_lines(f"{unreadable} files are no readable DICOM")


@app.command()
def convert(
    folder: Annotated[Path, typer.Argument(help="A folder of DICOM files.")],
    out: Annotated[Path, typer.Argument(help="Folder for NIfTI and side-cars.")],
    json: Json = False,
) -> None:
    """Convert every series to NIfTI with a de-identified side-car; refuse what would be wrong."""
    import secrets
    import tempfile

    from appliance.tools.conversion import sidecar_by
    from dicom_bridge.convert.folder import convert_folder

    with tempfile.TemporaryDirectory() as work:
        results = convert_folder(
            folder, out, work=Path(work), sidecar=sidecar_by(secrets.token_bytes(32))
        )
    rows = [
        {
            "series": r.SeriesNumber,
            "kind": str(r.kind),
            "image": r.image.name if r.image else "",
            "engine": r.engine,
            "reason": r.reason,
        }
        for r in results
    ]
    if json:
        print_json(rows)
    else:
        columns = ("series", "kind", "image", "engine", "why not")
        print_table(columns, (tuple(row.values()) for row in rows), empty="no series was found")
    if not any(r.image for r in results):
        raise typer.Exit(1)


@app.command()
def register(
    fixed: Annotated[Path, typer.Argument(help="Reference image (NIfTI).")],
    moving: Annotated[Path, typer.Argument(help="Image to align (NIfTI).")],
    out: Annotated[Path | None, typer.Option("--out", help="The aligned image.")] = None,
    transform: Annotated[
        Path | None, typer.Option("--transform", help="ITK transform, fixed to moving points.")
    ] = None,
    profile: Profile = Effort.FULL,
    threads: Threads = 2,
) -> None:
    """Align two images of one head rigidly."""
    from appliance.imaging.files import RegisterPaths, register_files
    from appliance.imaging.registration import RegistrationOptions

    found = register_files(
        RegisterPaths(fixed, moving, out, transform),
        RegistrationOptions(profile=profile.value, threads=threads),
    )
    print_pairs((("quality", f"{found.quality:.3f}"), ("metric", f"{found.metric:.4f}")))


@app.command()
def deface(
    image: Annotated[Path, typer.Argument(help="Head image (NIfTI).")],
    out: Annotated[Path, typer.Argument(help="The image without face.")],
    profile: Profile = Effort.FULL,
    threads: Threads = 2,
) -> None:
    """Take the face out of a head image; the brain stays as it is."""
    from appliance.imaging.files import deface_file

    removed = deface_file(image, out, profile=profile.value, threads=threads)
    print_lines(f"{removed:.0f} ml were taken out")


@app.command("brain-mask")
def brain_mask(
    image: Annotated[Path, typer.Argument(help="Head image (NIfTI).")],
    out: Annotated[Path, typer.Argument(help="The mask.")],
    profile: Profile = Effort.FULL,
    threads: Threads = 2,
) -> None:
    """Write the brain mask of a head image."""
    import numpy as np

    from appliance.imaging.files import brain_mask_file

    mask = brain_mask_file(image, out, profile=profile.value, threads=threads)
    print_lines(f"the brain has {float(np.count_nonzero(mask.data)) * mask.voxel_ml:.0f} ml")


@app.command()
def qc(
    image: Annotated[Path, typer.Argument(help="FLAIR (or any one image, NIfTI).")],
    second: Annotated[Path | None, typer.Argument(help="T1 of the same study.")] = None,
    profile: Profile = Effort.FULL,
    threads: Threads = 2,
    json: Json = False,
) -> None:
    """Measure image quality and decide: pass, review or fail, with reasons."""
    from appliance.imaging.files import QcOptions, qc_files
    from appliance.imaging.qc import report_json
    from appliance.imaging.qc.record import metric_rows

    report = qc_files(image, second, options=QcOptions(profile=profile.value, threads=threads))
    if json:
        print_json(report_json(report))
    else:
        columns = ("metric", "value", "unit", "better", "review", "fail", "verdict", "what")
        print_table(columns, metric_rows(report), empty="nothing could be measured")
        print_lines("", f"decision: {report.decision}", *(f"  {r}" for r in report.reasons))
    if report.decision == "fail":
        raise typer.Exit(1)


@app.command()
def report(
    out: Annotated[Path, typer.Argument(help="The report to write (HTML).")],
    images: Annotated[list[Path], typer.Argument(help="Images (NIfTI), the reference first.")],
    mask: Annotated[
        list[Path] | None, typer.Option("--mask", help="Brain mask; one per image, in order.")
    ] = None,
    label: Annotated[Path | None, typer.Option("--label", help="Label on the reference.")] = None,
    transform: Annotated[
        list[Path] | None,
        typer.Option("--transform", help="ITK transform of each image after the first."),
    ] = None,
    quality: Annotated[
        Path | None, typer.Option("--qc", help="What `clinode tools qc --json` printed.")
    ] = None,
    site: Annotated[
        Path | None, typer.Option("--site", help="Folder derivatives/qc to compare with.")
    ] = None,
    title: Annotated[str, typer.Option("--title", help="What to call the study.")] = "study",
) -> None:
    """Draw a study's report for people: one HTML file, no node needed."""
    from appliance.reports.files import ReportFiles, content_of
    from appliance.reports.study import render_study

    files = ReportFiles(
        images=tuple(images),
        masks=tuple(mask or ()),
        label=label,
        transforms=tuple(transform or ()),
        quality=quality,
        site=site,
        title=title,
    )
    page = render_study(content_of(files))
    out.write_text(page, encoding="utf-8")
    print_lines(f"wrote {out}")


@app.command()
def segment(
    model: Annotated[Path, typer.Argument(help="Model folder, as `clinode run export` writes.")],
    images: Annotated[
        list[Path], typer.Argument(help="Images in the order of the model's inputs, then OUT.")
    ],
    threads: Threads = 2,
) -> None:
    """Segment images with a model; the last path is the mask to write."""
    from appliance.tools.segmentation import segment_files

    if len(images) < 2:
        raise typer.BadParameter("give at least one image and the mask to write")
    volume = segment_files(model, images[:-1], images[-1], threads=threads)
    print_lines(f"{volume:.2f} ml are segmented")


seg_tools.add_to(app)


@app.command()
def conformance(
    ctx: typer.Context,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write to this file instead of the screen.")
    ] = None,
) -> None:
    """Write the DICOM Conformance Statement (PS3.2 Annex N) of this home's settings."""
    from appliance.tools.conformance import statement_of

    text = statement_of(ctx.obj)
    if out is None:
        print_lines(*text.splitlines())
        return
    out.write_text(text, encoding="utf-8")
    print_lines(f"wrote {out}")
