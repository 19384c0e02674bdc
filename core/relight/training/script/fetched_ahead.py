"""Finds a batch that a script draws ahead without a loader, as nanoGPT does: each step draws the batch of the next.

    batch = get_batch()
    for step in run.steps(n):
        loss = model(batch)
        batch = get_batch()

The variable is not restored, and the line before the loop draws other random numbers in a resume.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from torch import Tensor

from relight.training.script.loop_source import Consumer, is_foreign, parse_file

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


def find_fetched_ahead(frame: FrameType | None, consumer: Consumer | None) -> str:
    """Return where the loop that `consumer` names draws ahead: "train.py, line 12: `x, y = get_batch()`"; or "".

    `frame` is the one that called `run.step`.
    """
    while frame is not None and consumer is not None and id(frame) != consumer.frame:
        frame = frame.f_back
    if frame is None or consumer is None or is_foreign(file := frame.f_code.co_filename):
        return ""
    tree = parse_file(file)
    scope = None if tree is None else _find_scope(tree, consumer.line)
    loop = None if scope is None else next((one for one in _walk(scope) if _is_loop_at(one, consumer.line)), None)
    if scope is None or not isinstance(loop, ast.For):
        return ""
    inside = list(_walk(loop))
    before = [node for node in _walk(scope) if getattr(node, "lineno", loop.lineno) < loop.lineno]
    for node in inside:
        for name in _names_assigned(node):
            reads = [one.lineno for one in inside if _reads(one, name)]
            twins = [one for one in before if name in _names_assigned(one) and _called(one) == _called(node)]
            held = frame.f_locals.get(name, frame.f_globals.get(name))
            if twins and reads and min(reads) < node.lineno and _holds_tensors(held):
                return f"{Path(file).name}, line {node.lineno}: `{ast.unparse(node)}`"
    return ""


def _find_scope(tree: ast.Module, line: int) -> ast.AST:
    """Return the innermost function that contains the line, or else the module."""
    found: ast.AST = tree
    for node in ast.walk(tree):  # outer ones come first
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.lineno <= line <= (node.end_lineno or 0):
            found = node
    return found


def _walk(scope: ast.AST) -> Iterator[Any]:
    """Yield the nodes inside `scope`, without those of functions and classes inside it."""
    for child in ast.iter_child_nodes(scope):
        yield child
        if not isinstance(child, _SCOPES):
            yield from _walk(child)


def _is_loop_at(node: ast.AST, line: int) -> bool:
    return isinstance(node, ast.For) and node.lineno <= line <= (node.iter.end_lineno or node.lineno)


def _names_assigned(node: ast.AST) -> list[str]:
    """Return the names to which a statement assigns what a call returns."""
    if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call):
        return []
    return [one.id for target in node.targets for one in ast.walk(target) if isinstance(one, ast.Name)]


def _called(node: Any) -> str:
    return ast.unparse(node.value.func)


def _reads(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load)


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, Tensor) or (
        isinstance(value, (list, tuple)) and any(isinstance(one, Tensor) for one in value)
    )
