"""The quality report as JSON (``qc.json``), format 1.

Keys: ``format`` 1; ``decision`` pass, review or fail; ``reasons`` sentences, worst first;
``released`` whether a person let the study through; ``site_studies`` how many studies it was
compared with; ``findings`` [``decision``, ``words``, ``metric`` (may be empty), ``origin``
(threshold, site, geometry, label)]; ``metrics`` [``name``, ``value`` (or null), ``unit``,
``direction``, and where they apply ``threshold`` [review, fail] (each may be null), ``verdict``
and ``z``]. Reports of earlier versions lack ``findings``, ``site_studies``, ``threshold``,
``verdict`` and ``z``; they are read with empty ones.
"""

from __future__ import annotations

from typing import Any

from appliance.errors import ImageRefused
from appliance.imaging.qc.model import Finding, Metric, QcReport
from appliance.quality_table import words_of

FORMAT = 1


def report_json(report: QcReport, *, released: bool = False) -> dict[str, Any]:
    """A report as JSON values.

    Args:
        report: The report.
        released: Whether a person let the study through whatever it says.
    """
    return {
        "format": FORMAT,
        "decision": report.decision,
        "reasons": list(report.reasons),
        "released": released,
        "site_studies": report.site_studies,
        "findings": [
            {
                "decision": found.decision,
                "words": found.words,
                "metric": found.metric,
                "origin": found.origin,
            }
            for found in report.findings
        ],
        "metrics": [_metric_json(metric) for metric in report.metrics],
    }


def report_from_json(document: dict[str, Any]) -> QcReport:
    """The report back from `report_json`, or from what an earlier version wrote.

    Raises:
        ImageRefused: the document has another format or lacks something.
    """
    if document.get("format") != FORMAT:
        raise ImageRefused(f"the quality report has an unknown format: {FORMAT} is known")
    try:
        return QcReport(
            metrics=tuple(_metric(entry) for entry in document["metrics"]),
            decision=document["decision"],
            reasons=tuple(document["reasons"]),
            findings=tuple(Finding(**entry) for entry in document.get("findings", ())),
            site_studies=document.get("site_studies", 0),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ImageRefused("the quality report is damaged: check the study again") from error


def metric_rows(report: QcReport) -> list[tuple[str, ...]]:
    """A report's figures as words for a table.

    Returns:
        Rows of name, value, unit, better direction, bound of review, bound of fail, verdict and
        what the figure is; "-" where there is none.
    """
    return [
        (
            metric.name,
            _figure(metric.value),
            metric.unit,
            metric.direction,
            *(_figure(limit) for limit in metric.threshold or (None, None)),
            metric.verdict or "-",
            words_of(metric.name),
        )
        for metric in report.metrics
    ]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _metric_json(metric: Metric) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": metric.name,
        "value": metric.value,
        "unit": metric.unit,
        "direction": metric.direction,
    }
    if metric.threshold is not None:
        found["threshold"] = list(metric.threshold)
    if metric.verdict is not None:
        found["verdict"] = metric.verdict
    if metric.z is not None:
        found["z"] = metric.z
    return found


def _metric(entry: dict[str, Any]) -> Metric:
    limits = entry.get("threshold")
    return Metric(
        name=entry["name"],
        value=entry["value"],
        unit=entry["unit"],
        direction=entry["direction"],
        threshold=None if limits is None else (limits[0], limits[1]),
        verdict=entry.get("verdict"),
        z=entry.get("z"),
    )
