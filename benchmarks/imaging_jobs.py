"""What ``benchmarks.imaging`` measures, each in a process of its own.

``python -m benchmarks.imaging_jobs JOB ARGUMENTS`` prints one line of JSON: wall and processor
seconds, peak resident memory, and what was found.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

Matrix = Any
STAGES = ("classify", "deidentify", "convert", "deface", "register", "check", "publish")
KEY = "st000000000001"


def study(folder: str, threads: str, profile: str) -> dict[str, Any]:
    """The stages from received instances to ready images.

    Args:
        folder: A work folder with DICOM files in ``dicom/``.
        threads: Threads of the stages.
        profile: "quick" or "full".
    """
    from appliance.home import Home, create_keys
    from appliance.pipeline.stages import run_stage
    from appliance.pipeline.states import Stage
    from appliance.pipeline.work import RECEIVED, StageWork
    from appliance.settings import settings_from

    home = Home(Path(folder), "p")
    home.create()
    create_keys(home)
    directory = home.study(KEY)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / RECEIVED).symlink_to(Path(folder) / "dicom", target_is_directory=True)
    settings = settings_from(
        {
            "node": {"site": "a", "project": "p"},
            "imaging": {"profile": profile},
            "qc": {"review": "pass"},
        }
    )
    split: dict[str, float] = {}
    refused = ""
    for name in STAGES:
        stage = Stage(name)
        out = directory / "stages" / f"{name}.tmp"
        out.mkdir(parents=True)
        work = StageWork(stage, KEY, home, directory, out, settings, "s", "v", threads=int(threads))
        begun = time.perf_counter()
        result = run_stage(work)
        split[name] = time.perf_counter() - begun
        refused = refused or result.refused or ""
        out.rename(work.of(stage))
    return {"split": split, "note": refused}


def convert(engine: str, folder: str) -> dict[str, Any]:
    """Both series of a study to NIfTI: "clinode" or "dcm2niix"."""
    series = [path for path in sorted(Path(folder, "dicom").iterdir()) if path.is_dir()]
    out = Path(folder, f"out-{engine}")
    out.mkdir(parents=True)
    if engine == "dcm2niix":
        from dcm2niix import bin as program

        for path in series:
            command = [str(program), "-z", "n", "-o", str(out), str(path)]
            subprocess.run(command, check=True, capture_output=True)
        return {}
    from dicom_bridge.convert import convert_series

    for path in series:
        files = sorted(path.iterdir())
        convert_series(files, out / f"{path.name}.nii", work=out / "work")
    return {}


def register(engine: str, folder: str, threads: str) -> dict[str, Any]:
    """A pair, ``fixed.nii`` and ``moving.nii``, by one of `ENGINES`; reading is not timed."""
    timed = ENGINES[engine](Path(folder, "fixed.nii"), Path(folder, "moving.nii"), int(threads))
    wall, cpu = time.perf_counter(), time.process_time()
    found = timed()
    return {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "matrix": np.asarray(found).tolist(),
    }


def _clinode(profile: str) -> Callable[[Path, Path, int], Callable[[], Matrix]]:
    def ready(fixed: Path, moving: Path, threads: int) -> Callable[[], Matrix]:
        from appliance.imaging.registration import RegistrationOptions, register_rigid
        from appliance.imaging.volume import load_volume

        pair = load_volume(fixed), load_volume(moving)
        options = RegistrationOptions(profile=profile, threads=threads)  # type: ignore[arg-type]
        return lambda: register_rigid(*pair, options=options).matrix

    return ready


def _greedy(fixed: Path, moving: Path, threads: int) -> Callable[[], Matrix]:
    """PICSL greedy: six degrees of freedom, mutual information, the schedule of its manual."""
    from appliance.imaging.itk import sitk

    greedy_module: Any = importlib.import_module("picsl_greedy")

    pair = [sitk.ReadImage(str(path), sitk.sitkFloat32) for path in (fixed, moving)]

    def run() -> Matrix:
        greedy = greedy_module.Greedy3D()
        greedy.execute(
            f"-threads {threads} -a -dof 6 -m NMI -n 100x50x10 -ia-image-centers "
            "-i fixed moving -o found",
            fixed=pair[0],
            moving=pair[1],
            found=None,
        )
        return greedy["found"]

    return run


def _elastix(fixed: Path, moving: Path, threads: int) -> Callable[[], Matrix]:
    """elastix with its default rigid parameter map."""
    from appliance.imaging.itk import from_itk_transform, sitk

    itk: Any = importlib.import_module("itk")

    pair = [itk.imread(str(path), itk.F) for path in (fixed, moving)]
    parameters = itk.ParameterObject.New()
    parameters.AddParameterMap(parameters.GetDefaultParameterMap("rigid"))

    def run() -> Matrix:
        _, result = itk.elastix_registration_method(
            *pair, parameter_object=parameters, number_of_threads=threads, log_to_console=False
        )
        found = result.GetParameterMap(0)
        transform = sitk.Euler3DTransform()
        transform.SetComputeZYX(found["ComputeZYX"][0] == "true")
        transform.SetCenter([float(v) for v in found["CenterOfRotationPoint"]])
        transform.SetParameters([float(v) for v in found["TransformParameters"]])
        return from_itk_transform(transform)

    return run


def _sitk(fixed: Path, moving: Path, threads: int) -> Callable[[], Matrix]:
    """SimpleITK as its registration notebook does it: 1 % random samples, three levels."""
    from appliance.imaging.itk import from_itk_transform, itk_threads, sitk

    pair = [sitk.ReadImage(str(path), sitk.sitkFloat32) for path in (fixed, moving)]

    def run() -> Matrix:
        geometry = sitk.CenteredTransformInitializerFilter.GEOMETRY
        start = sitk.CenteredTransformInitializer(*pair, sitk.Euler3DTransform(), geometry)
        method = sitk.ImageRegistrationMethod()
        method.SetMetricAsMattesMutualInformation(numberOfHistogramBins=50)
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(0.01, 1)
        method.SetInterpolator(sitk.sitkLinear)
        method.SetOptimizerAsGradientDescent(1.0, 100, 1e-6, 10)
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetShrinkFactorsPerLevel([4, 2, 1])
        method.SetSmoothingSigmasPerLevel([2, 1, 0])
        method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
        method.SetInitialTransform(start, inPlace=False)
        with itk_threads(threads):
            return from_itk_transform(method.Execute(*pair))

    return run


ENGINES: dict[str, Callable[[Path, Path, int], Callable[[], Matrix]]] = {
    "clinode quick": _clinode("quick"),
    "clinode full": _clinode("full"),
    "picsl-greedy": _greedy,
    "itk-elastix": _elastix,
    "SimpleITK example": _sitk,
}
JOBS: dict[str, Callable[..., dict[str, Any]]] = {
    "study": study,
    "convert": convert,
    "register": register,
}


class Peak:
    """The largest resident memory of this process and its children together, looked at often.

    ``getrusage`` is of no use here: its peak is inherited from the process that started this one.
    """

    def __init__(self) -> None:
        self.mib = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> float:
        """Stop looking; MiB."""
        self._over.set()
        self._thread.join()
        return self.mib

    def _watch(self) -> None:
        own = psutil.Process()
        while True:
            total = 0
            for process in (own, *own.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    total += process.memory_info().rss
            self.mib = max(self.mib, total / 2**20)
            if self._over.wait(0.03):
                return


def main() -> int:
    """Run one job and print its figures."""
    peak = Peak()
    wall, cpu = time.perf_counter(), time.process_time()
    found = JOBS[sys.argv[1]](*sys.argv[2:])
    below = resource.getrusage(resource.RUSAGE_CHILDREN)
    figures = {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu + below.ru_utime + below.ru_stime,
        "peak_mib": peak.end(),
    }
    print("FIGURES " + json.dumps(figures | found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
