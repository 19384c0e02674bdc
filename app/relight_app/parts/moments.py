"""Times on a page: the browser writes them in its own zone, and counts ages up."""

from __future__ import annotations

from relight_app.markup import Markup, tag


def build_age(time_s: float) -> Markup:
    """Build an age. As text, it would change the markup every second."""
    return tag("time", data_s=f"{time_s:.0f}")


def build_moment(time_s: float | None) -> Markup | str:
    """Build a moment: "14:21:05" today, else "23 Nov, 14:21"; "–" when unknown."""
    return tag("time", data_s=f"{time_s:.3f}", data_moment=True) if time_s else "–"
