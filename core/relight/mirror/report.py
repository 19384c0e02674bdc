"""Where a run is copied to and how far the copy is, for `show`, its JSON, and the run's page."""

from __future__ import annotations

import contextlib
import time

import msgspec

from relight.checkpoints.listing import newest_durable
from relight.errors import DamagedFile
from relight.mirror.address import MirrorAddress, parse_mirror
from relight.runs.layout import RunLayout
from relight.runs.process_identity import is_alive
from relight.runs.record_file import read_record, read_record_or_none, write_record
from relight.runs.records import MirrorState, MirrorTarget
from relight.wording import count, describe_age, describe_bytes


class MirrorReport(msgspec.Struct, frozen=True, kw_only=True):
    """The copy of a run elsewhere. The fields are a contract: they are in `show --json`."""

    url: str
    """Of the run's own copy."""
    copied_step: int | None
    """The newest checkpoint there; None before the first one is."""
    copied_s: float | None
    """When it was complete there."""
    checkpoints: int
    """How many are there."""
    waiting_checkpoints: int
    waiting_bytes: int
    failure: str | None
    failing_since_s: float | None
    refused: bool
    """The failure will not pass: a person must look at it."""
    copying: bool
    """Whether a process copies, or waits for something to copy."""


def set_mirror(layout: RunLayout, address: MirrorAddress) -> None:
    """Copy the run there from now on; a run that trains begins within seconds. Raises `OSError`."""
    write_record(layout.mirror, MirrorTarget(url=address.url))


def read_mirror(layout: RunLayout) -> MirrorAddress | None:
    """Return where the run is copied to; None without a mirror. Raises `DamagedFile` and `UsageError`."""
    try:
        return parse_mirror(read_record(layout.mirror, MirrorTarget).url)
    except FileNotFoundError:
        return None


def read_mirror_report(layout: RunLayout) -> MirrorReport | None:
    """Return how far the copy is; None for a run without a mirror. Raises `DamagedFile` if its record is damaged."""
    try:
        url = read_record(layout.mirror, MirrorTarget).url
    except FileNotFoundError:
        return None
    state = read_record_or_none(layout.mirror_state, MirrorState)
    if state is None or state.url != url:
        state = MirrorState(url=url, time_s=0.0)
    copying = is_alive(state.process)
    waiting = state.waiting_checkpoints
    if not copying and not waiting and not state.refused:
        with contextlib.suppress(OSError):  # it was killed, and could not say what waits
            newest = newest_durable(layout.checkpoints)
            waiting = int(newest is not None and newest[0] > (state.copied_sequence or 0))
    return MirrorReport(
        url=f"{url.rstrip('/')}/{layout.run_id}",
        copied_step=state.copied_step,
        copied_s=state.copied_s,
        checkpoints=state.checkpoints,
        waiting_checkpoints=waiting,
        waiting_bytes=state.waiting_bytes,
        failure=state.failure,
        failing_since_s=state.failing_since_s,
        refused=state.refused,
        copying=copying,
    )


def word_copied(report: MirrorReport, *, age: str) -> str:
    """Say what is there: "Copied to s3://… up to step 1,200, 14 s ago"; `age` is how long ago, in words."""
    if report.copied_step is None:
        return f"Nothing has been copied to {report.url} yet"
    return f"Copied to {report.url} up to step {report.copied_step:,}{f', {age}' if age else ''}"


def word_waiting(report: MirrorReport) -> str:
    """Say what waits, and why; "" when nothing does."""
    why = ""
    if report.failure is not None:
        why = report.failure if report.failure.endswith(".") else f"{report.failure}."
    if report.refused:
        return why
    if report.failing_since_s is not None:
        why = f"{why[:-1]} since {_word_moment(report.failing_since_s)}."
    if not report.waiting_checkpoints:
        return why
    size = f" ({describe_bytes(report.waiting_bytes)})" if report.waiting_bytes else ""
    what = f"{count(report.waiting_checkpoints, 'checkpoint')}{size}"
    if report.copying:
        waits = "waits" if report.waiting_checkpoints == 1 else "wait"
        return f"{what} {waits}: {why}" if why else f"{what} on the way."
    verb = "is" if report.waiting_checkpoints == 1 else "are"
    return f"{what} {verb} not copied{f': {why}' if why else ', and no process copies now.'}"


def word_mirror(report: MirrorReport, *, now_s: float) -> str:
    """Say in one or two sentences how far the copy is."""
    age = describe_age(report.copied_s, now_s=now_s) if report.copied_s is not None else ""
    return f"{word_copied(report, age=age)}. {word_waiting(report)}".strip()


def find_mirror(layout: RunLayout) -> tuple[MirrorReport | None, str | None]:
    """Return the report, and else what is wrong with its record."""
    try:
        return read_mirror_report(layout), None
    except DamagedFile as error:
        return None, str(error)


def _word_moment(time_s: float) -> str:
    moment = time.localtime(time_s)
    today = moment[:3] == time.localtime()[:3]
    return time.strftime("%H:%M" if today else "%d %b, %H:%M", moment)
