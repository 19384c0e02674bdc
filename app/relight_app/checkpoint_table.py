"""The table of a run's checkpoints: metrics, labels, why each is kept, and what can be done with it. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence

from relight.checkpoints.listing import CheckpointInfo
from relight.checkpoints.retention import RetentionPlan
from relight_app.formats import count, describe_bytes, describe_metric, short_metric, title_metric
from relight_app.icons import icon
from relight_app.markup import Markup, join, tag, wide_table
from relight_app.navigation import address
from relight_app.tables import build_age

_LABELS = {"best": "best", "pinned": "kept", "parent": "kept", "exported": "on"}


_REASONS = {
    "periodic": "by the clock",
    "best": "new best",
    "stop": "at a stop",
    "signal": "at a signal",
    "exception": "at an error",
    "manual": "asked for",
    "final": "at the end",
}


def build_checkpoints(
    checkpoints: Sequence[CheckpointInfo],
    *,
    best_metric: str | None,
    resume_refusal: str | None,
    branch_from: str | None = None,
    retention: RetentionPlan | None = None,
    limit: int = 200,
) -> Markup:
    """The table of checkpoints, the newest first, each with a menu. `resume_refusal` says why none can be resumed from.

    The menu's actions are "resume", "export" and "pin"/"unpin", with the checkpoint's step; `branch_from`, the run's
    id, adds a way to the form of a branch. `retention` says why each stays, and which the next reclamation removes.
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
        tag("th", "Saved", scope="col"),
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
            branch_from=branch_from,
            why=whys.get(info.name, "") if retention is not None else None,
        )
        for info in shown
    ]
    return join(
        wide_table(heads, rows, label="Checkpoints"),
        tag("p", f"{left_out} older checkpoints are not shown; `relight checkpoints` lists all.", class_="sub")
        if left_out
        else None,
        tag("p", _say_retention(retention), class_="sub") if retention is not None else None,
    )


def _say_retention(plan: RetentionPlan) -> str:
    """Say what the next reclamation would remove, before it does."""
    if not plan.removed:
        return "The next reclamation removes none of them."
    steps = ", ".join(f"{info.step:,}" for info in plan.removed[:8]) + (", …" if len(plan.removed) > 8 else "")
    what = count(len(plan.removed), "checkpoint")
    freed = f" and gives back {describe_bytes(plan.freed_bytes)} at least" if plan.freed_bytes else ""
    return f"The next reclamation, after the next save, removes {what} (step {steps}){freed}. Pin one to keep it."


def _metric_columns(checkpoints: Sequence[CheckpointInfo], best_metric: str | None) -> list[str]:
    """Which metrics get a column: the best metric's first, then losses, then others, four at most."""
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
    branch_from: str | None,
    why: str | None,
) -> Markup:
    labels = [tag("span", label, class_=f"badge {_LABELS.get(label, '')}") for label in info.labels]
    verified = (
        tag("span", icon("verified"), "verified", class_="badge", title="Read back from the disk, every digest right")
        if info.verified
        else tag("span", "not verified yet", class_="badge", title="Durable; it is read back and compared soon")
    )
    menu = f"menu-{info.sequence}"
    return tag(
        "tr",
        tag("td", f"{info.step:,}", class_="right"),
        tag("td", str(info.epoch), class_="right muted"),
        [tag("td", _checkpoint_metric(info, name), class_="right") for name in metrics],
        tag("td", tag("span", labels, verified, class_="row nowrap")),
        _retention_cell(why),
        tag("td", _REASONS.get(info.reason, info.reason), class_="nowrap muted"),
        tag("td", describe_bytes(info.bytes), class_="right nowrap"),
        tag("td", build_age(info.time_s), class_="nowrap muted"),
        tag(
            "td",
            tag(
                "button", icon("more"), class_="icon-button", type="button", data_menu=menu, aria_haspopup="menu",
                aria_expanded="false", aria_label=f"Actions for step {info.step}",
            ),
            tag("div", _checkpoint_menu(info, resume_refusal, branch_from), class_="menu", id=menu, role="menu",
                popover="auto", aria_label=f"Step {info.step}"),
            class_="right actions",
        ),
        data_key=info.sequence,
    )  # fmt: skip


def _retention_cell(why: str | None) -> Markup | None:
    if why is None:
        return None
    if not why:
        return tag("td", tag("span", "removed next", class_="badge warn"), class_="nowrap")
    return tag("td", why, class_="why muted")


def _checkpoint_metric(info: CheckpointInfo, name: str) -> str:
    return describe_metric(name, info.metrics[name]) if name in info.metrics else "–"


def _checkpoint_menu(info: CheckpointInfo, resume_refusal: str | None, branch_from: str | None) -> list[Markup | None]:
    pinned = "pinned" in info.labels
    return [
        _menu_item("Resume from here", "resume", info.step, refusal=resume_refusal),
        _branch_item(branch_from, info.step) if branch_from is not None else None,
        _menu_item("Export these weights", "export", info.step),
        _menu_item("Unpin" if pinned else "Pin, never to be removed", "unpin" if pinned else "pin", info.step),
    ]


def _branch_item(run: str, step: int) -> Markup:
    query = {"id": run, "step": str(step)}
    return tag(
        "a", "Branch from here", class_="menu-link", role="menuitem", tabindex="-1", href=address("branch", **query),
        data_page="branch", data_query=json.dumps(query),
    )  # fmt: skip


def _menu_item(label: str, action: str, step: int, *, refusal: str | None = None) -> Markup:
    return tag(
        "button",
        label,
        tag("span", refusal, class_="sub") if refusal else None,
        type="button",
        role="menuitem",
        tabindex="-1",
        data_action=action,
        data_value=json.dumps(step),
        aria_disabled="true" if refusal else None,
    )
