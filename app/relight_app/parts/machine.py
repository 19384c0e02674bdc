"""The Machine page: CPU, memory, disk, GPUs and the processes on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from relight.machine.gpu import ALARM_WORDS, GpuCard
from relight.machine.host import HostSample
from relight.machine.report import GpuProcessRow, MachinePoint, MachineReport
from relight.overview.ranks_report import list_rank_pids
from relight.overview.summary import RunSummary
from relight.runs.layout import RunLayout
from relight.wording import count, describe_bytes, describe_duration
from relight_app.charts import draw_sparkline, thin_out
from relight_app.engine import Engine
from relight_app.machine_reader import latest_machine_report, machine_history
from relight_app.markup import Markup, tag, wide_table
from relight_app.navigation import address
from relight_app.parts.part import Query

_FULL_PERCENT, _CROWDED_PERCENT = 95.0, 85.0
_FEWEST_POINTS = 6
_LOAD_POINTS = 240


def build_machine_part(engine: Engine, query: Query) -> Markup:
    """Build the page's only part from the newest figures."""
    live = [run for run in engine.list_runs().runs if run.status.is_live]
    return tag(
        "div",
        tag("h1", "Machine"),
        build_machine(latest_machine_report(), history=machine_history(), live=live),
        class_="stack wide",
        data_title="Machine · Relight",
    )


def build_machine(
    report: MachineReport, *, history: Sequence[MachinePoint] = (), live: Sequence[RunSummary] = ()
) -> Markup:
    """Build the body of the page. `history` is the load of the last hours, and `live` the runs that train."""
    return tag(
        "div",
        _build_host(report.host, history),
        _build_trainings(live),
        _build_gpus(report, history, _find_trainers(live)),
        class_="stack wide",
    )


def _find_trainers(live: Sequence[RunSummary]) -> dict[int | None, RunSummary]:
    """Return the processes of the runs that train: the trainer, or every rank."""
    found: dict[int | None, RunSummary] = {run.pids.trainer: run for run in live}
    for run in live:
        found.update(dict.fromkeys(list_rank_pids(RunLayout(Path(run.path)), run.attempt).values(), run))
    return found


def build_meter(label: str, percent: float | None, words: str, *, alarm: bool = False, watch: bool = True) -> Markup:
    """Build a labeled bar. With `watch`, it turns orange and then red when it is nearly full."""
    state = ""
    if percent is not None and watch:
        state = "bad" if percent >= _FULL_PERCENT else "warn" if percent >= _CROWDED_PERCENT else ""
    return tag(
        "div",
        tag("div", tag("span", label), tag("span", words, class_="muted"), class_="line"),
        tag(
            "div",
            tag("i", style=f"width:{min(100.0, percent or 0.0):.1f}%"),
            class_=f"bar {'bad' if alarm else state}",
            role="progressbar",
            aria_label=label,
            aria_valuemin="0",
            aria_valuemax="100",
            aria_valuenow=None if percent is None else round(percent),
        ),
        class_="meter",
    )


def _build_trainings(live: Sequence[RunSummary]) -> Markup | None:
    """Build the table of the runs that train here, with what each takes."""
    if not live:
        return None
    rows = [
        tag(
            "tr",
            tag("td", tag("a", run.name, class_="link", href=address("run", id=run.run))),
            tag("td", str(run.pids.trainer or "–"), class_="right mono"),
            tag("td", _percent(run.metrics.get("system/cpu_share_percent")), class_="right"),
            tag("td", _bytes(run.metrics.get("system/memory_bytes")), class_="right"),
            tag("td", _bytes(_gpu_bytes(run)), class_="right"),
            data_key=run.run,
        )
        for run in live
    ]
    heads = ["Training", *(tag("th", head, scope="col", class_="right")
                           for head in ("Process", "CPU", "Memory", "GPU memory"))]  # fmt: skip
    return tag("div", tag("h2", "Trainings"), wide_table(heads, rows, label="Trainings"), class_="stack")


def _build_load(history: Sequence[MachinePoint], read: Callable[[MachinePoint], float], label: str) -> Markup | None:
    """Build the curve of a load over the last hours; it begins when the dashboard was started."""
    if len(history) < _FEWEST_POINTS:
        return None
    values = thin_out(np.array([read(point) for point in history]), points=_LOAD_POINTS)
    since = describe_duration(history[-1].time - history[0].time)
    return tag(
        "div",
        draw_sparkline(values, label=f"{label}, the last {since}", ends=(0.0, 1.0)),
        tag("div", f"the last {since}", class_="sub"),
        class_="load",
    )


def _build_host(host: HostSample | None, history: Sequence[MachinePoint]) -> Markup:
    if host is None:
        return tag("div", "Reading the machine…", class_="notice plain", role="status")
    memory = _share(host.machine_memory_bytes, host.machine_memory_total_bytes)
    used = None
    if host.disk_total_bytes is not None and host.disk_free_bytes is not None:
        used = host.disk_total_bytes - host.disk_free_bytes
    return tag(
        "div",
        _card(
            "CPU",
            count(round(host.cpu_count), "core"),
            build_meter("In use", host.machine_cpu_percent, _percent(host.machine_cpu_percent), watch=False),
            tag("div", f"1 min load average: {host.load_1m:.2f}", class_="sub") if host.load_1m is not None else None,
            _build_load(history, lambda point: point.cpu, "CPU in use"),
        ),
        _card(
            "Memory",
            describe_bytes(host.machine_memory_total_bytes),
            build_meter(
                "In use", memory,
                f"{describe_bytes(host.machine_memory_bytes)} of {describe_bytes(host.machine_memory_total_bytes)}",
            ),
            tag(
                "div",
                f"Free: {describe_bytes(host.machine_memory_total_bytes - host.machine_memory_bytes)}",
                class_="sub",
            ),
            _build_load(history, lambda point: point.memory, "Memory in use"),
        ),
        _card(
            "Disk (runs folder)",
            describe_bytes(host.disk_total_bytes) if host.disk_total_bytes else None,
            build_meter(
                "In use", _share(used, host.disk_total_bytes),
                f"{describe_bytes(host.disk_free_bytes)} free" if host.disk_free_bytes is not None else "unknown",
            ),
            tag("div", _disk_rates(host), class_="sub"),
        ),
        class_="grid",
    )  # fmt: skip


