"""The table of a run's checkpoints: metrics, labels, why each is kept, and a menu of actions. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from relight.checkpoints.export import FORMATS
from relight.checkpoints.listing import CheckpointInfo
from relight.checkpoints.retention import RetentionPlan
from relight.wording import count, describe_bytes
from relight_app.formats import describe_metric, short_metric, title_metric
from relight_app.icons import icon
from relight_app.markup import Markup, tag, wide_table
from relight_app.navigation import address
from relight_app.parts.controls import menu, menu_item, menu_link
from relight_app.parts.moments import build_age

_LABELS = {"best": "best", "pinned": "kept", "parent": "kept", "exported": "on"}
"""The class of a label's badge in view.css."""
_TRIGGERS = {
    "periodic": "schedule",
    "best": "new best",
    "stop": "stop",
    "signal": "signal",
    "exception": "error",
    "manual": "manual",
    "final": "end of run",
}
"""What to call `CheckpointInfo.reason`."""


def build_checkpoints(
    checkpoints: Sequence[CheckpointInfo],
    *,
    best_metric: str | None,
    resume_refusal: str | None,
    run: str,
    retention: RetentionPlan | None = None,
    limit: int = 200,
) -> Markup:
    """Build the table of the newest `limit` checkpoints of `run`, newest first, each with a menu.

    The menu resumes, branches, exports and pins. `resume_refusal` says why the run cannot be resumed now. `retention`
    says why each checkpoint is kept, and which ones will be deleted.
    """
    whys = {info.name: ", ".join(why) for info, why in retention.kept} if retention is not None else {}
    metrics = _metric_columns(checkpoints, best_metric)
    newest_first = sorted(checkpoints, key=lambda info: info.sequence, reverse=True)
    shown = newest_first[:limit]
    heads = [
        tag("th", "Step", scope="col", class_="right"),
        tag("th", "Epoch", scope="col", class_="right"),
        [tag("th", title_metric(name), scope="col", class_="right") for name in metrics],
        tag("th", "Labels", scope="col"),
        tag("th", "Kept because", scope="col") if retention is not None else None,
        tag("th", "Trigger", scope="col"),
        tag("th", "Size", scope="col", class_="right"),
        tag("th", "Age", scope="col"),
        tag("th", tag("span", "Actions", class_="unseen"), scope="col", class_="actions"),
    ]
    left_out = len(newest_first) - len(shown)
    rows = [
        _checkpoint_row(
            info,
            metrics,
            resume_refusal,
            run=run,
            why=whys.get(info.name, "") if retention is not None else None,
        )
        for info in shown
    ]
    return tag(
        "div",
        wide_table(heads, rows, label="Checkpoints"),
        _build_left_out(left_out, run) if left_out else None,
        tag("p", _describe_retention(retention), class_="sub") if retention is not None else None,
        class_="stack",
    )


def _build_left_out(left_out: int, run: str) -> Markup:
    command = tag("span", f"relight checkpoints {run}", class_="mono")
    words = f"{count(left_out, 'older checkpoint')} not shown. To list all, run "
    return tag("p", words, command, " in a terminal.", class_="sub")


def _describe_retention(plan: RetentionPlan) -> str:
    if not plan.removed:
        return "Nothing will be deleted."
    steps = ", ".join(f"{info.step:,}" for info in plan.removed[:8]) + (", …" if len(plan.removed) > 8 else "")
    what = count(len(plan.removed), "checkpoint")
    word = "step" if len(plan.removed) == 1 else "steps"
    freed = f" and frees at least {describe_bytes(plan.freed_bytes)}" if plan.freed_bytes else ""
    return f"After the next save, Relight deletes {what} ({word} {steps}){freed}. Pin a checkpoint to keep it."


def _metric_columns(checkpoints: Sequence[CheckpointInfo], best_metric: str | None) -> list[str]:
    """Choose at most four metrics for columns: the best metric first, then losses, then others."""
    names = {name for info in checkpoints for name in info.metrics if short_metric(name) != "lr"}
    if best_metric:
        names.discard(best_metric)
    ranked = sorted(names, key=lambda name: (short_metric(name) != "loss", not name.startswith("validation/"), name))
    return ([best_metric] if best_metric else []) + ranked[:3]


def _checkpoint_row(
    info: CheckpointInfo,
    metrics: Sequence[str],
    resume_refusal: str | None,
    *,
    run: str,
    why: str | None,
) -> Markup:
    labels = [tag("span", label, class_=f"badge {_LABELS.get(label, '')}") for label in info.labels]
    verified = (
        tag("span", icon("verified"), "verified", class_="badge", title="Read back from the disk; every digest matches")
        if info.verified
        else tag("span", "not verified yet", class_="badge", title="Durable; will be read back and checked soon")
    )
    return tag(
        "tr",
        tag("td", f"{info.step:,}", class_="right"),
        tag("td", str(info.epoch), class_="right muted"),
        [tag("td", _checkpoint_metric(info, name), class_="right") for name in metrics],
        tag("td", tag("span", labels, verified, class_="row nowrap")),
        _retention_cell(why),
        tag("td", _TRIGGERS.get(info.reason, info.reason), class_="nowrap muted"),
        tag("td", describe_bytes(info.bytes), class_="right nowrap"),
        tag("td", build_age(info.time_s), class_="nowrap muted"),
        tag(
            "td",
            menu(_checkpoint_menu(info, resume_refusal, run), key=str(info.sequence), label=f"step {info.step}"),
            class_="right actions",
        ),
        data_key=info.sequence,
    )  # fmt: skip


def _retention_cell(why: str | None) -> Markup | None:
    if why is None:
        return None
    if not why:
        return tag("td", tag("span", "deleted next", class_="badge warn"), class_="nowrap")
    return tag("td", why, class_="why muted")


def _checkpoint_metric(info: CheckpointInfo, name: str) -> str:
    return describe_metric(name, info.metrics[name]) if name in info.metrics else "–"


def _checkpoint_menu(info: CheckpointInfo, resume_refusal: str | None, run: str) -> list[Markup]:
    pinned = "pinned" in info.labels
    here = {"run": run, "step": info.step}
    return [
        menu_item("Resume from here", "resume", here, refusal=resume_refusal),
        menu_link("Branch from here", address("branch", id=run, step=str(info.step))),
        *(
            menu_item(f"Export weights (.{format})", "export", {"run": run, "which": info.step, "format": format})
            for format in FORMATS
        ),
        menu_item("Unpin" if pinned else "Pin (never delete)", "pin", here | {"on": not pinned}),
    ]
