"""The parts of a run's page."""

from __future__ import annotations

import time
from dataclasses import dataclass

from relight.checkpoints.export import FORMATS
from relight.checkpoints.listing import find_best
from relight.errors import DamagedFile, RelightError
from relight.overview.summary import RunSummary
from relight.runs.records import RunRecord
from relight.runs.status import RunStatus
from relight.wording import count
from relight_app.actions import Drill, drill_subject
from relight_app.engine import Engine
from relight_app.jobs import Job
from relight_app.markup import Markup, tag
from relight_app.navigation import address
from relight_app.parts.attempts import build_attempts
from relight_app.parts.checkpoints import build_checkpoints
from relight_app.parts.config import build_config
from relight_app.parts.controls import Confirmation, action_button, menu, tabs
from relight_app.parts.death import build_death, build_non_finite
from relight_app.parts.drill import DRILL_HELP, build_proof_card
from relight_app.parts.empty import build_empty
from relight_app.parts.exports import build_export_strip
from relight_app.parts.figures import build_figures, plan_figures
from relight_app.parts.forms import name_task
from relight_app.parts.log import build_log
from relight_app.parts.mirror import build_mirror
from relight_app.parts.notice import build_problem
from relight_app.parts.part import Query
from relight_app.parts.run_header import build_family, build_identity, build_run_notices
from relight_app.parts.run_list import build_run_menu, describe_ended
from relight_app.problems import explain
from relight_app.urls import csv_url, log_url

_NOTHING = Markup("")
_TABS = {"log": "Log", "config": "Config", "attempts": "Attempts"}
_ATTEMPTS = 50
"""How many of the newest attempts are shown with their environment."""


@dataclass(frozen=True)
class _Run:
    """The run that a page is about."""

    summary: RunSummary
    record: RunRecord

    @property
    def id(self) -> str:
        return self.summary.run


def build_header(engine: Engine, query: Query) -> Markup:
    """Build the name, the identity and the buttons; for a run that cannot be read, a card that says why."""
    try:
        run = _find(engine, query)
    except DamagedFile as error:
        return _build_missing("Damaged run", "This run cannot be read", str(error))
    except RelightError as error:
        return _build_missing("Run not found", "This run may have been moved or deleted", str(error))
    summary, record = run.summary, run.record
    return tag(
        "div",
        tag(
            "div",
            tag("h1", summary.name),
            build_identity(
                summary, record, device=engine.read_device(summary), proof=engine.read_proof(summary, record)
            ),
            build_family(record, engine.list_branches(run.id)),
            class_="stack",
        ),
        tag(
            "div",
            _life_buttons(engine, run),
            _export_buttons(engine, run),
            menu(build_run_menu(summary)[1:], key="run", label=summary.name),
            class_="row buttons",
        ),
        class_="page-header",
        data_title=f"{summary.name} ({summary.status}) · Relight",
        data_ended=describe_ended([summary]),
    )


def build_notices_part(engine: Engine, query: Query) -> Markup:
    """Build what a person must see first: how the run died, failing saves, a refused resume, damaged files."""
    run = _find_or_none(engine, query)
    if run is None:
        return _NOTHING
    listing = engine.list_checkpoints(run.id)
    job = engine.jobs.find_newest("resume", run.id)
    refused = None
    if job is not None and job.error is not None and not run.summary.status.is_live:
        refused = build_problem(explain(job.error), key="resume")
    death = engine.explain_death(run.id)
    notices = [
        refused,
        build_death(death, run.summary, resuming=_is_running(job)) if death is not None else None,
        build_non_finite(run.summary),
        build_run_notices(run.summary, damaged=listing.damaged),
    ]
    return tag("div", notices, class_="stack") if any(notices) else _NOTHING


def build_exports_part(engine: Engine, query: Query) -> Markup:
    """Build the export in progress, and the newest export with its Download button."""
    run = _find_or_none(engine, query)
    if run is None:
        return _NOTHING
    job = engine.jobs.find_newest("export", run.id)  # before the files: if it has ended, its file is in the list
    best = find_best(engine.list_checkpoints(run.id).checkpoints, higher_is_better=run.record.higher_is_better)
    return build_export_strip(engine.list_exports(run.id), run=run.id, job=job, best=best) or _NOTHING


def build_figures_part(engine: Engine, query: Query) -> Markup:
    """Build the figures, which tick in the browser."""
    run = _find_or_none(engine, query)
    return build_figures(plan_figures(run.summary)) if run is not None else _NOTHING


