"""The end of a log as a page shows it: with the colors that the program gave it, and tools to find something."""

from __future__ import annotations

from rich.ansi import AnsiDecoder
from rich.style import Style

from relight_app.icons import icon
from relight_app.markup import Markup, tag

_BASIC = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")


def build_log(text: str, *, number: int, foot: Markup) -> Markup:
    """Build the log of attempt `number`."""
    return tag(
        "div",
        tag(
            "div",
            tag("label", icon("search"), tag("span", "Search the log", class_="unseen"),
                tag("input", type="search", placeholder="Search the log", data_log_search=True, data_key="log-search",
                    autocomplete="off", spellcheck="false"), class_="search"),
            tag("span", data_log_count=True, data_own=True, class_="sub", role="status"),
            tag("span", class_="push"),
            tag("button", "Last error", type="button", class_="button small", data_log="error"),
            tag("button", "Wrap lines", type="button", class_="button small", data_log="wrap", aria_pressed="false"),
            tag("button", "End", type="button", class_="button small", data_log="end",
                title="Go to the end, and follow it"),
            class_="row",
        ),
        tag("pre", color_text(text) or "No output yet.", class_="text log", data_follow=True, tabindex="0", role="log",
            aria_label=f"Log of attempt {number}", data_key=f"log-{number}"),
        foot,
        class_="stack log-part",
    )  # fmt: skip


def color_text(text: str) -> Markup | str:
    """Turn the escape sequences of a terminal into markup, and drop those that are no colors."""
    if "\x1b" not in text:
        return text
    pieces: list[Markup | str] = []
    for line in AnsiDecoder().decode(text):
        end = 0
        for span in sorted(line.spans, key=lambda span: span.start):
            if span.start < end:
                continue
            pieces.append(line.plain[end : span.start])
            classes = _classes(span.style) if isinstance(span.style, Style) else ""
            piece = line.plain[span.start : span.end]
            pieces.append(tag("span", piece, class_=classes) if classes else piece)
            end = span.end
        pieces += [line.plain[end:], "\n"]
    return Markup(tag("span", pieces))


def _classes(style: Style) -> str:
    names = []
    if style.color is not None and style.color.number is not None and style.color.number < 16:
        names.append(f"ansi-{_BASIC[style.color.number % 8]}")
    names += [name for name, on in (("bold", style.bold), ("dim", style.dim), ("italic", style.italic)) if on]
    return " ".join(f"ansi-{name}" if not name.startswith("ansi-") else name for name in names)
