"""The page of one run: progress, work at risk, charts, checkpoints, log, and the buttons that act on it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import streamlit as st

from relight.checkpoints.export import FORMATS
from relight.checkpoints.listing import CheckpointInfo, CheckpointListing, find_best
from relight.drill.proof import JudgedProof
from relight.errors import DamagedFile, RelightError
from relight.overview.summary import RunSummary
from relight.runs.records import RunRecord
from relight.runs.status import RunStatus
from relight.wording import count
from relight_app import actions
from relight_app.actions import DrillRequest, Outcome
from relight_app.attempt_table import build_attempts
from relight_app.browser_session import remembered, widget_values
from relight_app.charts import plan_figures, plan_learning_charts, plan_machine_charts
from relight_app.checkpoint_table import build_checkpoints
from relight_app.engine import Engine, current_engine
from relight_app.jobs import Job
from relight_app.launch_form import name_task
from relight_app.live.chart import ChartPlan, live_chart
from relight_app.live.live_values import live_values, read_fields
from relight_app.markup import tag
from relight_app.navigation import address
from relight_app.server.urls import csv_url, log_url
from relight_app.tables import build_config
from relight_app.widgets.action_button import action_button
from relight_app.widgets.drill_section import show_drill, show_drill_button
from relight_app.widgets.empty import build_empty
from relight_app.widgets.export_strip import build_export_strip
from relight_app.widgets.notice import build_problem
from relight_app.widgets.proof_card import build_proof_card
from relight_app.widgets.run_header import build_family, build_identity, build_run_notices
from relight_app.widgets.view import view

_REFRESH_S = 2.0
_ACTED = "checkpoint-acted"
_CHART_HEIGHT = 250
_ATTEMPTS = 50
"""How many of the newest attempts are shown with their environment."""


@dataclass(frozen=True)
class _Seen:
    """Everything that several parts of the page depend on, read once for each drawing.

    Read twice, a job that ends in between looks running to one part and ended to the other: the first disables its
    button, and the second does not wait for the end.
    """

    engine: Engine
    run: RunSummary
    record: RunRecord
    checkpoints: CheckpointListing
    best: CheckpointInfo | None
    proof: JudgedProof | None
    resume: Job | None
    export: Job | None


def render() -> None:
    """Draw the page of the run that the address names."""
    engine = current_engine()
    asked = st.query_params.get("id", "")
    try:
        # The folder's name is the id: the `run.json` of a copied run still has the id of the original.
        name = engine.find_layout(asked).run_id
        drawn = read_fields(name)  # first: a change while the page is drawn then causes another rerun
        engine.memo.forget()
        run = engine.read_run(name)
        record = engine.read_record(run.run)
    except DamagedFile as error:
        _show_missing(str(error), title="Damaged run", text="This run cannot be read")
        return
    except RelightError as error:
        _show_missing(str(error), title="Run not found", text="This run may have been moved or deleted")
        return
    st.set_page_config(page_title=f"{run.name} ({run.status}) · Relight")
    checkpoints = engine.list_checkpoints(run.run)
    seen = _Seen(
        engine=engine,
        run=run,
        record=record,
        checkpoints=checkpoints,
        best=find_best(checkpoints.checkpoints, higher_is_better=record.higher_is_better),
        proof=engine.read_proof(run, record),
        resume=actions.resume_job(engine, run.run),
        export=actions.export_job(engine, run.run),
    )
    _show_header(seen)
    _show_outcomes(seen)
    notices = build_run_notices(run, damaged=checkpoints.damaged)
    if notices is not None:
        view(notices, key="notices")
    _show_exports(seen)
    _show_figures(run, drawn)
    _show_charts(engine, run, record)
    _show_checkpoints(seen)
    _show_details(engine, run, record)


def _show_missing(sentence: str, *, title: str, text: str) -> None:
    st.title(title, anchor=False)
    back = tag("a", "See all runs", class_="button", href=address("runs"), data_page="runs")
    view(build_empty(text, sentence, action=back), key="missing")


def _show_header(seen: _Seen) -> None:
    engine, run, record = seen.engine, seen.run, seen.record
    with st.container(
        horizontal=True, horizontal_alignment="distribute", vertical_alignment="center", key="run-header"
    ):
        with st.container(width="stretch", gap="xsmall"):
            st.title(run.name, anchor=False)
            view(build_identity(run, record, device=engine.read_device(run), proof=seen.proof), key="identity")
            family = build_family(record, engine.list_branches(run.run))
            if family is not None:
                view(family, key="family")
        with st.container(
            horizontal=True, width="content", gap="small", vertical_alignment="center", key="run-actions"
        ):
            _show_life_buttons(seen)
            _show_export_button(seen)


def _show_life_buttons(seen: _Seen) -> None:
    engine, run = seen.engine, seen.run
    if _is_running(seen.resume):
        st.button(
            "Resuming…",
            disabled=True,
            icon=":material/hourglass_top:",
            help="Waiting for a process of the previous attempt to end.",
        )
        _poll(engine, run)
        return
    if run.status in (RunStatus.CRASHED, RunStatus.INTERRUPTED, RunStatus.STOPPED):
        where = f"Continues from step {run.durable_step:,}" if run.durable_step else "No checkpoint: starts from step 0"
        action_button(
            "Resume", _resume, engine, run, None, key=f"resume-{run.run}-{run.attempt}", type="primary",
            icon=":material/play_arrow:", help=f"{where}, as attempt {run.attempt + 1}.",
        )  # fmt: skip
    if not run.status.is_live:
        return
    stopping = engine.read_stop(run)
    if stopping is None:
        action_button(
            "Stop", _stop, engine, run, key=f"stop-{run.run}-{run.attempt}", icon=":material/stop_circle:",
            help="Stops at the next step edge with a checkpoint. Nothing is lost.",
        )  # fmt: skip
    else:
        st.button(
            "Stopping…", disabled=True, icon=":material/hourglass_top:", help="The run stops at the next step edge."
        )
        if not stopping.now:
            action_button(
                "Stop now", _ask_to_stop, run, key=f"end-{run.run}-{run.attempt}",
                help="Stops without waiting for a checkpoint.",
            )  # fmt: skip
    if remembered().get("confirm-stop") == run.run:
        _confirm_stop(engine, run)


def _show_export_button(seen: _Seen) -> None:
    best, listed = seen.best, seen.checkpoints.checkpoints
    chosen = best or (listed[-1] if listed else None)
    busy = _is_running(seen.export)
    if busy:
        reason = "An export is in progress."
    elif chosen is None:
        reason = "There is no checkpoint yet."
    elif best is None:
        reason = f"No checkpoint has a score yet. Exports the newest one, step {chosen.step:,}."
    else:
        reason = f"Exports the best checkpoint so far, step {best.step:,}."
    st.segmented_control(
        "Export format", FORMATS, default=FORMATS[0], required=True, key="export-format",
        format_func=lambda name: f".{name}", label_visibility="collapsed", disabled=chosen is None,
    )  # fmt: skip
    action_button(
        "Export best weights", _export, seen.engine, seen.run, "best" if best else "latest", key="export-best",
        icon=":material/file_export:", disabled=chosen is None or busy, help=reason,
    )  # fmt: skip


def _show_outcomes(seen: _Seen) -> None:
    """Show the outcome of the last action on this page."""
    run, job = seen.run, seen.resume
    if job is not None and job.state != "running":
        seen.engine.jobs.forget(("resume", run.run))
        remembered()["outcome"] = (run.run, actions.outcome_of(job))
    last: tuple[str, Outcome] | None = remembered().get("outcome")
    if last is None or last[0] != run.run:
        remembered().pop("outcome", None)
        return
    if last[1].problem is not None:
        view(build_problem(last[1].problem, key="outcome"), key="outcome-problem")


def _show_exports(seen: _Seen) -> None:
    engine, run = seen.engine, seen.run.run
    waiting = _is_running(seen.export)

    def show() -> None:
        job = actions.export_job(engine, run)  # before the files: if it has ended, its file is in the list
        strip = build_export_strip(engine.list_exports(run), run=run, job=job, best=seen.best)
        if strip is not None:
            view(strip, key="exports")
        if waiting and not _is_running(job):
            st.rerun()

    st.fragment(show, run_every=0.5 if waiting else None)()


def _show_figures(run: RunSummary, drawn: dict[str, Any]) -> None:
    live_values(
        run=run.run,
        values=plan_figures(run),
        key=f"figures-{run.run}",
        rerun_on=("status", "reason", "attempt", "durable_step", "saving_failure", "best_step"),
        state=drawn,
    )


def _show_charts(engine: Engine, run: RunSummary, record: RunRecord) -> None:
    names = engine.list_metrics(run.run)
    learning = plan_learning_charts(names, best_metric=record.best_metric)
    with st.grid(2, min_column_width=380, gap="small"):
        for plan in learning[:2]:
            _show_chart(run, plan, height=_CHART_HEIGHT + 40)
    smaller = learning[2:] + plan_machine_charts(names)
    if smaller:
        with st.grid(3, min_column_width=320, gap="small"):
            for plan in smaller:
                _show_chart(run, plan, height=_CHART_HEIGHT - 70)


def _show_chart(run: RunSummary, plan: ChartPlan, *, height: int) -> None:
    with st.container(border=True, height="stretch", key=f"card-{plan.key}"):
        empty = "Waiting for the first values." if run.status.is_live else "Nothing was logged."
        live_chart(plan, run=run.run, height=height, empty=empty)


def _show_checkpoints(seen: _Seen) -> None:
    engine, run, record = seen.engine, seen.run, seen.record

    def show() -> None:
        if remembered().pop(_ACTED, False):
            st.rerun()  # other parts of the page show the outcome
        now = engine.read_run(run.run)
        listing = engine.list_checkpoints(run.run)
        if listing.checkpoints:
            content = build_checkpoints(
                listing.checkpoints, best_metric=record.best_metric, resume_refusal=_resume_refusal(now),
                run=run.run,
                retention=engine.plan_retention(run.run),
            )  # fmt: skip
        else:
            content = build_empty(
                "No checkpoint yet" if now.status.is_live else "No checkpoint",
                "The first checkpoint follows within seconds of training. Until then, all work is at risk."
                if now.status.is_live
                else "The run ended before its first checkpoint was durable. A resume starts from step 0.",
            )
        view(content, key="checkpoints", on_action=_checkpoint_action(engine, now))

    # As launched: a script reports its own config only once it runs.
    drill = DrillRequest(record.task, engine.read_launch(run.run).config, run=run.run)
    drilled = actions.drill_job(engine, drill)
    with st.container(
        horizontal=True, horizontal_alignment="distribute", vertical_alignment="center", key="checkpoints-header"
    ):
        st.header("Checkpoints", anchor=False, width="content")
        show_drill_button(engine, drill, drilled, key=f"drill-{run.run}")
    busy = run.status.is_live or run.pids.writer is not None
    show_drill(
        engine, drill, drilled, key="drill-card",
        build=lambda job: build_proof_card(seen.proof, job, key="drill-problem"),
    )  # fmt: skip
    st.fragment(show, run_every=_REFRESH_S if busy else None)()


def _show_details(engine: Engine, run: RunSummary, record: RunRecord) -> None:
    log, config, attempts = st.tabs(["Log", "Config", "Attempts"], key="details", bind="query-params")
    with log:
        _show_log(engine, run)
    with config:
        changes = record.parent.changes if record.parent is not None else None
        view(
            tag(
                "div",
                build_config(record.config, defaults=engine.default_config(record), changes=changes),
                tag(
                    "p",
                    tag("a", "Launch again with this config", class_="link", **_again(run, record)),
                    " · ",
                    tag("a", "Download metrics (CSV)", class_="link", href=csv_url(run.run), download=True),
                    class_="sub",
                ),
                class_="stack",
            ),
            key="config",
        )  # fmt: skip
    with attempts:
        known = engine.list_attempts(run)
        environments = {one.number: engine.read_environment(run.run, attempt=one.number) for one in known[-_ATTEMPTS:]}
        view(build_attempts(known, now_s=time.time(), run=run.run, environments=environments), key="attempts")


def _again(run: RunSummary, record: RunRecord) -> dict[str, str]:
    """Return the link to the launch form, filled with this run's task and config."""
    query = {"task": record.task.name, "from": run.run}
    if record.task.kind != "builtin":
        query |= {"task": "file", "file": name_task(record.task)}
    return {"href": address("launch", **query), "data_page": "launch", "data_query": json.dumps(query)}