def build_checkpoints_part(engine: Engine, query: Query) -> Markup:
    """Build the table of checkpoints, and the drill that proves a resume."""
    run = _find_or_none(engine, query)
    if run is None:
        return _NOTHING
    summary, record = run.summary, run.record
    checkpoints = engine.list_checkpoints(run.id).checkpoints
    drilled = engine.jobs.find(drill_subject(Drill(run=run.id)))
    verified = engine.jobs.find(("verify", run.id))
    if checkpoints:
        content = build_checkpoints(
            checkpoints, best_metric=record.best_metric, resume_refusal=_resume_refusal(summary), run=run.id,
            retention=engine.plan_retention(run.id),
        )  # fmt: skip
    else:
        content = build_empty(
            "No checkpoint yet" if summary.status.is_live else "No checkpoint",
            "The first checkpoint follows within a minute of training. Until then, all work is at risk."
            if summary.status.is_live
            else "The run ended before its first checkpoint was durable. A resume starts from step 0.",
        )
    return tag(
        "section",
        tag(
            "div",
            tag("h2", "Checkpoints"),
            tag(
                "div",
                action_button(
                    "Verifying…" if _is_running(verified) else "Verify", "verify", {"run": run.id},
                    busy=_is_running(verified), title="Reads every file of the run and compares each digest.",
                ) if checkpoints else None,
                action_button(
                    "Prove resume", "drill", {"run": run.id}, icon_name="verified", busy=_is_running(drilled),
                    title=DRILL_HELP,
                ),
                class_="row push",
            ),
            class_="row",
        ),
        tag("p", summary.pacing.sentence, class_="sub") if summary.pacing and summary.status.is_live else None,
        _build_verification(verified),
        build_proof_card(engine.read_proof(summary, record), drilled, key="drill-problem"),
        build_mirror(summary.mirror) if summary.mirror is not None else None,
        content,
        class_="stack",
        aria_label="Checkpoints",
    )  # fmt: skip


def build_details(engine: Engine, query: Query) -> Markup:
    """Build the tabs with the log, the config and the attempts."""
    run = _find_or_none(engine, query)
    if run is None:
        return _NOTHING
    chosen = query.get("tab", "log").lower()
    chosen = chosen if chosen in _TABS else "log"
    build = {"log": _build_log, "config": _build_config, "attempts": _build_attempts}[chosen]
    return tag(
        "section",
        tabs("Details", "tab", _TABS, chosen),
        tag("div", build(engine, run, query), role="tabpanel", id="panel-tab", aria_labelledby=f"tab-{chosen}",
            data_key=chosen),
        class_="stack",
    )  # fmt: skip


def _find(engine: Engine, query: Query) -> _Run:
    # The folder's name is the id: the `run.json` of a copied run still has the id of the original.
    name = engine.find_layout(query.get("id", "")).run_id
    return _Run(engine.read_run(name), engine.read_record(name))


def _find_or_none(engine: Engine, query: Query) -> _Run | None:
    try:
        return _find(engine, query)
    except RelightError:
        return None  # the header says so


def _build_missing(title: str, text: str, sentence: str) -> Markup:
    back = tag("a", "See all runs", class_="button", href=address("runs"))
    return tag("div", tag("h1", title), build_empty(text, sentence, action=back), class_="stack", data_title=title)


def _life_buttons(engine: Engine, run: _Run) -> list[Markup]:
    summary = run.summary
    if _is_running(engine.jobs.find_newest("resume", run.id)):
        waiting = "Waiting for a process of the previous attempt to end."
        return [action_button("Resuming…", "resume", {"run": run.id}, busy=True, title=waiting)]
    if summary.status in (RunStatus.CRASHED, RunStatus.INTERRUPTED, RunStatus.STOPPED):
        where = (
            f"Continues from step {summary.durable_step:,}"
            if summary.durable_step
            else "No checkpoint: starts from step 0"
        )
        death = engine.explain_death(run.id)
        advised = death is None or death.advice.action == "resume"  # else the card of the death has the solid button
        return [
            action_button(
                "Resume", "resume", {"run": run.id, "attempt": summary.attempt}, icon_name="resume",
                class_="button solid" if advised else "button", title=f"{where}, as attempt {summary.attempt + 1}.",
                data_key_r=True,
            )
        ]  # fmt: skip
    if not summary.status.is_live:
        return []
    stopping = engine.read_stop(summary)
    if stopping is None:
        if summary.saving_failure:
            return [_stop_now(summary, label="Stop")]
        return [
            action_button(
                "Stop", "stop", {"run": run.id}, icon_name="stopped",
                title="Stops at the next step edge with a checkpoint. Nothing is lost.", data_key_s=True,
            )
        ]  # fmt: skip
    waiting = "The run stops at the next step edge."
    buttons = [action_button("Stopping…", "stop", {"run": run.id}, busy=True, title=waiting)]
    return buttons if stopping.now else [*buttons, _stop_now(summary, label="Stop now")]


def _stop_now(summary: RunSummary, *, label: str) -> Markup:
    why = f"Checkpoints cannot be saved right now ({summary.saving_failure}). " if summary.saving_failure else ""
    steps = count(summary.work_at_risk_steps, "step")
    question = f"{why}Stopping now loses the work since the last checkpoint: {steps}."
    return action_button(
        label, "stop", {"run": summary.run, "now": True}, title="Stops without waiting for a checkpoint.",
        confirm=Confirmation("Stop and lose work?", question, yes="Stop now", no="Keep training"),
    )  # fmt: skip


