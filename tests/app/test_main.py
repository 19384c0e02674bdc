"""The dashboard starts, prints its link, and always exits when it should."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from relight_app import __main__
from relight_app.server import asgi_app
from relight_app.server.configuration import find_streamlit
from relight_app.settings import Settings
from tests.app.served_dashboard import ServedDashboard
from tests.app.server.metric_runs import log_rows, make_run
from tests.patience import stretch

_PAGE = "import streamlit as st\nst.title('A page')\n"


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.py"
    path.write_text(_PAGE)
    return path


def _run(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "relight_app", "--no-browser", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | (environment or {}),
    )


def test_a_taken_port_is_one_sentence_and_exit_code_1(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = _run("--port", str(port), "--runs", str(tmp_path), "--token", "12345678")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and done.stdout == ""
    assert f"Port {port}" in done.stderr and f"--port {port + 1}" in done.stderr


@pytest.mark.parametrize("runs", ["/proc/runs", "{file}", "{file}/below"])
def test_a_runs_folder_that_cannot_be_written_is_one_sentence_and_exit_code_1(tmp_path: Path, runs: str) -> None:
    file = tmp_path / "file"
    file.write_text("")
    folder = runs.replace("{file}", str(file))
    done = _run("--port", "0", "--runs", folder, "--token", "12345678")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and done.stdout == ""
    assert folder in done.stderr and "--runs" in done.stderr


def test_a_read_only_dashboard_shows_a_folder_that_cannot_be_written(page: Path) -> None:
    runs = Path("/proc/tty")  # nobody can write there, not even root
    if not runs.is_dir():
        pytest.skip("no /proc on this system")
    with ServedDashboard(runs, script=page, arguments=["--read-only"]) as dashboard, dashboard.client() as client:
        answer = client.get("/api/runs")
        assert (answer.status_code, answer.json()) == (200, [])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--port", "70000"), "70000"),
        (("--port", "x"), "x"),
        (("--nonsense",), "--nonsense"),
        (("--token", "short"), "too short"),
        (("--token", "12345678", "--token-file", "x"), "not allowed with"),
        (("--read-only", "--resume-interrupted"), "leave out one of"),
        (("--token-file", "/nowhere/token"), "/nowhere/token"),
        (("--token-file", "/dev/null"), "not a regular file"),
        (("--port", "0", "--host", "no.such.host.invalid"), "no.such.host.invalid"),
    ],
)
def test_wrong_usage_is_exit_code_2(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = _run("--runs", str(tmp_path), *arguments)
    assert done.returncode == 2
    assert said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(("arguments", "swept"), [((), 1), (("--read-only",), 0)])
def test_only_a_dashboard_that_may_write_removes_old_trash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], swept: int
) -> None:
    folders: list[Path] = []

    def serve(settings: Settings, listener: socket.socket, on_started: Callable[[], None]) -> None:
        listener.close()
        on_started()

    monkeypatch.setattr(asgi_app, "serve", serve)
    monkeypatch.setattr(__main__, "sweep_in_background", folders.append)
    assert __main__.main(["--runs", str(tmp_path), "--port", "0", "--no-browser", *arguments]) == 0
    assert folders == [tmp_path] * swept


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_within_a_second_even_with_open_streams(
    tmp_path: Path, page: Path, sign: signal.Signals
) -> None:
    layout = make_run(tmp_path)
    log_rows(layout, [(1, {"loss": 1.0})])
    with ServedDashboard(tmp_path, script=page) as dashboard, dashboard.client() as client:
        ends: list[bool] = []
        opened = threading.Barrier(6)

        def read() -> None:
            try:
                with client.stream("GET", "/api/stream", params={"watch": f"{layout.run_id}/train"}) as answer:
                    lines = answer.iter_lines()
                    next(lines)
                    opened.wait(20)
                    ends.append("event: bye" in list(lines))
            except httpx.HTTPError:
                ends.append(False)

        readers = [threading.Thread(target=read) for _ in range(5)]
        for reader in readers:
            reader.start()
        opened.wait(20)
        code, seconds = dashboard.end(sign)
        for reader in readers:
            reader.join(10)
    assert code == 0
    assert seconds < stretch(1.0)
    assert ends == [True] * 5, "an open stream gets an event before the server exits"
    assert "Traceback" not in dashboard.output


def test_it_ends_within_a_second_during_a_large_download(tmp_path: Path, page: Path) -> None:
    layout = make_run(tmp_path)
    layout.exports.mkdir()
    with (layout.exports / "best.safetensors").open("wb") as file:
        file.truncate(3 << 30)
    with (
        ServedDashboard(tmp_path, script=page) as dashboard,
        dashboard.client() as client,
        client.stream("GET", f"/files/{layout.run_id}/exports/best.safetensors") as answer,
    ):
        next(answer.iter_raw())
        code, seconds = dashboard.end()
    assert code == 0
    assert seconds < stretch(1.2)


def test_the_link_is_printed_and_the_token_stays_the_same_from_start_to_start(tmp_path: Path, page: Path) -> None:
    home = {"XDG_STATE_HOME": str(tmp_path / "state")}
    tokens = set()
    for _ in range(2):
        with ServedDashboard(tmp_path / "runs", script=page, token=None, environment=home) as dashboard:
            tokens.add(dashboard.token)
            assert httpx.get(dashboard.link).status_code == 303
    assert len(tokens) == 1 and len(tokens.pop()) >= 40
    kept = tmp_path / "state" / "relight" / "dashboard-token"
    assert kept.stat().st_mode & 0o777 == 0o600


def test_a_remembered_token_that_others_can_read_is_not_used(tmp_path: Path, page: Path) -> None:
    kept = tmp_path / "state" / "relight" / "dashboard-token"
    kept.parent.mkdir(parents=True)
    kept.write_text("x" * 43)
    kept.chmod(0o644)
    with ServedDashboard(
        tmp_path / "runs", script=page, token=None, environment={"XDG_STATE_HOME": str(tmp_path / "state")}
    ) as dashboard:
        assert dashboard.token != "x" * 43
    assert kept.stat().st_mode & 0o777 == 0o600


def test_the_token_of_the_environment_is_used(tmp_path: Path, page: Path) -> None:
    with ServedDashboard(
        tmp_path, script=page, token=None, environment={"RELIGHT_TOKEN": "from-the-environment"}
    ) as dashboard:
        assert dashboard.token == "from-the-environment"


def test_the_token_of_a_private_file_is_used_and_a_readable_file_refused(tmp_path: Path, page: Path) -> None:
    file = tmp_path / "a token"
    file.write_text("from-a-private-file\n")
    file.chmod(0o600)
    arguments = ["--token-file", str(file), "--read-only"]
    with ServedDashboard(tmp_path, script=page, token=None, arguments=arguments) as dashboard:
        assert dashboard.token == "from-a-private-file"
        bearer = {"Authorization": f"Bearer {dashboard.token}"}
        refused = httpx.post(dashboard.site + "/actions/stop", headers=bearer)
        assert (refused.status_code, "read-only" in refused.text) == (403, True)
    for mode in (0o640, 0o604):
        file.chmod(mode)
        done = _run("--runs", str(tmp_path), "--token-file", str(file))
        assert done.returncode == 2
        assert "chmod 600" in done.stderr and done.stderr.count("\n") == 1 and "private-file" not in done.stderr
    file.chmod(0o600)
    file.write_text("short")
    assert "8 characters" in _run("--runs", str(tmp_path), "--token-file", str(file)).stderr


def test_all_interfaces_still_let_only_named_hosts_in(tmp_path: Path, page: Path) -> None:
    arguments = ["--host", "0.0.0.0", "--allow-host", "gpu-box"]
    with ServedDashboard(tmp_path, script=page, arguments=arguments) as dashboard:
        assert "http://127.0.0.1:" in dashboard.output
        for host, status in (
            ("127.0.0.1", 303),
            ("localhost", 303),
            ("gpu-box", 303),
            ("10.0.0.7", 421),
            ("evil", 421),
        ):
            answer = httpx.get(dashboard.link, headers={"Host": f"{host}:{dashboard.port}"})
            assert answer.status_code == status, host


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux answers on all of 127.0.0.0/8")
def test_the_address_it_listens_on_is_one_of_its_names(tmp_path: Path, page: Path) -> None:
    with ServedDashboard(tmp_path, script=page, arguments=["--host", "127.0.0.2"]) as dashboard:
        link = f"http://127.0.0.2:{dashboard.port}/?token={dashboard.token}"
        assert link in dashboard.output
        assert httpx.get(link).status_code == 303


def test_without_a_host_only_this_machine_can_reach_it(tmp_path: Path, page: Path) -> None:
    with ServedDashboard(tmp_path, script=page) as dashboard:
        addresses = {one.laddr.ip for one in psutil.Process(dashboard.process.pid).net_connections() if one.laddr}
    assert addresses == {"127.0.0.1"}


def test_the_process_never_loads_torch_and_opens_no_connection_of_its_own(tmp_path: Path, page: Path) -> None:
    page.write_text(
        "import sys, streamlit as st\n"
        "import relight_app.live.chart, relight_app.parts.registry\n"
        "st.title('torch' if 'torch' in sys.modules else 'no torch')\n"
    )
    layout = make_run(tmp_path)
    log_rows(layout, [(1, {"loss": 1.0})])
    with ServedDashboard(tmp_path, script=page) as dashboard, dashboard.client() as client:
        run = {"run": layout.run_id, "name": "train/loss"}
        assert client.get("/api/history", params=run).status_code == 200
        assert client.get(f"/files/{layout.run_id}/metrics.csv").status_code == 200
        with client.stream("GET", "/api/stream", params={"watch": f"{layout.run_id}/train", "machine": "1"}) as answer:
            next(answer.iter_lines())
        process = psutil.Process(dashboard.process.pid)
        loaded = {Path(one.path).name for one in process.memory_maps()}
        remote = {one.raddr.ip for one in process.net_connections() if one.raddr}
    assert not {name for name in loaded if "torch" in name}
    assert remote <= {"127.0.0.1"}


def test_it_starts_again_at_once_on_the_same_port_after_kill_9(tmp_path: Path, page: Path) -> None:
    with ServedDashboard(tmp_path, script=page) as first, first.client() as client:
        client.get("/")
        port = first.port
        first.kill()
    began = time.monotonic()
    with ServedDashboard(tmp_path, script=page, port=port) as second:
        assert second.port == port
        assert httpx.get(second.site + "/_stcore/health").text == "ok"
    assert time.monotonic() - began < 30


def test_a_page_does_not_wait_for_streamlit_and_without_it_the_server_ends(tmp_path: Path) -> None:
    package, go_on = tmp_path / "modules" / "streamlit", tmp_path / "go-on"
    shutil.copytree(
        find_streamlit() / "static", package / "static", ignore=shutil.ignore_patterns("js", "css", "media")
    )
    (package / "__init__.py").write_text(
        "import pathlib, time\n"
        f"while not pathlib.Path({str(go_on)!r}).exists(): time.sleep(0.01)\n"
        "raise ImportError('half of it is missing')\n"
    )
    runs = tmp_path / "runs"
    make_run(runs)
    environment = {"PYTHONPATH": str(package.parent)}
    with ServedDashboard(runs, environment=environment) as dashboard, dashboard.client() as client:
        assert 'data-part="runs"' in client.get("/").text
        answers: list[int] = []
        waiting = threading.Thread(target=lambda: answers.append(client.get("/_stcore/health").status_code))
        waiting.start()
        assert client.get("/api/runs").status_code == 200
        assert waiting.is_alive()
        go_on.touch()
        waiting.join(stretch(20))
        assert dashboard.process.wait(stretch(20)) == 1
    assert answers == [503]
    (sentence,) = [line for line in dashboard.output.splitlines() if line.startswith("relight: ")]
    assert "half of it is missing" in sentence and "pip install" in sentence
    assert "Traceback" not in dashboard.output
