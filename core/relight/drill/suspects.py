"""Finds suspects for a difference: clocks, generators and untracked state in the code, warned kernels, changed data."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["clock", "entropy", "own generator", "numpy", "hash", "attribute"]

_CLOCK = {
    "time.time", "time.time_ns", "time.monotonic", "time.monotonic_ns", "time.perf_counter", "time.perf_counter_ns",
    "time.process_time", "datetime.now", "datetime.utcnow", "datetime.today", "datetime.datetime.now",
    "datetime.datetime.utcnow", "datetime.datetime.today", "datetime.date.today", "date.today",
}  # fmt: skip
_ENTROPY = {
    "os.urandom", "uuid.uuid1", "uuid.uuid4", "uuid4", "random.SystemRandom", "secrets.token_bytes",
    "secrets.token_hex", "secrets.randbelow", "secrets.randbits", "secrets.choice", "os.getpid",
}  # fmt: skip
_GENERATORS = {
    "numpy.random.default_rng", "numpy.random.RandomState", "numpy.random.Generator", "default_rng", "random.Random",
    "torch.Generator",
}  # fmt: skip
_NEW_EACH_TIME_WITHOUT_SEED = {"numpy.random.default_rng", "numpy.random.RandomState", "default_rng", "random.Random"}
_REPEATED = {"step", "forward", "__getitem__", "__iter__", "__next__", "sample", "collate", "collate_fn", "__call__"}
"""Methods that run repeatedly, so what they assign to `self` is state."""
_WARNED_KERNEL = re.compile(r"(\S+) does not have a deterministic implementation")
_MOST_FILE_BYTES = 1 << 20
_MOST_DATA_FILES = 20_000


@dataclass(frozen=True, order=True)
class Suspect:
    """One place in the code that may be the cause. `text` quotes it, shortened."""

    kind: Kind
    file: str
    line: int
    text: str

    @property
    def place(self) -> str:
        """Describe the place: "time.time() on line 12 of task.py"."""
        return f"{self.text} on line {self.line} of {self.file}"


def find_suspects(folder: Path, files: Iterable[str], *, class_name: str | None = None) -> tuple[Suspect, ...]:
    """Find suspects in the task's own files, without importing them. Files that cannot be read or parsed have none.

    `class_name` is the task's class; other tasks in the same files are skipped.
    """
    trees: dict[str, ast.Module] = {}
    for name in files:
        try:
            source = (folder / name).read_bytes()
            if len(source) <= _MOST_FILE_BYTES:
                trees[name] = ast.parse(source)
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    others = _find_other_tasks(trees.values(), class_name) if class_name is not None else set()
    found = [suspect for name, tree in trees.items() for suspect in _look_through(tree, name, without=others)]
    return tuple(dict.fromkeys(found))


def find_warned_kernels(log: str) -> tuple[str, ...]:
    """Return the operations without a deterministic kernel that PyTorch warned about in a log."""
    return tuple(dict.fromkeys(match.strip("'\"`") for match in _WARNED_KERNEL.findall(log)))


class DataWatch:
    """Remembers the files and folders that a config names, to find out later whether they have changed."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        paths = (Path(value) for value in config.values() if isinstance(value, str) and Path(value).is_absolute())
        self._before = {path: _look_at(path) for path in paths}

    def find_change(self) -> str | None:
        """Return the first path that has changed; None when none has."""
        return next((str(path) for path, before in self._before.items() if _look_at(path) != before), None)


