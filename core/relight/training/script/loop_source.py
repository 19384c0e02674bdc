"""Reads a script's source to see whether a resume can continue in the middle of the loop in which it takes its steps.

A resume runs the script from its first line and lets its loader continue with the next batch. That is exact if the loop
is one that Relight steers: `for batch in loader`, with `enumerate`, a progress bar, or a `zip` of loaders around it. It
is not if the script counts batches in a way that starts over: `islice(loader, 5)`, `zip(range(5), loader)`,
`while step < max_steps`, `next(batches)` in a loop of its own. Then checkpoints are made only between epochs.
"""

from __future__ import annotations

import ast
import dis
import gc
import inspect
import linecache
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import CodeType, FrameType, GeneratorType
from typing import Any

_OWN = str(Path(__file__).parents[2])
_STANDARD = str(Path(os.__file__).parent)
_FOR = dis.opmap["FOR_ITER"]
_YIELD_FROM = dis.opmap["SEND"]
_INSTALLED = ("site-packages", "dist-packages")
_LOOPS = (ast.For, ast.While)
_TRANSPARENT = frozenset(("enumerate", "tqdm", "trange", "track", "progress_bar", "notebook_tqdm", "wrap_tqdm"))


@dataclass(frozen=True)
class Consumer:
    """The `for` statement that a loop of Relight's feeds: the frame that runs it, and its line."""

    frame: int
    """The frame's `id`, to compare with those of running frames."""
    code: CodeType
    line: int


@dataclass(frozen=True)
class Doubt:
    """A loop in whose middle no resume can continue: where it is, and what to do about it."""

    file: str
    line: int
    text: str
    cure: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: `{self.text}`"


def find_consumer(frame: FrameType | None) -> Consumer | None:
    """Return the `for` statement that advances the generator called from `frame`; None if it is no `for` statement.

    `yield from` and generators of libraries in between, such as a progress bar's, are looked through.
    """
    while frame is not None:
        code = frame.f_code
        running = code.co_code[frame.f_lasti]
        if running == _FOR and not (code.co_flags & inspect.CO_GENERATOR and is_foreign(code.co_filename)):
            return Consumer(id(frame), code, frame.f_lineno)
        if running not in (_FOR, _YIELD_FROM):
            return None
        frame = frame.f_back
    return None


def list_new_generators() -> list[FrameType]:
    """Return the frames of the script's generators that have been made and not begun yet."""
    made = [one for one in gc.get_objects() if type(one) is GeneratorType]
    new = [one.gi_frame for one in made if inspect.getgeneratorstate(one) == inspect.GEN_CREATED]
    return [frame for frame in new if frame is not None and not is_foreign(frame.f_code.co_filename)]


def is_inside(frame: FrameType | None, generators: Sequence[FrameType]) -> bool:
    """Tell whether `frame` is that of one of the generators, or is advanced by one of them."""
    while frame is not None and frame.f_code.co_flags & inspect.CO_GENERATOR:
        if any(frame is each for each in generators):
            return True
        frame = frame.f_back
    return False


def feeds_running_loop(consumer: Consumer | None, frame: FrameType | None) -> bool:
    """Tell whether `consumer` is a `for` statement of `frame` or of a frame that has called it."""
    while consumer is not None and frame is not None:
        if id(frame) == consumer.frame:
            return True
        frame = frame.f_back
    return False


def may_leave_after_step(frame: FrameType | None, consumer: Consumer | None) -> bool:
    """Tell whether the loop that `consumer` names may be left by `break` or `return` behind the call of `run.step`."""
    while frame is not None and consumer is not None:
        code, line = frame.f_code, frame.f_lineno
        here = id(frame) == consumer.frame
        for node in _find_loops(code, line):
            if any(isinstance(each, (ast.Break, ast.Return)) and each.lineno >= line for each in ast.walk(node)):
                return True
            if here and _has_line(node, consumer.line):
                return False
        if here:
            return False
        frame = frame.f_back
    return False


def judge_step(
    frame: FrameType | None,
    *,
    passes: Sequence[Consumer | None],
    outer: Consumer | None,
    is_loader: Callable[[Any], bool],
) -> Doubt | None:
    """Judge the loops around the call of `run.step` in `frame`; None if a resume can continue in the middle of them.

    `passes` are the consumers of the passes under way, the outermost first; `outer` is that of `run.epochs`.
    """
    if outer is None:
        return None
    own = [one for one in passes if one is None or not is_foreign(one.code.co_filename)]
    known = {(one.frame, one.line): one for one in own if one is not None}
    wanted = len(known) + own.count(None)
    met = 0
    while frame is not None:
        code = frame.f_code
        inside = _find_loops(code, frame.f_lineno)
        for node in inside:  # the innermost first
            header = _find_header(node, id(frame), known)
            if header is not None:
                met += 1
                doubt = _judge_header(node, frame, is_loader)
                if doubt is not None:
                    return doubt
            elif id(frame) == outer.frame and _has_line(node, outer.line):
                break
            elif isinstance(node, ast.While) or not met:
                return _doubt_of_loop(node, code)
        if id(frame) == outer.frame:
            return None if met == wanted else _doubt_of_pass(passes, code, frame.f_lineno)
        frame = frame.f_back
    return None


