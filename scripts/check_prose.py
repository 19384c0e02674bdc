"""Checks comments, docstrings, messages and Markdown for phrases that are not plain American English."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PATTERNS = {
    r"\banew\b": "write 'again' or 'a new …'",
    r"\bwho(so)?ever\b": "name the actor",
    r"\bthere(in|of|upon)\b": "write 'in it', 'of it'",
    r"\bby (itself|themselves)\b": "write 'automatically', 'on its own' or 'alone'",
    r"(?<!there )(?<!here )\bis no (?!longer\b|more\b|less\b|such\b)\w": "write 'is not a …'",
    r"(?<!there )\bis (?-i:none)\b": "write 'is not one', or turn the sentence around",
    r"\bit is (looked|asked|told|said)\b": "name the actor",
    r"\bis told to\b": "name the actor",
    r"\bof so many\b": "say of what",
    r"\bwhat .{1,40} is told\b": "name the actor",
    r"\bnobody knows\b": "write 'unknown'",
    r"(?:^|[.:] )Of (?:the|all|several|these|those|two|many|a|each) [^.]{1,80}, ": "put the subject first",
    r"\b(behaviou?r(?<=iour)|colour|honour|favour|neighbour|flavour)\w*": "American spelling: -or",
    r"\b(recogni|initiali|normali|optimi|summari|seriali|organi|minimi|maximi|synchroni|visuali|categori|utili"
    r"|capitali|generali|speciali|customi|memori|prioriti|finali|randomi|stabili)s(e|ed|es|ing|ations?|er)\b": (
        "American spelling: -ize"
    ),
    r"\b(grey|centre|licence|judgement)\b": "American spelling",
}
"""What must not come back, and what to write instead. Matched without case, in prose only."""

_PROSE = re.compile("|".join(f"(?P<p{i}>{pattern})" for i, pattern in enumerate(PATTERNS)), re.IGNORECASE)
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`|\]\([^)\n]*\)|https?://\S+")
_SCRIPT_PROSE = re.compile(r"//[^\n]*|/\*.*?\*/|\"[^\"\n]*\"|'[^'\n]*'|`[^`]*`", re.DOTALL)
_ADVICE = list(PATTERNS.values())
_SKIPPED = (
    "benchmarks/results/",
    "app/relight_app/live/plotly/",
    "tests/e2e/vendor/",
    "scripts/check_prose.py",
    "tests/repository/test_prose.py",
)


def find_stumbles(path: Path) -> list[tuple[int, str, str]]:
    """Return line number, phrase and advice for every phrase of the file that is on the list."""
    text = path.read_text(encoding="utf-8")
    found: list[tuple[int, str, str]] = []
    for line, prose in _PROSE_OF[path.suffix](text):
        for match in _PROSE.finditer(prose):
            advice = _ADVICE[next(i for i in range(len(PATTERNS)) if match[f"p{i}"] is not None)]
            found.append((line + prose.count("\n", 0, match.start()), " ".join(match[0].split()), advice))
    return found


def _python_prose(text: str) -> Iterator[tuple[int, str]]:
    kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in kinds:
            yield token.start[0], _CODE.sub(_blank, token.string)


def _markdown_prose(text: str) -> Iterator[tuple[int, str]]:
    yield 1, _CODE.sub(_blank, _FENCE.sub(_blank, text))


def _script_prose(text: str) -> Iterator[tuple[int, str]]:
    for match in _SCRIPT_PROSE.finditer(text):
        yield 1 + text.count("\n", 0, match.start()), match[0]


def _blank(match: re.Match[str]) -> str:
    """Keep the lines, so that numbers stay right."""
    return "\n" * match[0].count("\n") or "…"


_PROSE_OF = {".py": _python_prose, ".md": _markdown_prose, ".js": _script_prose, ".css": _script_prose}


def list_files(root: Path) -> list[Path]:
    """Return every file with prose that git tracks or would track."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    names = sorted({name for name in listing.split("\0") if name and not name.startswith(_SKIPPED)})
    return [path for name in names if (path := root / name).suffix in _PROSE_OF and path.is_file()]


def main(arguments: list[str]) -> int:
    """Print every phrase on the list, in the files named or in all; return 1 if there is one."""
    files = [Path(argument).resolve() for argument in arguments] or list_files(ROOT)
    count = 0
    for path in files:
        for line, phrase, advice in find_stumbles(path):
            count += 1
            print(f"{path.relative_to(ROOT)}:{line}: '{phrase}': {advice}")
    if not count:
        print(f"{len(files)} files: no phrase on the list.")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
