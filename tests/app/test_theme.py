"""The theme has enough contrast for every text, fonts with licenses, and nothing from other sites."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

import relight_app
from relight_app.urls import PLOTLY

FOLDER = Path(relight_app.__file__).parent
THEME: dict[str, Any] = tomllib.loads((FOLDER / "theme" / "theme.toml").read_text(encoding="utf-8"))["theme"]
READABLE, VISIBLE = 4.5, 3.0  # WCAG 2.2: 1.4.3 for text, 1.4.11 for icons and lines


def _luminance(color: str) -> float:
    parts = [int(color[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _mix(color: str, ground: str, share: float) -> str:
    mixed = (
        round(share * int(color[index : index + 2], 16) + (1 - share) * int(ground[index : index + 2], 16))
        for index in (1, 3, 5)
    )
    return "#" + "".join(f"{part:02x}" for part in mixed)


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_text_has_enough_contrast_on_every_background(scheme: str) -> None:
    colors = THEME[scheme]
    for ground in (colors["backgroundColor"], colors["secondaryBackgroundColor"]):
        muted = _mix(colors["textColor"], ground, 0.64)  # parts.css mixes the colors the same way
        for text in (colors["textColor"], colors["linkColor"], colors["grayColor"], muted):
            assert _contrast(text, ground) >= READABLE, (text, ground)
    assert _contrast("#ffffff", colors["primaryColor"]) >= READABLE
    assert _contrast(colors["codeTextColor"], colors["codeBackgroundColor"]) >= READABLE
    assert _contrast(colors["dataframeHeaderTextColor"], colors["dataframeHeaderBackgroundColor"]) >= READABLE


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_curves_and_icons_have_enough_contrast(scheme: str) -> None:
    colors = THEME[scheme]
    signs = [colors[f"{name}Color"] for name in ("green", "red", "orange", "blue", "violet", "gray", "primary")]
    for color in [*signs, *colors["chartCategoricalColors"]]:
        assert _contrast(color, colors["backgroundColor"]) >= VISIBLE, color


def test_the_dashboard_serves_its_fonts_with_their_licenses() -> None:
    for face in THEME["fontFaces"]:
        assert face["url"].startswith("/assets/fonts/")
        assert (FOLDER / "theme" / "fonts" / Path(face["url"]).name).is_file()
    licences = [path.read_text(encoding="utf-8") for path in (FOLDER / "theme" / "fonts").glob("*LICENSE.txt")]
    assert len(licences) == 2
    assert all("SIL Open Font License" in licence or "SIL OPEN FONT LICENSE" in licence for licence in licences)


def test_no_file_for_the_browser_names_another_site() -> None:
    for path in FOLDER.rglob("*"):
        if path.suffix in {".css", ".js", ".svg", ".toml"} and path != PLOTLY:  # it names sites, and asks none
            text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
            assert not re.search(r"https?://|//fonts\.|@import", text), path
