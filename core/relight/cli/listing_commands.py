"""`list`, `show`, `metrics` and `logs`: commands that inspect runs and change nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from relight.cli.options import INSPECTING, JsonOption, RunArgument, RunsOption, examples, repeat_runs_option
from relight.cli.output import say, say_error, say_json, say_table
from relight.errors import UsageError
from relight.overview.summary_wording import word_best, word_disk, word_pace, word_progress, word_risk
from relight.wording import count, describe_age, describe_bytes, describe_value

if TYPE_CHECKING:
    from relight.drill.proof import JudgedProof
    from relight.overview.death import Death
    from relight.overview.summary import RunSummary
    from relight.runs.layout import RunLayout

_LOG_BYTES = 16 << 20
"""How much of the end of a log `logs` reads to find the last lines."""
_END_CHECK_S = 0.5


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command(
        "list",
        rich_help_panel=INSPECTING,
        epilog=examples(
            "relight list",
            "relight list --filter 'lr<0.01 status:crashed updated<2d' --sort -best",
            "relight list --columns status,best,differing",
        ),
    )(list_)
    app.command(
        "show",
        rich_help_panel=INSPECTING,
        epilog=examples("relight show digits-k3f9", "relight show digits-k3f9 --follow"),
    )(show)
    app.command(
        "metrics",
        rich_help_panel=INSPECTING,
        epilog=examples("relight metrics digits-k3f9", "relight metrics digits-k3f9 --csv --stream train > train.csv"),
    )(metrics)
    app.command(
        "logs",
        rich_help_panel=INSPECTING,
        epilog=examples("relight logs digits-k3f9 -f", "relight logs digits-k3f9 --lines 20 --attempt 1"),
    )(logs)


def list_(
    *,
    search: Annotated[
        str,
        typer.Option(
            "--filter",
            metavar="TEXT",
            help="Only runs that match, such as 'lr<0.01 status:crashed tag:vision'. `--filter help` explains it.",
            show_default=False,
        ),
    ] = "",
    sort: Annotated[
        str,
        typer.Option(
            "--sort",
            metavar="KEY",
            help="Sort by a column, a config key or a metric; -KEY is descending. Default: newest first.",
            show_default=False,
        ),
    ] = "",
    columns: Annotated[
        str,
        typer.Option(
            "--columns",
            metavar="KEY,…",
            help="Show these columns, config keys or metrics; 'differing' is every config key that differs.",
            show_default=False,
        ),
    ] = "",
    archived: Annotated[bool, typer.Option("--archived", help="Include archived runs.")] = False,
    runs: RunsOption = None,
    json: JsonOption = False,
) -> None:
    """List runs.

    Newest first, each with its status, progress, best value, work at risk, and the time of its last activity.
    """
    from relight.overview.run_columns import COLUMNS
    from relight.overview.run_filter import FILTER_HELP, select_runs
    from relight.overview.summary import list_runs
    from relight.runs.catalog import runs_folder

    if search == "help":
        say("A run must match all terms. Other names are config keys or metrics.")
        say_table(("TERM", "FINDS"), FILTER_HELP)
        say()
        say(f"Columns for --sort and --columns: {', '.join(COLUMNS)}, and every config key and metric.")
        return
    if columns and json:
        raise UsageError("--columns and --json cannot be combined: JSON has everything.")
    folder = runs_folder(runs)
    listing = list_runs(folder)
    chosen = select_runs(listing.runs, text=search, sort=sort, archived=archived)
    if json:
        say_json([*chosen.runs, *(run.list_facts() for run in (() if search else listing.damaged))])
        return
    if not listing.runs and not listing.damaged:
        say(f"There are no runs in {folder} yet. Start one with: relight run digits")
        return
    head, rows = _make_table(chosen.runs, columns, now_s=time.time())
    if not search:
        rows += [(run.run, "damaged", *["-"] * (len(head) - 2))[: len(head)] for run in listing.damaged]
    if rows:
        say_table(head, rows)
    else:
        say(chosen.hint or f"No runs match ({len(listing.runs)} in all).")
    if chosen.hidden:
        say(f"{count(chosen.hidden, 'archived run')} not shown; --archived shows them.")
    for run in listing.damaged:
        say_error(f"{run.run}: {run.reason}")


def show(
    run_name: RunArgument,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Watch the run until it ends. Ctrl-C ends the watching, not the run."),
    ] = False,
    runs: RunsOption = None,
    json: JsonOption = False,
) -> None:
    """Show one run in detail.

    Prints its status and the reason for it, progress, best value, latest metrics, processes, work at risk, and the
    whole traceback after a crash.
    """
    from relight.drill.proof import judge_run
    from relight.overview.death import explain_death
    from relight.overview.summary import summarize_evidence
    from relight.runs.catalog import find_run, runs_folder
    from relight.runs.evidence import gather_evidence

    layout = find_run(runs_folder(runs), run_name)
    evidence = gather_evidence(layout)
    summary = summarize_evidence(evidence)
    if follow and summary.status.is_live:
        from relight.cli.following import follow_run

        code = follow_run(
            layout, attempt=summary.attempt, suffix=repeat_runs_option(runs), json=json, stop_on_interrupt=False
        )
        raise typer.Exit(code)
    proof = judge_run(layout, evidence.require_record())
    if json:
        fields = {name: getattr(summary, name) for name in summary.__struct_fields__}
        drilled = proof.list_facts() if proof is not None else None
        say_json({**fields, "proof": drilled, "death": explain_death(layout)})
        return
    facts = _list_facts(summary, now_s=time.time())
    if proof is not None:
        facts.insert(-1 if summary.error else len(facts), ("resume", _word_proof(proof)))
    death = explain_death(layout)
    if death is not None:
        facts += _list_death_facts(death, summary.run, suffix=repeat_runs_option(runs))
    width = max(len(name) for name, _ in facts)
    for name, text in facts:
        say(f"{name.ljust(width)}  {text}")
    if summary.traceback:
        say()
        say(summary.traceback.rstrip())


def metrics(
    run_name: RunArgument,
    *,
    csv: Annotated[bool, typer.Option("--csv", help="Print every record as CSV.")] = False,
    ghosts: Annotated[
        bool, typer.Option("--ghosts", help="With --csv: include steps that a later attempt trained again.")
    ] = False,
    stream: Annotated[
        list[str] | None,
        typer.Option(
            "--stream",
            metavar="NAME",
            help="Only this stream, such as train, validation or system; may be repeated.",
            show_default=False,
        ),
    ] = None,
    runs: RunsOption = None,
    json: JsonOption = False,
) -> None:
    """Print a run's metrics.

    Prints the latest, lowest and highest value of each metric or, with --csv, every record. If a step was trained
    twice, the latest attempt counts.
    """
    from relight.metrics.csv import write_csv
    from relight.metrics.metric_summary import summarize_metrics
    from relight.runs.catalog import find_run, runs_folder

    if csv and json:
        raise UsageError("--csv and --json cannot be combined.")
    if ghosts and not csv:
        raise UsageError("--ghosts needs --csv.")
    layout = find_run(runs_folder(runs), run_name)
    _check_streams(layout, stream or ())
    if csv:
        write_csv(layout.metrics, sys.stdout, stream or None, ghosts=ghosts)
        return
    found = summarize_metrics(layout.metrics, stream or None)
    if json:
        say_json(found)
    elif found:
        head = ("METRIC", "LATEST", "AT STEP", "LOWEST", "HIGHEST", "RECORDS")
        rows = [
            (
                metric.metric,
                describe_value(metric.latest),
                str(metric.step),
                describe_value(metric.lowest),
                describe_value(metric.highest),
                str(metric.records),
            )
            for metric in found
        ]
        say_table(head, rows, right=head[1:])
    else:
        say(f"{layout.run_id} has not logged any metrics yet.")


def logs(
    run_name: RunArgument,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing until the run ends.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", metavar="N", min=0, help="Print the last N lines.")] = 1000,
    attempt: Annotated[
        int | None,
        typer.Option(
            "--attempt", metavar="N", min=1, help="Attempt to print. Default: the latest.", show_default=False
        ),
    ] = None,
    rank: Annotated[int, typer.Option("--rank", metavar="N", min=0, help="Rank to print, of a run with --nproc.")] = 0,
    runs: RunsOption = None,
    json: JsonOption = False,
) -> None:
    """Print the output of a run's trainer.

    Prints the end of what it wrote to stdout and stderr.
    """
    from relight.runs.catalog import find_run, runs_folder
    from relight.runs.log import follow_log, read_log_tail, tail_offset

    if follow and json:
        raise UsageError("--follow and --json cannot be combined.")
    layout = find_run(runs_folder(runs), run_name)
    known = layout.list_attempts()
    if attempt is not None and attempt not in known:
        there = f"it has {', '.join(map(str, known))}" if known else "it has not started yet"
        raise UsageError(f"{layout.run_id} has no attempt {attempt}: {there}.")
    number = attempt or layout.latest_attempt()
    if rank not in (ranks := layout.list_ranks(number)):
        there = "it was trained by one process" if len(ranks) == 1 else f"it has 0 to {ranks[-1]}"
        raise UsageError(f"Attempt {number} of {layout.run_id} has no rank {rank}: {there}.")
    path = layout.of_rank(rank).attempt(number).log
    if follow:
        for line in follow_log(path, ended=_watch_for_end(layout, number), offset=tail_offset(path, lines=lines)):
            sys.stdout.write(line)
            sys.stdout.flush()
        return
    text = read_log_tail(path, lines=lines, max_bytes=_LOG_BYTES)
    if json:
        say_json({"run": layout.run_id, "attempt": number, "path": str(path), "lines": text.splitlines()})
    else:
        sys.stdout.write(text if not text or text.endswith("\n") else text + "\n")


def _check_streams(layout: RunLayout, streams: Sequence[str]) -> None:
    from relight.metrics.metric_scan import scan_metrics

    known = scan_metrics(layout.metrics).streams
    for name in streams:
        if name not in known:
            there = f"it has {', '.join(known)}" if known else "it has not logged anything yet"
            raise UsageError(f"{layout.run_id} has no stream '{name}': {there}.")


def _watch_for_end(layout: RunLayout, attempt: int) -> Callable[[], bool]:
    """Return a function that says whether an attempt has ended. It reads the folder at most twice per second."""
    from relight.overview.summary import summarize_run

    checked_s, ended = -1.0, False

    def has_ended() -> bool:
        nonlocal checked_s, ended
        if time.monotonic() - checked_s > _END_CHECK_S:
            checked_s = time.monotonic()
            summary = summarize_run(layout)
            ended = summary.attempt > attempt or not summary.status.is_live
        return ended

    return has_ended


def _make_table(
    summaries: list[RunSummary], columns: str, *, now_s: float
) -> tuple[Sequence[str], list[tuple[str, ...]]]:
    """Return head and rows of the list, with the usual columns or the chosen ones."""
    from relight.overview.run_columns import COLUMNS, find_column, find_differing_config, word_value

    if not columns:
        head = ("RUN", "STATUS", "PROGRESS", "BEST", "AT RISK", "UPDATED")
        return head, [_make_row(summary, now_s=now_s) for summary in summaries]
    keys: list[str] = []
    for name in filter(None, map(str.strip, columns.split(","))):
        keys += find_differing_config(summaries) if name == "differing" else [find_column(name, summaries)]
    keys = [key for key in dict.fromkeys(keys) if key not in ("run", "name")]
    rows = [(_word_run(summary), *(word_value(summary, key, now_s=now_s) for key in keys)) for summary in summaries]
    return ("RUN", *(COLUMNS[key].title.upper() if key in COLUMNS else key for key in keys)), rows


def _word_run(summary: RunSummary) -> str:
    named = summary.name in (summary.run, summary.task) or summary.run.startswith(f"{summary.name}-")
    return summary.run if named else f"{summary.run} ({summary.name})"


def _make_row(summary: RunSummary, *, now_s: float) -> tuple[str, ...]:
    return (
        _word_run(summary),
        str(summary.status),
        word_progress(summary),
        f"{describe_value(summary.best.value)} {summary.best.metric}" if summary.best else "-",
        word_risk(summary) or "-",
        describe_age(summary.updated_s, now_s=now_s),
    )


def _word_proof(judged: JudgedProof) -> str:
    """Say what the drill proved, and whether that still holds."""
    from relight.runs.fingerprint import word_changes

    proof = judged.proof
    verdict = "proven bit-exact" if proof.bit_exact else "not bit-exact"
    drilled = f"{verdict} by a drill {describe_age(proof.time_s, now_s=time.time())}"
    if judged.disagreement:
        return f"{drilled}. {judged.disagreement}"
    return f"{drilled}; out of date: {word_changes(judged.changes)}" if judged.changes else drilled


def _list_death_facts(death: Death, run: str, *, suffix: str) -> list[tuple[str, str]]:
    """Return the lines of `show` about what ended a run, and what to do next."""
    facts = []
    if death.frame is not None:
        facts.append(("raised at", f"{death.frame.place}: {death.frame.code}".rstrip(": ")))
    for user in death.gpu_users:
        who = "its own trainer" if user.pid is None else f"process {user.pid}" + (f" of {user.run}" if user.run else "")
        facts.append(("used the card", f"{who}: {describe_bytes(user.bytes)}"))
    facts.append(("next", death.advice.sentence))
    if death.advice.action == "branch":
        facts.append(("", f"relight branch {run} --from {death.advice.step} --set KEY=VALUE{suffix}"))
    elif death.advice.action != "launch":
        facts.append(("", f"relight resume {run}{suffix}"))
    return facts


def _list_facts(summary: RunSummary, *, now_s: float) -> list[tuple[str, str]]:
    """Return the lines of `show` as name and text, without those that have nothing to say."""
    pids = {"supervisor": summary.pids.supervisor, "trainer": summary.pids.trainer, "writer": summary.pids.writer}
    from relight.mirror.report import word_mirror
    from relight.overview.ranks_report import word_rank

    check = summary.resume_check
    facts: list[tuple[str, str | None]] = [
        ("run", summary.run if summary.name == summary.run else f"{summary.run} ({summary.name})"),
        ("task", summary.task),
        ("tags", ", ".join(summary.tags)),
        ("your note", summary.note),
        ("marks", ", ".join(mark for mark in ("starred", "archived") if getattr(summary, mark))),
        ("status", f"{summary.status}: {summary.reason}" if summary.reason else str(summary.status)),
        ("attempt", str(summary.attempt)),
        ("progress", word_pace(summary)),
        ("best", word_best(summary)),
        ("saved", "nothing yet" if summary.durable_step is None else f"up to step {summary.durable_step}"),
        ("at risk" if summary.status.is_live else "to train again", word_risk(summary)),
        ("checkpoints", summary.pacing.sentence if summary.pacing else None),
        ("saving fails", summary.saving_failure),
        ("disk", word_disk(summary)),
        ("mirror", word_mirror(summary.mirror, now_s=now_s) if summary.mirror is not None else None),
        ("parent", f"{summary.parent.run} at step {summary.parent.step}" if summary.parent else None),
        ("imported from", summary.imported_from.name if summary.imported_from else None),
        ("created", describe_age(summary.created_s, now_s=now_s)),
        ("processes", ", ".join(f"{name} {pid}" for name, pid in pids.items() if pid)),
        ("GPUs", ", ".join(map(str, summary.gpus or ()))),
        *(("ranks" if each.rank == 0 else "", word_rank(each)) for each in summary.ranks or ()),
        ("folder", summary.path),
        ("resume", check.sentence if check is not None and check.verdict == "exact" else None),
        *(("note", note) for note in summary.notes),
        *((name, describe_value(value)) for name, value in summary.metrics.items() if not name.startswith("system/")),
        ("error", summary.error),
    ]
    return [(name, text) for name, text in facts if text]
