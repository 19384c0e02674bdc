"""A run's config: every value, with what is unusual about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relight_app.formats import describe_option
from relight_app.markup import Markup, tag


def build_config(
    config: Mapping[str, Any], *, defaults: Mapping[str, Any], changes: Mapping[str, tuple[Any, Any]] | None = None
) -> Markup:
    """Build a config as a list of facts, in the order of `defaults`, and mark the values that differ from these.

    `changes` has what a branch changed, by key: the parent's value and its own.
    """
    changed = changes or {}
    rows = []
    order = list(defaults)
    for key, value in sorted(config.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)):
        unusual = key in defaults and defaults[key] != value
        has_default = unusual and defaults[key] not in (None, "")
        marks = [
            tag("span", f"default {describe_option(defaults[key])}", class_="badge") if has_default else None,
            tag("span", f"changed in this branch, was {describe_option(changed[key][0])}", class_="badge kept")
            if key in changed
            else None,
        ]
        shown = tag("span", describe_option(value), class_="mono changed" if unusual else "mono")
        rows.append(tag("div", tag("dt", key, class_="mono"), tag("dd", shown, " ", marks, class_="row")))
    return tag("dl", rows, class_="facts")
