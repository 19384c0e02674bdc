"""The strip of exported weights: the export in progress, and download links for the finished ones."""

from __future__ import annotations

from collections.abc import Sequence

from relight.checkpoints.listing import CheckpointInfo
from relight.overview.exports import ExportFile
from relight.wording import describe_bytes
from relight_app.icons import icon
from relight_app.jobs import Job
from relight_app.markup import Markup, join, tag
from relight_app.parts.moments import build_age
from relight_app.parts.notice import build_problem
from relight_app.problems import explain
from relight_app.urls import download_url


def build_export_strip(
    exports: Sequence[ExportFile], *, run: str, job: Job | None, best: CheckpointInfo | None
) -> Markup | None:
    """Build the export in progress or its error, and the newest export with its Download button. None without any."""
    parts: list[Markup] = []
    if job is not None and job.state == "running":
        parts.append(
            tag(
                "div",
                tag("span", class_="spinner", aria_hidden="true"),
                tag("span", "Exporting: reading the weights, checking their digests, writing the file."),
                class_="notice plain row",
                role="status",
            )
        )
    elif job is not None and job.error is not None:
        parts.append(build_problem(explain(job.error), key="export"))
    if exports:
        newest = _newest(exports, job)
        parts.append(_build_ready(newest, exports, run=run, best=best))
    return tag("div", parts, class_="stack") if parts else None


def _newest(exports: Sequence[ExportFile], job: Job | None) -> ExportFile:
    """Return the export that was requested last: one that existed already keeps its older time."""
    if job is not None and job.result is not None:
        for file in exports:
            if file.name == job.result["file"]:
                return file
    return exports[0]


def _build_ready(file: ExportFile, exports: Sequence[ExportFile], *, run: str, best: CheckpointInfo | None) -> Markup:
    compared = None
    if file.step is not None and best is not None:
        compared = "best so far" if file.step == best.step else f"step {file.step:,}; step {best.step:,} is better"
    digest = tag("span", f"sha256 {file.sha256[:12]}…", class_="mono", title=file.sha256) if file.sha256 else None
    exported = tag("span", "exported ", build_age(file.time_s))
    others = [other for other in exports if other is not file][:6]
    return tag(
        "div",
        tag("span", file.name, class_="mono"),
        tag("span", join(describe_bytes(file.bytes), compared, digest, exported, separator=" · "), class_="sub"),
        tag("a", icon("download"), "Download", class_="button solid push", role="button",
            href=download_url(run, file.name), download=file.name),
        tag(
            "div", "Earlier: ",
            [
                [", " if index else "", tag("a", other.name, class_="link mono", href=download_url(run, other.name),
                                            download=other.name)]
                for index, other in enumerate(others)
            ],
            class_="sub whole",
        ) if others else None,
        class_="notice plain row",
    )  # fmt: skip