def _show_log(engine: Engine, run: RunSummary) -> None:
    number = _choose_attempt(engine, run)

    def show() -> None:
        try:
            text = engine.read_log(run.run, attempt=number)
        except RelightError as error:
            text = str(error)
        whole = tag("a", "Open the full log", class_="link", href=log_url(run.run, attempt=number), target="_blank")
        pre = tag(
            "pre", text or "No output yet.", class_="text log", data_follow=True, tabindex="0", role="log",
            aria_label=f"Log of attempt {number}",
        )  # fmt: skip
        foot = tag("p", f"End of the log of attempt {number}. ", whole, class_="sub")
        view(tag("div", pre, foot, class_="stack"), key="log")

    st.fragment(show, run_every=1.0 if run.status.is_live and number == run.attempt else None)()


def _choose_attempt(engine: Engine, run: RunSummary) -> int:
    """Let the person pick the attempt whose log is shown; the newest is the default."""
    numbers = engine.list_attempt_numbers(run.run)
    if len(numbers) < 2:
        return run.attempt
    chosen = st.selectbox(
        "Attempt", numbers[::-1], key=f"log-attempt-{run.run}-{run.attempt}", width=220,
        format_func=lambda number: f"Attempt {number}" + (" (newest)" if number == run.attempt else ""),
    )  # fmt: skip
    return int(chosen)