def _look_at(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Return names, sizes and times of a file or of the first files in a folder; nothing for a missing path."""
    found = []
    try:
        files = itertools.chain([path], path.rglob("*") if path.is_dir() else ())
        for file in itertools.islice(files, _MOST_DATA_FILES):
            facts = file.stat()
            found.append((str(file), facts.st_size, facts.st_mtime_ns))
    except OSError:
        pass
    return tuple(sorted(found))


def _find_other_tasks(trees: Iterable[ast.Module], class_name: str) -> set[str]:
    """Return the classes that are tasks, but neither `class_name` nor one of its bases."""
    classes = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    bases = {node.name: [(_dotted(base) or "").rpartition(".")[2] for base in node.bases] for node in classes}

    def ancestors(name: str) -> set[str]:
        found: set[str] = set()
        waiting = [name]
        while waiting:
            current = waiting.pop()
            if current not in found:
                found.add(current)
                waiting += bases.get(current, [])
        return found

    own = ancestors(class_name)
    return {name for name in bases if name not in own and "Task" in ancestors(name)}


def _walk(node: ast.AST, *, without: set[str]) -> Iterator[ast.AST]:
    """Walk the tree like `ast.walk`, but skip the classes with those names."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.ClassDef) and child.name in without):
            yield child
            yield from _walk(child, without=without)


def _look_through(tree: ast.Module, file: str, *, without: set[str]) -> Iterator[Suspect]:
    yield from _find_loop_variables(tree, file)
    aliases = dict(_read_imports(tree))
    for node in _walk(tree, without=without):
        if isinstance(node, ast.Call):
            kind, text = _judge_call(node, aliases)
            if kind is not None:
                yield Suspect(kind, file, node.lineno, text)
        elif isinstance(node, ast.For | ast.comprehension) and _is_set(node.iter):
            yield Suspect("hash", file, node.iter.lineno, "a loop over a set")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name in _REPEATED:
            yield from _find_attributes(node, file)


def _read_imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield each imported name and its full name: ("np", "numpy"), ("default_rng", "numpy.random.default_rng")."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                if name.asname:
                    yield name.asname, name.name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for name in node.names:
                yield name.asname or name.name, f"{node.module}.{name.name}"


def _judge_call(node: ast.Call, aliases: dict[str, str]) -> tuple[Kind | None, str]:
    written = _dotted(node.func)
    if written is None:
        return None, ""
    head, dot, rest = written.partition(".")
    name = aliases.get(head, head) + dot + rest
    text = f"{written}()"
    if name in _CLOCK:
        return "clock", text
    if name in _ENTROPY:
        return "entropy", text
    if name in _NEW_EACH_TIME_WITHOUT_SEED and not (node.args or node.keywords):
        return "entropy", text
    if name in _GENERATORS:
        return "own generator", text
    if name.startswith("numpy.random."):
        return "numpy", text
    if name in ("hash", "id"):
        return "hash", text
    if name in ("list", "tuple", "enumerate", "iter") and node.args and _is_set(node.args[0]):
        return "hash", f"{written}() of a set"
    return None, ""


def _is_set(node: ast.expr) -> bool:
    return isinstance(node, ast.Set | ast.SetComp) or (
        isinstance(node, ast.Call) and _dotted(node.func) in ("set", "frozenset")
    )


def _find_attributes(function: ast.FunctionDef | ast.AsyncFunctionDef, file: str) -> Iterator[Suspect]:
    for node in ast.walk(function):
        targets: list[ast.expr] = []
        if isinstance(node, ast.AugAssign):
            targets = [node.target]
        elif isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.Global | ast.Nonlocal):
            for name in node.names:
                yield Suspect("attribute", file, node.lineno, f"'{name}' (a global of {function.name}())")
        for target in targets:
            owner = target.value if isinstance(target, ast.Subscript) else target
            if isinstance(owner, ast.Attribute) and isinstance(owner.value, ast.Name) and owner.value.id == "self":
                yield Suspect("attribute", file, target.lineno, f"'self.{owner.attr}' in {function.name}(),")


def _find_loop_variables(tree: ast.Module, file: str) -> Iterator[Suspect]:
    """Yield the variables that a training loop computes from what they were in the iteration before."""
    loops = [node for node in ast.walk(tree) if isinstance(node, ast.For | ast.While) and _trains(node)]
    changed: dict[str, int] = {}
    fresh: set[str] = set()
    for node in (inner for loop in loops for inner in ast.walk(loop)):
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            changed.setdefault(node.target.id, node.lineno)
        elif isinstance(node, ast.Assign):
            read = {name.id for name in ast.walk(node.value) if isinstance(name, ast.Name)}
            for target in node.targets:
                if isinstance(target, ast.Name) and target.id in read:
                    changed.setdefault(target.id, node.lineno)
                elif isinstance(target, ast.Name):
                    fresh.add(target.id)
    for name, line in changed.items():
        if name not in fresh:
            yield Suspect("attribute", file, line, f"'{name}', which the loop changes")


def _trains(loop: ast.For | ast.While) -> bool:
    """Tell whether the loop takes training steps: it calls the `step` of something."""
    calls = (node.func for node in ast.walk(loop) if isinstance(node, ast.Call))
    return any(isinstance(call, ast.Attribute) and call.attr == "step" for call in calls)


def _dotted(node: ast.expr) -> str | None:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    return ".".join([node.id, *parts]) if isinstance(node, ast.Name) else None
