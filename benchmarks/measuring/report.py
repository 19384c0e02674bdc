"""A benchmark's report: printed, and written as Markdown and JSON under its date."""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measuring.machine import ROOT, describe_load, describe_machine

RESULTS = ROOT / "benchmarks" / "results"


@dataclass
class Report:
    """What one script measured. `data` holds the numbers behind the tables, for further computation."""

    name: str
    title: str
    method: str
    machine: dict[str, Any] = field(default_factory=describe_machine)
    load_before: str = field(default_factory=describe_load)
    parts: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)

    def add_table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Add a table under a heading."""
        lines = [f"## {title}", "", f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
        lines += [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
        self.parts.append("\n".join(lines))

    def add_text(self, text: str) -> None:
        """Add a paragraph."""
        self.parts.append(text)

    def finish(self, folder: Path | None) -> None:
        """Print the report, and write it into `folder` if there is one."""
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        facts = {**self.machine, "date": today, "load_before": self.load_before, "load_after": describe_load()}
        shown = "; ".join(f"{key} {value}" for key, value in facts.items())
        page = "\n\n".join([f"# {self.title}", self.method, f"Measured on: {shown}.", *self.parts]) + "\n"
        print(page)
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        stem = folder / f"{today}-{self.name}"
        stem.with_suffix(".md").write_text(page, encoding="utf-8")
        record = {"benchmark": self.name, "machine": facts, "data": self.data}
        stem.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"Written to {stem}.md and .json")


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every benchmark has."""
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the dated result (%(default)s)")
    parser.add_argument("--dry", action="store_true", help="print the result and write no file")


def results_folder(options: argparse.Namespace) -> Path | None:
    """Return the folder for the result; None with --dry."""
    return None if options.dry else options.results
