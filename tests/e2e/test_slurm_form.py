"""A run that the Launch form submits to a real Slurm: queued, running, stopped, resumed, and its branch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from integration.slurm import Cluster, find_obstacle, running_cluster
from relight.runs.catalog import list_layouts
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record
from relight.runs.records import AttemptStart, SlurmJob
from tests.e2e.conftest import Dashboard, open_browser, serve_dashboard, wait_until
from tests.e2e.screenshots import take_screenshots
from tests.e2e.trainings import wait_for_status

pytestmark = [
    pytest.mark.browser,
    pytest.mark.processes,
    pytest.mark.thorough,
    pytest.mark.xdist_group("slurm"),
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(find_obstacle()), reason=find_obstacle()),
]
LIMIT_S = 120


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running_cluster(tmp_path / "slurm") as running:
        yield running


@pytest.fixture
def dashboard(cluster: Cluster, tmp_path: Path) -> Iterator[Dashboard]:
    with serve_dashboard(tmp_path / "served", compiler=False) as served:
        yield served


@pytest.fixture
def page(browser: Browser, dashboard: Dashboard) -> Iterator[Page]:
    with open_browser(browser) as context:
        context.request.get(dashboard.url, max_redirects=0)
        yield context.new_page()


def _status(page: Page, word: str) -> None:
    expect(page.get_by_text(word, exact=True).first).to_be_visible(timeout=1000 * LIMIT_S)


def _job(layout: RunLayout) -> int:
    return read_record(layout.slurm, SlurmJob).job


def test_launch_stop_resume_and_branch_on_slurm(page: Page, dashboard: Dashboard, cluster: Cluster) -> None:
    page.goto(dashboard.address("/launch?task=digits"))
    nodes = page.get_by_label("Nodes")
    expect(page.get_by_label("Train on")).to_have_value("here")
    expect(nodes).to_be_hidden()
    page.get_by_label("Train on").select_option("slurm")
    expect(nodes).to_be_visible()
    page.get_by_label("Epochs").fill("500")
    page.get_by_label("sbatch options").fill("--begin=now+1hour")
    command = page.locator("#launch-command")
    expect(command).to_have_text("relight run digits --set epochs=500 --on slurm --sbatch --begin=now+1hour")
    take_screenshots(page, "launch-slurm")
    page.get_by_role("button", name="Launch", exact=True).click()

    _status(page, "Queued")
    layout = wait_until(lambda: list_layouts(dashboard.runs), timeout_s=LIMIT_S, what="the run")[0]
    expect(page.get_by_text(f"Slurm job {_job(layout)} is waiting (BeginTime")).to_be_visible(timeout=1000 * LIMIT_S)
    take_screenshots(page, "slurm-queued")
    cluster.run("scontrol", "update", f"JobId={_job(layout)}", "StartTime=now")
    _status(page, "Running")
    expect(page.get_by_text(f"Slurm job {_job(layout)} runs on n1")).to_be_visible(timeout=1000 * LIMIT_S)
    take_screenshots(page, "slurm-running")
    wait_until(lambda: list(layout.checkpoints.glob("manifests/*")), timeout_s=LIMIT_S, what="a checkpoint")
    page.get_by_role("button", name="Stop", exact=True).click()
    _status(page, "Stopped")
    stopped, job = wait_for_status(layout, "stopped"), _job(layout)

    page.get_by_role("button", name="Resume", exact=True).click()
    wait_until(lambda: _job(layout) != job, timeout_s=LIMIT_S, what="the next job")
    cluster.run("scontrol", "update", f"JobId={_job(layout)}", "StartTime=now")
    _status(page, "Running")
    assert read_record(layout.attempt(2).start, AttemptStart).from_step == stopped.step
    page.get_by_role("button", name="Stop", exact=True).click()
    _status(page, "Stopped")
    stopped = wait_for_status(layout, "stopped")  # the retention may have removed the checkpoint of the first stop

    page.goto(dashboard.address(f"/branch?id={layout.run_id}&step={stopped.step}"))
    expect(page.get_by_label("Train on")).to_have_value("slurm")
    expect(page.get_by_label("sbatch options")).to_have_value("--begin=now+1hour")
    take_screenshots(page, "branch-slurm")
    page.get_by_label("sbatch options").fill("")
    page.get_by_label("Epochs").fill(str(stopped.step // 23 + 2))
    page.get_by_role("button", name="Start branch").click()
    page.wait_for_url(re.compile(r"/run\?id=digits-from"))
    (child,) = [one for one in list_layouts(dashboard.runs) if one.run_id != layout.run_id]
    assert read_record(child.slurm, SlurmJob).options == ()
    _status(page, "Finished")
    take_screenshots(page, "slurm-finished")


def test_what_slurm_refuses_is_said_on_the_form(page: Page, dashboard: Dashboard) -> None:
    page.goto(dashboard.address("/launch?task=digits"))
    page.get_by_label("Train on").select_option("slurm")
    page.get_by_label("sbatch options").fill("--partition gpu")
    page.get_by_role("button", name="Launch", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("Write --partition=gpu, not --partition gpu")
    page.get_by_label("Train on").select_option("here")
    expect(page.locator("#launch-command")).to_have_text("relight run digits")
