"""Checking that a training script can be launched, without running it."""

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
    """The file is not a script: it defines tasks, and you must name one."""


def check_script_file(path: Path, *, root: Path | None = None) -> None:
    """Raise `TaskError` or `UsageError` when the script does not parse or never calls `relight.init`.

    The modules next to it that it imports are read, too; for a module, those below `root`. Raises `DefinesTasks` when
    the file defines tasks instead.
    """
    try:
        source = path.read_bytes()
    except OSError as error:
        raise TaskError(f"The script {path} cannot be read: {error.strerror}.") from error
    try:
        tree = ast.parse(source, filename=str(path))
    except SyntaxError as error:
        raise _syntax_error(path, error.lineno, error.msg) from None
    except ValueError as error:  # null bytes
        raise TaskError(f"{path.name} is not a Python file: {error}.") from None
    found = _Reader(root or path.parent).read(tree, path.parent)
    if found.calls_init:
        return
    if found.tasks:
        raise DefinesTasks(f"{path.name} is not a script: it defines {', '.join(found.tasks)}.")
    what = "never calls relight.init()" if found.imports_relight else "does not use relight"
    raise UsageError(
        f"{path.name} {what}, so nothing could be saved. Add relight.init() and the four lines that docs/scripts.md "
        "shows."
    )


def find_python(given: Path | None) -> str | None:
    """Return the absolute path of an interpreter given as a path or a name, without resolving links."""
    if given is None:
        return None
    text = str(given.expanduser())
    found = shutil.which(text)
    if found is None:
        raise UsageError(f"{text} is not an executable interpreter. Name one, such as .venv/bin/python.")
    return os.path.abspath(found)  # noqa: PTH100  Path.resolve() would leave a virtual environment


def probe_python(python: str, script: Path) -> None:
    """Raise `TaskError` unless another interpreter has relight and torch and can compile the script."""
    command = [python, "-c", _PROBE, str(script), str(script.parent)]
    try:
        asked = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PROBE_WITHIN_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise TaskError(
            f"{python} did not answer within {_PROBE_WITHIN_S:.0f} s. Is it a Python interpreter?"
        ) from None
    except OSError as error:
        raise TaskError(f"{python} cannot be run: {error.strerror}.") from error
    lines = asked.stdout.strip().splitlines()
    try:
        answer = json.loads(lines[-1]) if lines else None
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        said = (asked.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise TaskError(f"{python} cannot run a training script: {said}.")
    if answer["missing"]:
        wanted = " and ".join(answer["missing"])
        raise TaskError(
            f"{python} (Python {answer['python']}) has no {wanted}. Install with: "
            f"{python} -m pip install {_requirement(answer['missing'])}"
        )
    if not answer.get("init"):
        raise TaskError(
            f"{python} imports a relight (version {answer.get('relight') or 'unknown'}) that cannot run scripts. "
            "Update it there, or rename the file or folder called relight next to the script."
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
    """Reads a script and the modules next to it that it imports."""

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
