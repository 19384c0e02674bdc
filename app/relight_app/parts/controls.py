"""Buttons that act, links that change the query, menus: the markup that `live/browser/gestures.js` handles."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from relight_app.icons import icon
from relight_app.markup import Markup, tag
from relight_app.settings import current_settings

READ_ONLY = "This dashboard only shows runs."


def action_button(
    label: str,
    action: str,
    payload: Mapping[str, Any],
    *,
    icon_name: str | None = None,
    class_: str = "button",
    refusal: str | None = None,
    busy: bool = False,
    title: str | None = None,
    confirm: Confirmation | None = None,
    **further: object,
) -> Markup:
    """Build a button that does an action. `refusal` says why it cannot be pressed, and `busy` that it is under way."""
    refusal = READ_ONLY if current_settings().read_only else refusal
    return tag(
        "button",
        icon(icon_name) if icon_name else None,
        label,
        type="button",
        class_=class_,
        title=refusal or title,
        **_act(action, payload, refused=refusal is not None or busy, confirm=confirm),
        **further,
    )


class Confirmation:
    """What is asked before an action: a question, or a part that shows it."""

    def __init__(self, title: str, question: str, *, yes: str, no: str = "Cancel", part: str | None = None) -> None:
        self._title, self._question, self._yes, self._no, self._part = title, question, yes, no, part

    def attributes(self) -> dict[str, Any]:
        """Return the attributes of the button."""
        return {
            "data_confirm": self._question or None,
            "data_confirm_part": self._part,
            "data_confirm_title": self._title,
            "data_confirm_yes": self._yes,
            "data_confirm_no": self._no,
        }


class Question(Confirmation):
    """A text that a person types before an action; it is sent as `field`."""

    def __init__(self, title: str, *, field: str, label: str, yes: str, value: str = "", lines: bool = False) -> None:
        super().__init__(title, "", yes=yes)
        self._field, self._label, self._value, self._lines = field, label, value, lines

    def attributes(self) -> dict[str, Any]:
        """Return the attributes of the button."""
        return super().attributes() | {
            "data_field": self._field,
            "data_field_label": self._label,
            "data_field_value": self._value,
            "data_field_lines": self._lines or None,
        }


def menu_item(
    label: str,
    action: str,
    payload: Mapping[str, Any],
    *,
    refusal: str | None = None,
    confirm: Confirmation | None = None,
) -> Markup:
    """Build an item of a menu that does an action."""
    refusal = READ_ONLY if current_settings().read_only else refusal
    return tag(
        "button",
        label,
        tag("span", refusal, class_="sub") if refusal else None,
        type="button",
        role="menuitem",
        tabindex="-1",
        **_act(action, payload, refused=refusal is not None, confirm=confirm),
    )


def menu_link(label: str, href: str) -> Markup:
    """Build an item of a menu that leads to another page."""
    return tag("a", label, class_="menu-link", role="menuitem", tabindex="-1", href=href)


def menu(items: Sequence[Markup], *, key: str, label: str) -> list[Markup]:
    """Build the button with three dots and the menu that it opens."""
    name = f"menu-{key}"
    return [
        tag(
            "button", icon("more"), class_="icon-button", type="button", data_menu=name, aria_haspopup="menu",
            aria_expanded="false", aria_label=f"Actions for {label}",
        ),
        tag("div", items, class_="menu", id=name, role="menu", popover="auto", aria_label=label),
    ]  # fmt: skip


def choice(label: str, name: str, options: Mapping[str, str], chosen: str) -> Markup:
    """Build a row of choices that set `name` in the query; `options` has the shown words by value."""
    return tag(
        "div",
        [
            tag(
                "button", words, type="button", role="radio", aria_checked="true" if value == chosen else "false",
                tabindex="0" if value == chosen else "-1", data_set=json.dumps({name: value}),
                data_key=f"{name}-{value}",
            )
            for value, words in options.items()
        ],
        class_="choice", role="radiogroup", aria_label=label,
    )  # fmt: skip


def tabs(label: str, name: str, options: Mapping[str, str], chosen: str) -> Markup:
    """Build tabs that set `name` in the query; `options` has their titles by value."""
    return tag(
        "div",
        [
            tag(
                "button", words, type="button", role="tab", aria_selected="true" if value == chosen else "false",
                id=f"tab-{value}", aria_controls=f"panel-{name}", tabindex="0" if value == chosen else "-1",
                data_set=json.dumps({name: value}), data_key=f"tab-{value}",
            )
            for value, words in options.items()
        ],
        class_="tabs", role="tablist", aria_label=label,
    )  # fmt: skip


def _act(action: str, payload: Mapping[str, Any], *, refused: bool, confirm: Confirmation | None) -> dict[str, Any]:
    """Return the attributes of what does an action."""
    return {
        "data_act": action,
        "data_payload": json.dumps(payload),
        "data_refused": refused or None,
        "aria_disabled": "true" if refused else None,
        **(confirm.attributes() if confirm is not None else {}),
    }
