"""The card for an empty page or section: what is missing, and the next step."""

from __future__ import annotations

from relight_app.markup import Markup, tag

_EMBER = Markup(
    '<svg viewBox="0 0 32 32" aria-hidden="true"><path fill="none" stroke="var(--st-gray-color)" stroke-width="1.4" '
    'stroke-dasharray="3 2.6" stroke-linejoin="round" d="M17.2 1.8c.5 5.6 8.3 9.3 8.3 17.2 0 6-4.2 10.6-9.6 10.6S6.5 '
    '25.3 6.5 19.7c0-4.3 2.3-6.9 4.6-9.8.3 2.3 1 3.9 2.4 4.7 1.7-3.9 1.2-8.5 3.7-12.8z"/><path fill="#ff6b3d" '
    'd="M16.3 20.6c.2 1.6 2.2 2.7 2.2 4.7 0 1.6-1.1 2.7-2.5 2.7s-2.5-1.1-2.5-2.6c0-2.1 2.2-2.9 2.8-4.8z"/></svg>'
)


def build_empty(title: str, sentence: str, *, action: Markup | None = None, footnote: Markup | None = None) -> Markup:
    """Build a card with a title, a sentence, and perhaps one button."""
    return tag(
        "div",
        _EMBER,
        tag("h2", title),
        tag("p", sentence, class_="muted"),
        action,
        tag("p", footnote, class_="sub") if footnote else None,
        class_="card empty",
    )
