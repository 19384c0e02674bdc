"""Whether a training script can be launched: read, never run. What is wrong is said before a run exists."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
from pathlib import Path

from relight.errors import TaskError, UsageError

_FILES_AT_MOST = 200
_PROBE_WITHIN_S = 60.0
_PROBE = """
import importlib.util, json, sys
sys.path[0] = sys.argv[2]
answer = {"python": sys.version.split()[0], "missing": [], "syntax": None}
for name in ("relight", "torch"):
    try:
        found = importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        found = False
    if not found:
        answer["missing"].append(name)
try:
    with open(sys.argv[1], "rb") as file:
        compile(file.read(), sys.argv[1], "exec", dont_inherit=True)
except SyntaxError as error:
    answer["syntax"] = [error.lineno, error.msg]
except ValueError as error:
    answer["syntax"] = [None, str(error)]
if "relight" not in answer["missing"]:
    import relight
    answer["relight"] = getattr(relight, "__version__", None)
    answer["init"] = "init" in getattr(relight, "__all__", ())
print(json.dumps(answer))
"""


class DefinesTasks(UsageError):
    """The file is no script: it defines tasks, of which one must be named."""


def check_script_file(path: Path, *, python: str | None = None) -> None:
    """Raise `TaskError` or `UsageError`, one sentence, when the script does not parse or never calls `relight.init`.

    The modules beside it that it imports are read as well. With another `python` its syntax is that one's affair.
    """
    try:
        source = path.read_bytes()
    except OSError as error:
        raise TaskError(f"The script {path} cannot be read: {error.strerror}.") from error
    try:
        tree = ast.parse(source, filename=str(path))
    except SyntaxError as error:
        if python is not None:
            return
        raise _syntax_error(path, error.lineno, error.msg) from None
    except ValueError as error:  # null bytes
        raise TaskError(f"{path.name} is no Python file: {error}.") from None
    found = _Reader(path.parent).read(tree, path.parent)
    if found.calls_init:
        return
    if found.tasks:
        raise DefinesTasks(f"{path.name} trains nothing by itself: it defines {', '.join(found.tasks)}.")
    what = "never calls relight.init()" if found.imports_relight else "does not use relight"
    raise UsageError(
        f"{path.name} {what}, so nothing of it could be saved: add `run = relight.init()` and its four lines, see "
        "docs/scripts.md."
    )


def find_python(given: Path | None) -> str | None:
    """The interpreter that a person means by a path or a name; links stay, since a virtual environment is one."""
    if given is None:
        return None
    text = str(given.expanduser())
    found = shutil.which(text)
    if found is None:
        raise UsageError(f"There is no interpreter {text}: name one that can be run, such as .venv/bin/python.")
    return os.path.abspath(found)  # noqa: PTH100  Path.resolve() would follow the link out of the environment


def probe_python(python: str, script: Path) -> None:
    """Ask another interpreter whether it has relight and torch, and takes the script. Raises `TaskError` if not."""
    command = [python, "-c", _PROBE, str(script), str(script.parent)]
    try:
        asked = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PROBE_WITHIN_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise TaskError(f"{python} did not answer within {_PROBE_WITHIN_S:.0f} s: is it a Python?") from None
    except OSError as error:
        raise TaskError(f"{python} cannot be run: {error.strerror}.") from error
    lines = asked.stdout.strip().splitlines()
    try:
        answer = json.loads(lines[-1]) if lines else None
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        said = (asked.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise TaskError(f"{python} is no Python that can train: {said}.")
    if answer["missing"]:
        wanted = " and ".join(answer["missing"])
        raise TaskError(
            f"{python} (Python {answer['python']}) has no {wanted}: install it there with "
            f"`{python} -m pip install {_requirement(answer['missing'])}`."
        )
    if not answer.get("init"):
        raise TaskError(
            f"{python} has a relight ({answer.get('relight') or 'of no version'}) that cannot run scripts: update it "
            "there, or move away what is called relight in the script's folder."
        )
    if answer["syntax"]:
        raise _syntax_error(script, *answer["syntax"])


def _requirement(missing: list[str]) -> str:
    root = Path(__file__).resolve().parents[3]
    ours = str(root) if (root / "pyproject.toml").is_file() else "relight"
    return " ".join(ours if name == "relight" else name for name in missing)


def _syntax_error(path: Path, line: int | None, message: str) -> TaskError:
    where = f" in line {line}" if line else ""
    return TaskError(f"{path.name} has a syntax error{where}: {message}. Correct it and launch again.")


class _Reader:
    """Reads a script and what it imports from beside it."""

    def __init__(self, folder: Path) -> None:
        self.calls_init = False
        self.imports_relight = False
        self.tasks: list[str] = []
        self._has_init = False
        self._folder = folder
        self._read: set[Path] = set()

    def read(self, tree: ast.Module, folder: Path, *, main: bool = True) -> _Reader:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    self._note_import(alias.name)
                    self._follow(alias.name, self._folder)
            elif isinstance(node, ast.ImportFrom):
                self._note_from(node, folder)
            elif isinstance(node, ast.Attribute) and node.attr == "init":
                self._has_init = True
            elif main and isinstance(node, ast.ClassDef) and any(_is_task(base) for base in node.bases):
                self.tasks.append(node.name)
        self.calls_init = self.calls_init or (self._has_init and self.imports_relight)
        return self

    def _note_import(self, name: str) -> None:
        if name.partition(".")[0] == "relight":
            self.imports_relight = True

    def _note_from(self, node: ast.ImportFrom, folder: Path) -> None:
        module = node.module or ""
        if node.level == 0:
            self._note_import(module)
            if module.partition(".")[0] == "relight" and any(alias.name == "init" for alias in node.names):
                self.calls_init = True
            base = self._folder
        else:
            base = folder
            for _ in range(node.level - 1):
                base = base.parent
        self._follow(module, base)
        for alias in node.names:
            self._follow(f"{module}.{alias.name}" if module else alias.name, base)

    def _follow(self, name: str, base: Path) -> None:
        if self.calls_init or not name:
            return
        inner = base.joinpath(*name.split("."))
        for path in (inner.with_name(inner.name + ".py"), inner / "__init__.py"):
            if len(self._read) < _FILES_AT_MOST and path not in self._read and path.is_file():
                self._read.add(path)
                try:
                    tree = ast.parse(path.read_bytes())
                except (OSError, SyntaxError, ValueError):
                    continue
                self.read(tree, path.parent, main=False)


def _is_task(base: ast.expr) -> bool:
    name = base.attr if isinstance(base, ast.Attribute) else base.id if isinstance(base, ast.Name) else ""
    return name == "Task"
