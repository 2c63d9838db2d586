"""One module per arrow that a worker process does; each has ``run(work) -> StageResult``.

The modules are imported in the worker only: the node itself loads no imaging library.
"""

from __future__ import annotations

from importlib import import_module

from appliance.pipeline.states import ARROWS
from appliance.pipeline.work import StageResult, StageWork

WORKER_STAGES = tuple(arrow.stage for arrow in ARROWS if arrow.worker)


def run_stage(work: StageWork) -> StageResult:
    """Do one stage: files in, files out.

    Raises:
        DataRefused: the data cannot be used; the text is the reason of the quarantine.
        ImageRefused: as above.
        ApplianceError: the stage failed and may be repeated.
    """
    module = import_module(f"{__name__}.{work.stage.value}")
    result: StageResult = module.run(work)
    return result