def _poll(engine: Engine, run: RunSummary) -> None:
    """Rerun the page when the resume in the background ends."""

    def watch() -> None:
        if not _is_running(actions.resume_job(engine, run.run)):
            st.rerun()

    st.fragment(watch, run_every=0.5)()


def _is_running(job: Job | None) -> bool:
    return job is not None and job.state == "running"


def _resume_refusal(run: RunSummary) -> str | None:
    if run.status.is_live:
        return "Stop the run first."
    if run.status is RunStatus.FINISHED:
        return "The run has finished."
    return None


def _checkpoint_action(engine: Engine, run: RunSummary) -> Callable[[str, Any], None]:
    def act(name: str, step: Any) -> None:
        if not isinstance(step, int):
            return
        remembered()[_ACTED] = True
        if name == "resume":
            _resume(engine, run, step)
        elif name == "export":
            _export(engine, run, step)
        elif name in ("pin", "unpin"):
            _tell(run, actions.pin(engine, run.run, step=step, on=name == "pin"))

    return act


def _resume(engine: Engine, run: RunSummary, step: int | None) -> None:
    # The token names the attempt that this page saw end, so several presses start one attempt.
    _tell(run, actions.resume(engine, run.run, from_step=step, token=f"{run.run}-after-{run.attempt}"))


