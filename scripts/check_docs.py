"""Checks that every link in the Markdown files works, and that every file of the code that they name exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")
_FILE = re.compile(r"`([\w./-]+/[\w-]+\.(?:py|js|css))`")
_LINK = re.compile(r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
_HTML = re.compile(r"<(?:img|source|a)\b[^>]*?\b(?:src|srcset|href)=\"([^\"]+)\"")
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)


def list_files(root: Path) -> list[Path]:
    """Return all files that git tracks or would track."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return sorted(path for name in listing.split("\0") if name and (path := root / name).is_file())


def list_anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes for the headings of a page."""
    anchors: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        base = re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-")
        anchor, number = base, 0
        while anchor in anchors:
            number += 1
            anchor = f"{base}-{number}"
        anchors.add(anchor)
    return anchors


def find_broken_links(page: Path, *, root: Path) -> list[str]:
    """Return one line for each broken link of the page. Web addresses are not checked."""
    text = page.read_text(encoding="utf-8")
    prose = _CODE.sub("", _FENCE.sub("", text))
    broken: list[str] = []
    for link in [*_LINK.findall(prose), *_HTML.findall(prose)]:
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        where = page.relative_to(root)
        if not target.is_relative_to(root) or not target.exists():
            broken.append(f"{where}: '{link}' does not lead to a file in this repository.")
        elif anchor and target.suffix == ".md" and anchor not in list_anchors(target):
            broken.append(f"{where}: '{link}' does not lead to a heading in {target.relative_to(root)}.")
    return broken


def find_missing_files(page: Path, files: list[Path], *, root: Path) -> list[str]:
    """Return one line for each path in code font that is the end of no file's path."""
    ends = [f"/{file.relative_to(root)}" for file in files]
    named = _FILE.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))
    return [
        f"{page.relative_to(root)}: there is no file `{name}`."
        for name in named
        if not any(end.endswith(f"/{name}") for end in ends)
    ]


def main() -> int:
    """Print every broken link and missing file. Return 1 if there is one."""
    files = list_files(ROOT)
    pages = [file for file in files if file.suffix == ".md"]
    broken = [line for page in pages for line in find_broken_links(page, root=ROOT)]
    broken += [line for page in pages for line in find_missing_files(page, files, root=ROOT)]
    print("\n".join(broken) if broken else f"{len(pages)} pages: every link works, and every named file exists.")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
