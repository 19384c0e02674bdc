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
    "runs": Part(build_runs, ("runs", "jobs")),
    "deletion": Part(build_deletion),
    "run-header": Part(build_header, ("life", "files", "jobs")),
    "run-notices": Part(build_notices_part, ("life", "files", "jobs")),
    "run-exports": Part(build_exports_part, ("files", "jobs")),
    "run-figures": Part(build_figures_part, ("life",)),
    "run-checkpoints": Part(build_checkpoints_part, ("life", "files", "jobs")),
    "run-details": Part(build_details, ("life", "files", "log")),
    "launch-form": Part(build_launch_form),
    "launch-command": Part(build_launch_command_line),
    "launch-drill": Part(build_launch_drill, ("jobs",)),
    "branch-form": Part(build_branch_form),
    "branch-command": Part(build_branch_command_line),
    "machine": Part(build_machine_part, ("machine",)),
}