def _export_buttons(engine: Engine, run: _Run) -> Markup:
    checkpoints = engine.list_checkpoints(run.id).checkpoints
    best = find_best(checkpoints, higher_is_better=run.record.higher_is_better)
    chosen = best or (checkpoints[-1] if checkpoints else None)
    refusal = "There is no checkpoint yet." if chosen is None else None
    if best is not None:
        what = f"Exports the best checkpoint so far, step {best.step:,}."
    else:
        what = f"No checkpoint has a score yet. Exports the newest one, step {chosen.step:,}." if chosen else ""
    which = "best" if best is not None else "latest"
    buttons = []
    for format in FORMATS:
        busy = _is_running(engine.jobs.find(("export", run.id, which, format)))
        words = "Export best weights" if format == FORMATS[0] else f".{format}"
        buttons.append(
            action_button(
                words, "export", {"run": run.id, "which": which, "format": format}, refusal=refusal, busy=busy,
                icon_name="download" if format == FORMATS[0] else None, title=f"{what} As a .{format} file.",
            )
        )  # fmt: skip
    return tag("div", buttons, class_="joined", role="group", aria_label="Export")


def _build_verification(job: Job | None) -> Markup | None:
    if job is None or job.is_running:
        return None
    if job.error is not None:
        return build_problem(explain(job.error), key="verify")
    check = job.result["check"]
    read = f"{count(check['checkpoints'], 'checkpoint')} and {count(check['files'], 'other file')} read"
    if not check["damaged"]:
        return tag("div", f"{read}: every digest matches.", class_="notice plain", role="status")
    return tag(
        "div",
        tag("strong", f"{read}: {count(len(check['damaged']), 'file')} damaged."),
        tag(
            "ul",
            [tag("li", tag("span", one["path"], class_="mono"), ": ", one["reason"]) for one in check["damaged"]],
        ),
        class_="notice bad",
        role="alert",
    )


def _build_log(engine: Engine, run: _Run, query: Query) -> Markup:
    numbers = engine.list_attempt_numbers(run.id)
    asked = query.get("attempt", "")
    number = int(asked) if asked.isdecimal() and len(asked) < 10 and int(asked) in numbers else run.summary.attempt
    ranks = engine.find_layout(run.id).list_ranks(number)
    asked = query.get("rank", "")
    rank = int(asked) if asked.isdecimal() and len(asked) < 7 and int(asked) in ranks else 0
    try:
        text = engine.read_log(run.id, attempt=number, rank=rank)
    except RelightError as error:
        text = str(error)
    picker = rank_picker = None
    if len(ranks) > 1:
        of_newest = (run.summary.ranks or ()) if number == run.summary.attempt else ()
        cards = {each.rank: f" on GPU {each.gpu}" for each in of_newest if each.gpu is not None}
        rank_picker = tag(
            "label", tag("span", "Rank ", class_="sub"),
            tag(
                "select",
                [
                    tag("option", f"Rank {one}{cards.get(one, '')}", value=str(one or ""), selected=one == rank)
                    for one in ranks
                ],
                data_query="rank",
            ),
        )  # fmt: skip
    if len(numbers) > 1:
        newest = run.summary.attempt
        picker = tag(
            "label", tag("span", "Attempt ", class_="sub"),
            tag(
                "select",
                [
                    tag("option", f"Attempt {one}{' (newest)' if one == newest else ''}",
                        value="" if one == newest else str(one), selected=one == number)
                    for one in reversed(numbers)
                ],
                data_query="attempt",
            ),
        )  # fmt: skip
    whole = tag(
        "a", "Open the full log", class_="link", href=log_url(run.id, attempt=number, rank=rank), target="_blank"
    )
    foot = tag("p", f"End of the log of attempt {number}. ", whole, class_="sub")
    return tag("div", picker, rank_picker, build_log(text, number=number, foot=foot), class_="stack")


def _build_config(engine: Engine, run: _Run, query: Query) -> Markup:
    record = run.record
    again = {"task": record.task.name, "from": run.id}
    if record.task.kind != "builtin":
        again |= {"task": "file", "file": name_task(record.task)}
    changes = record.parent.changes if record.parent is not None else None
    return tag(
        "div",
        build_config(record.config, defaults=engine.default_config(record), changes=changes),
        tag(
            "p",
            tag("a", "Launch again with this config", class_="link", href=address("launch", **again)),
            " · ",
            tag("a", "Download metrics (CSV)", class_="link", href=csv_url(run.id), download=True),
            class_="sub",
        ),
        class_="stack",
    )


def _build_attempts(engine: Engine, run: _Run, query: Query) -> Markup:
    known = engine.list_attempts(run.summary)
    environments = {one.number: engine.read_environment(run.id, attempt=one.number) for one in known[-_ATTEMPTS:]}
    return build_attempts(known, now_s=time.time(), run=run.id, environments=environments)


def _resume_refusal(run: RunSummary) -> str | None:
    if run.status.is_live:
        return "Stop the run first."
    if run.status is RunStatus.FINISHED:
        return "The run has finished."
    return None


def _is_running(job: Job | None) -> bool:
    return job is not None and job.is_running