def _stop(engine: Engine, run: RunSummary) -> None:
    if run.saving_failure:
        _ask_to_stop(run)
    else:
        _tell(run, actions.stop(engine, run.run))


def _export(engine: Engine, run: RunSummary, which: str | int) -> None:
    # The current choice: the page may have been drawn before it was made.
    pth = widget_values().get("export-format") == "pth"
    actions.export(engine, run.run, which=which, format="pth" if pth else "safetensors")


def _ask_to_stop(run: RunSummary) -> None:
    remembered()["confirm-stop"] = run.run


def _keep_training() -> None:
    remembered().pop("confirm-stop", None)


def _end_now(engine: Engine, run: RunSummary) -> None:
    _keep_training()
    _tell(run, actions.stop(engine, run.run, now=True))


def _tell(run: RunSummary, outcome: Outcome) -> None:
    remembered()["outcome"] = (run.run, outcome)


@st.dialog("Stop and lose work?", on_dismiss=_keep_training)
def _confirm_stop(engine: Engine, run: RunSummary) -> None:
    if remembered().get("confirm-stop") != run.run:
        st.rerun()  # the person has answered
    why = f"Checkpoints cannot be saved right now ({run.saving_failure}). " if run.saving_failure else ""
    steps = count(run.work_at_risk_steps, "step")
    st.write(f"{why}Stopping now loses the work since the last checkpoint: {steps}.")
    with st.container(horizontal=True, horizontal_alignment="right"):
        action_button("Keep training", _keep_training, key="confirm-stop-not")
        action_button("Stop now", _end_now, engine, run, key="confirm-stop-now", type="primary")
