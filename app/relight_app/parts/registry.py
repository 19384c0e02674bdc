"""All parts by name: what `GET /parts/NAME` serves, and which parts each page shows."""

from __future__ import annotations

from relight_app.parts.branch import build_branch_command_line, build_branch_form
from relight_app.parts.deletion import build_deletion
from relight_app.parts.launch import build_launch_command_line, build_launch_drill, build_launch_form
from relight_app.parts.machine import build_machine_part
from relight_app.parts.part import Part
from relight_app.parts.run import (
    build_checkpoints_part,
    build_details,
    build_exports_part,
    build_figures_part,
    build_header,
    build_notices_part,
)
from relight_app.parts.run_list import build_runs

PARTS: dict[str, Part] = {
    "runs": Part(build_runs, ("runs", "jobs"), ("status", "q", "sort", "columns", "rows", "archived")),
    "deletion": Part(build_deletion, (), ("ids",)),
    "run-header": Part(build_header, ("life", "files", "jobs"), ("id",)),
    "run-notices": Part(build_notices_part, ("life", "files", "jobs"), ("id",)),
    "run-exports": Part(build_exports_part, ("files", "jobs"), ("id",)),
    "run-figures": Part(build_figures_part, ("life",), ("id",)),
    "run-checkpoints": Part(build_checkpoints_part, ("life", "files", "jobs"), ("id",)),
    "run-details": Part(build_details, ("life", "files", "log"), ("id", "tab", "attempt", "rank")),
    "launch-form": Part(build_launch_form, (), ("task", "file", "from")),
    "launch-command": Part(build_launch_command_line, (), ("request",)),
    "launch-drill": Part(build_launch_drill, ("jobs",), ("task", "file")),
    "branch-form": Part(build_branch_form, (), ("id", "step")),
    "branch-command": Part(build_branch_command_line, (), ("request",)),
    "machine": Part(build_machine_part, ("machine",)),
}