def _find_header(node: ast.AST, frame: int, known: dict[tuple[int, int], Consumer]) -> Consumer | None:
    return next((one for (of, line), one in known.items() if of == frame and _has_line(node, line)), None)


def _has_line(node: ast.AST, line: int) -> bool:
    """Tell whether `line` is in the header of this `for` statement."""
    return isinstance(node, ast.For) and node.lineno <= line <= (node.iter.end_lineno or node.lineno)


def _judge_header(node: ast.AST, frame: FrameType, is_loader: Callable[[Any], bool]) -> Doubt | None:
    """Judge what a `for` statement iterates over; the loader is somewhere in it."""
    assert isinstance(node, ast.For)
    wrapped: ast.expr = node.iter
    while isinstance(wrapped, ast.Call):
        name = _last_name(wrapped.func)
        if name == "zip" and all(is_loader(_look_up(one, frame)) for one in wrapped.args):
            return None
        if name not in _TRANSPARENT or not wrapped.args:
            if not wrapped.args or name in ("iter", "loader"):
                return None
            return Doubt(
                *_place(frame.f_code, node), _unparse(node.iter),
                f"`{name}` starts over after a resume. Loop over the loader itself, leave the loop with `break` where "
                "it has to end early, or use `for step in run.steps(n)` with `next(batches)` inside.",
            )  # fmt: skip
        wrapped = wrapped.args[0]
    return None


def _doubt_of_loop(node: ast.AST, code: CodeType) -> Doubt:
    text = f"while {_unparse(node.test)}" if isinstance(node, ast.While) else f"for … in {_unparse(node.iter)}"  # type: ignore[attr-defined]
    return Doubt(
        *_place(code, node), text,
        "This loop starts over after a resume. Use `for step in run.steps(n)` instead, with `next(batches)` inside.",
    )  # fmt: skip


def _doubt_of_pass(passes: Sequence[Consumer | None], code: CodeType, line: int) -> Doubt:
    one = next((one for one in passes if one is not None), None)
    if one is not None:
        code, line = one.code, one.line
    return Doubt(
        Path(code.co_filename).name, line, linecache.getline(code.co_filename, line).strip(),
        "The batches reach run.step() through an iterator that starts over after a resume. Use `for step in "
        "run.steps(n)` with `next(batches)` inside, or loop over the loader itself.",
    )  # fmt: skip


def _look_up(node: ast.expr, frame: FrameType) -> Any:
    if not isinstance(node, ast.Name):
        return None
    return frame.f_locals.get(node.id, frame.f_globals.get(node.id))


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _place(code: CodeType, node: ast.AST) -> tuple[str, int]:
    return Path(code.co_filename).name, getattr(node, "lineno", 0)


def _unparse(node: ast.expr) -> str:
    text = ast.unparse(node)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _find_loops(code: CodeType, line: int) -> list[ast.AST]:
    """Return the loops of this function whose body contains the line, the innermost first."""
    tree = parse_file(code.co_filename)
    if tree is None or is_foreign(code.co_filename):
        return []
    found: list[ast.AST] = []
    inner: ast.AST | None = tree
    while inner is not None:
        down: ast.AST | None = None
        for child in ast.iter_child_nodes(inner):
            first = getattr(child, "lineno", None)
            if first is None:
                if any(line in range(getattr(each, "lineno", 0), (getattr(each, "end_lineno", 0) or 0) + 1)
                       for each in ast.iter_child_nodes(child)):  # fmt: skip
                    down = child
            elif first <= line <= (getattr(child, "end_lineno", first) or first):
                down = child
        inner = down
        if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            found.clear()  # the loops around a function are not those around its call
        elif isinstance(inner, _LOOPS) and not _in_header(inner, line):
            found.insert(0, inner)
    return found


def _in_header(node: Any, line: int) -> bool:
    return bool(line < node.body[0].lineno)


@lru_cache(maxsize=4096)
def is_foreign(file: str) -> bool:
    """Tell whether a file belongs to Relight, to an installed library or to Python itself, not to the script."""
    return file.startswith((_OWN, "<", _STANDARD)) or any(part in Path(file).parts for part in _INSTALLED)


@lru_cache(maxsize=64)
def parse_file(file: str) -> ast.Module | None:
    """Return the syntax tree of a source file; None if it cannot be read or parsed."""
    try:
        return ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError, RecursionError):
        return None
