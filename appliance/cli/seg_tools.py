"""``clinode tools seg-write``, ``seg-read`` and ``seg-check``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from appliance.cli.output import print_lines

if TYPE_CHECKING:
    from appliance.tools.segments import ObjectsWritten


class Codes(StrEnum):
    """Known sets of codes."""

    MS_LESIONS = "ms-lesions"
    PROSTATE_ZONES = "prostate-zones"
    PROSTATE_LESIONS = "prostate-lesions"
    GLIOMA_REGIONS = "glioma-regions"


class Made(StrEnum):
    """How a mask came about."""

    AUTOMATIC = "automatic"
    SEMIAUTOMATIC = "semiautomatic"
    MANUAL = "manual"


def add_to(app: typer.Typer) -> None:
    """Put the commands into ``clinode tools``."""
    app.command("seg-write")(seg_write)
    app.command("seg-read")(seg_read)
    app.command("seg-check")(seg_check)


def seg_write(
    series: Annotated[Path, typer.Argument(help="Folder of the source series.")],
    mask: Annotated[Path, typer.Argument(help="Mask (NIfTI) on any grid that covers it.")],
    out: Annotated[Path, typer.Argument(help="The DICOM SEG.")],
    codes: Annotated[Codes | None, typer.Option("--codes", help="What labels mean.")] = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="Own labels (TOML), as seg-read writes them.")
    ] = None,
    made: Annotated[
        Made | None, typer.Option("--made", help="How the mask was made; default semiautomatic.")
    ] = None,
    creator: Annotated[
        str, typer.Option("--creator", help="Who made it (ContentCreatorName).")
    ] = "CLINODE^RESEARCH",
    report: Annotated[
        Path | None, typer.Option("--report", help="Write a TID 1500 report (DICOM SR) too.")
    ] = None,
    captures: Annotated[
        Path | None, typer.Option("--captures", help="Folder for pictures with contours (SC).")
    ] = None,
    each: Annotated[
        bool, typer.Option("--each", help="Every connected piece is a segment of its own.")
    ] = False,
    labelmap: Annotated[
        bool, typer.Option("--labelmap", help="Label Map Segmentation: new viewers only.")
    ] = False,
    part: Annotated[
        bool, typer.Option("--part", help="The mask may cover only a part of the series.")
    ] = False,
) -> None:
    """Write a mask as a DICOM SEG of a series, read it back and compare."""
    from appliance.tools.segments import ObjectPaths, labels_from, write_objects
    from dicom_bridge.seg.files import WriteOptions, algorithm_type

    segments = labels_from(None if codes is None else codes.value, labels)
    way = made or (None if labels is not None else Made.SEMIAUTOMATIC)
    options = WriteOptions(
        segments=segments,
        made=None if way is None else algorithm_type(way.value),
        creator=creator,
        form="labelmap" if labelmap else "binary",
        lesions="each" if each else "together",
        coverage="part" if part else "crop",
    )
    _tell(write_objects(series, mask, ObjectPaths(out, report, captures), options))


def _tell(written: ObjectsWritten) -> None:
    if written.seg is None:
        print_lines("nothing is in the mask: no SEG was written, the report says so")
    else:
        counts = written.seg.segments.items()
        voxels = ", ".join(f"segment {number}: {count} voxels" for number, count in counts)
        print_lines(f"{written.seg.frames} frames, {voxels}")
    if written.report is not None:
        done = written.report
        print_lines(f"report: {done.lesions} lesions, {done.volume_ml:.3f} ml")
    if written.captures is not None:
        print_lines(f"{len(written.captures.paths)} pictures")


def seg_read(
    seg: Annotated[Path, typer.Argument(help="A DICOM SEG.")],
    out: Annotated[Path, typer.Argument(help="Folder for one NIfTI per segment.")],
    series: Annotated[
        Path | None,
        typer.Option("--series", help="Folder of the source series: masks on its whole grid."),
    ] = None,
) -> None:
    """Read a DICOM SEG into NIfTI masks, and what they mean."""
    from dicom_bridge.seg.files import read_seg_files

    print_lines(*(str(path) for path in read_seg_files(seg, out, series)))


def seg_check(
    series: Annotated[Path, typer.Argument(help="Folder of the source series.")],
    seg: Annotated[Path, typer.Argument(help="A DICOM SEG.")],
) -> None:
    """Check that a SEG opens in the usual viewers over its series."""
    from dicom_bridge.seg.files import check_seg_files

    findings = check_seg_files(series, seg)
    print_lines(*(findings or ["nothing is wrong with it"]))
    if findings:
        raise typer.Exit(1)