def _build_gpus(
    report: MachineReport, history: Sequence[MachinePoint], trainers: Mapping[int | None, RunSummary]
) -> Markup:
    if not report.gpu.cards:
        reason = report.gpu.absent_reason or "No GPU was found."
        return tag("div", tag("h2", "GPUs"), tag("div", reason, class_="notice plain", role="status"), class_="stack")
    versions = [f"driver {report.gpu.driver}"] if report.gpu.driver else []
    versions += [f"CUDA {report.gpu.cuda}"] if report.gpu.cuda else []
    return tag(
        "div",
        tag("h2", "GPUs ", tag("span", ", ".join(versions), class_="sub")),
        tag("div", [_build_card(card, _load_of(history, card)) for card in report.gpu.cards], class_="grid"),
        _build_processes(report.gpu_processes, report.gpu.cards, trainers),
        class_="stack",
    )


def _load_of(history: Sequence[MachinePoint], card: GpuCard) -> Markup | None:
    def read(point: MachinePoint) -> float:
        return point.gpu[card.index] if card.index < len(point.gpu) else math.nan

    return _build_load(history, read, f"Utilization of GPU {card.index}")


def _build_card(card: GpuCard, load: Markup | None = None) -> Markup:
    title = f"GPU {card.index}"
    if card.error is not None:
        return _card(title, card.name, tag("div", card.error, class_="notice bad", role="alert"))
    alarm = bool(card.throttle_alarm)
    return _card(
        title,
        card.name,
        build_meter("Utilization", card.utilization_percent, _percent(card.utilization_percent), watch=False),
        build_meter(
            "Memory", _share(card.memory_used_bytes, card.memory_total_bytes),
            _of(card.memory_used_bytes, card.memory_total_bytes),
        ),
        build_meter(
            "Power", _share(card.power_w, card.power_limit_w),
            "unknown" if card.power_w is None else f"{card.power_w:.0f} W"
            + (f" of {card.power_limit_w:.0f} W" if card.power_limit_w else ""),
            watch=False,
        ),
        tag(
            "div",
            tag("span", "temperature unknown" if card.temperature_c is None else f"{card.temperature_c:.0f} °C",
                class_="badge bad" if alarm else "badge"),
            tag("span", f"{card.sm_clock_mhz:.0f} MHz", class_="badge") if card.sm_clock_mhz is not None else None,
            [
                tag("span", words, class_="badge bad" if words in ALARM_WORDS else "badge")
                for words in card.throttle_reasons
            ],
            class_="row",
        ),
        load,
    )  # fmt: skip


def _build_processes(
    rows: Sequence[GpuProcessRow], cards: Sequence[GpuCard], trainers: Mapping[int | None, RunSummary]
) -> Markup:
    if not rows:
        known = any(card.processes_known for card in cards)
        words = "No processes on the GPUs." if known else "The driver does not report the processes on the GPUs."
        return tag("p", words, class_="sub")
    heads = ("GPU", "Process", "Run", "User", "Memory", "Command")
    return wide_table(heads, [_process_row(row, trainers.get(row.pid)) for row in rows], label="Processes on the GPUs")


def _process_row(row: GpuProcessRow, run: RunSummary | None) -> Markup:
    return tag(
        "tr",
        tag("td", str(row.gpu_index)),
        tag("td", f"{row.name or 'unknown'} ", tag("span", str(row.pid), class_="sub mono"), class_="nowrap"),
        tag("td", tag("a", run.name, class_="link", href=address("run", id=run.run)) if run is not None else "–"),
        tag("td", row.user or "–"),
        tag("td", "–" if row.memory_bytes is None else describe_bytes(row.memory_bytes), class_="nowrap"),
        tag("td", row.command or "–", class_="mono clip command"),
        data_key=f"{row.gpu_index}-{row.pid}",
    )


def _card(title: str, detail: str | None, *body: object) -> Markup:
    return tag(
        "section",
        tag("header", tag("h2", title), tag("span", detail, class_="sub clip") if detail else None),
        tag("div", body, class_="body stack"),
        class_="card",
        aria_label=title,
    )


def _share(part: float | None, whole: float | None) -> float | None:
    return 100.0 * part / whole if part is not None and whole else None


def _percent(value: float | None) -> str:
    return "unknown" if value is None or math.isnan(value) else f"{value:.0f} %"


def _bytes(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else describe_bytes(value)


def _gpu_bytes(run: RunSummary) -> float | None:
    found = [value for name, value in run.metrics.items() if name.endswith("_process_memory_bytes")]
    return sum(found) if found else None


def _of(part: float | None, whole: float | None) -> str:
    if part is None:
        return "unknown"
    return describe_bytes(part) + (f" of {describe_bytes(whole)}" if whole else "")


def _disk_rates(host: HostSample) -> str:
    if host.disk_read_bytes_s is None or host.disk_write_bytes_s is None:
        return "Read and write rates are unavailable."
    return f"Reading {describe_bytes(host.disk_read_bytes_s)}/s, writing {describe_bytes(host.disk_write_bytes_s)}/s"
