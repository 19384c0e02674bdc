"""What is asked before runs are deleted: what that frees, and what cannot be deleted."""

from __future__ import annotations

from relight.errors import RelightError
from relight.runs.trash import plan_deletion
from relight.wording import count, describe_bytes
from relight_app.engine import Engine
from relight_app.markup import Markup, tag
from relight_app.parts.part import Query

_SHOWN = 12


def build_deletion(engine: Engine, query: Query) -> Markup:
    """Build the question for the runs in `ids`, separated by commas."""
    layouts, missing = [], []
    for name in filter(None, query.get("ids", "").split(",")):
        try:
            layouts.append(engine.find_layout(name))
        except RelightError as error:
            missing.append(str(error))
    plans = plan_deletion(layouts)
    going = [plan for plan in plans if plan.refusal is None]
    refused = missing + [plan.refusal for plan in plans if plan.refusal is not None]
    rows = [
        tag("li", plan.name, tag("span", f" {plan.run}, {describe_bytes(plan.bytes)}", class_="sub"),
            tag("span", f", with {count(plan.exports, 'exported file')}", class_="sub") if plan.exports else None)
        for plan in going[:_SHOWN]
    ]  # fmt: skip
    if len(going) > _SHOWN:
        rows.append(tag("li", f"and {count(len(going) - _SHOWN, 'more run')}", class_="sub"))
    freed = describe_bytes(sum(plan.bytes for plan in going))
    words: list[object] = ["None of these runs can be deleted now."]
    if going:
        words = [
            f"{count(len(going), 'run')} will move to the trash, which frees {freed} after seven days. Until then you "
            "can bring a run back in a terminal: ",
            tag("span", "relight restore RUN", class_="mono"),
        ]
    return tag(
        "div",
        tag("p", words),
        tag("ul", rows) if rows else None,
        tag("div", [tag("div", sentence) for sentence in refused], class_="notice warn") if refused else None,
        class_="stack",
    )
