"""Behind a proxy and below a path everything works as it does without: with the very settings of docs/remote.md."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import pytest
import websockets

from relight_app.__main__ import main
from relight_app.settings import Settings
from relight_app.urls import csv_url, download_url, log_url, module_url, plotly_url, site_path
from tests.app.served_dashboard import ServedDashboard
from tests.app.server.metric_runs import begin_attempt, log_rows, make_run
from tests.event_loop import run_async

PAGE = Path(__file__).resolve().parents[3] / "docs" / "remote.md"
BASE = "/relight"
HOST = "gpu-box.example.org"
_START_S = 30.0


def _snippet(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None, f"{PAGE.name} has no settings for {language}"
    return found[1]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _nginx(folder: Path, *, port: int, dashboard: int) -> Sequence[str]:
    """Write the settings of the docs, without TLS and on these ports; return the command."""
    written = _snippet("nginx").replace("listen 443 ssl;", f"listen 127.0.0.1:{port};")
    written = re.sub(r"^ *ssl_.*\n", "", written, flags=re.MULTILINE).replace(":8501;", f":{dashboard};")
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log stderr; events {{ }}\n"
        f"http {{ access_log off; {temporary}\n{written} }}\n"
    )
    return ["nginx", "-c", str(folder / "nginx.conf"), "-e", "stderr"]


def _caddy(folder: Path, *, port: int, dashboard: int) -> Sequence[str]:
    written = _snippet("caddy").replace(f"{HOST} {{", f"http://:{port} {{").replace(":8501", f":{dashboard}")
    (folder / "Caddyfile").write_text(f"{{\n\tadmin off\n}}\n{written}")
    return ["caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


PROXIES: dict[str, Callable[..., Sequence[str]]] = {"nginx": _nginx, "caddy": _caddy}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, page: Path) -> Iterator[ServedDashboard]:
    """A dashboard below a path, with one run."""
    runs = tmp_path_factory.mktemp("proxied")
    layout = make_run(runs, "far away")
    begin_attempt(layout, 1, time_s=time.time())
    log_rows(layout, [(1, {"loss": 2.0})])
    layout.exports.mkdir()
    (layout.exports / "weights").write_bytes(bytes(range(256)) * 40_000)
    with ServedDashboard(runs, script=page, arguments=["--base-path", BASE, "--allow-host", HOST]) as served:
        yield served


@pytest.fixture(scope="module", params=PROXIES)
def proxy(
    request: pytest.FixtureRequest, served: ServedDashboard, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of a proxy in front of it."""
    name: str = request.param
    if shutil.which(name) is None:
        pytest.skip(f"there is no {name}: apt-get install {'nginx-light' if name == 'nginx' else name}")
    folder, port = tmp_path_factory.mktemp(name), _free_port()
    command = PROXIES[name](folder, port=port, dashboard=served.port)
    process = subprocess.Popen(
        command, env={"HOME": str(folder), "PATH": "/usr/sbin:/usr/bin:/bin"}, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + _START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, f"{name} did not start"
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def client(proxy: str, served: ServedDashboard) -> Iterator[httpx.Client]:
    """A browser that has opened the link through the proxy."""
    with httpx.Client(base_url=proxy, timeout=30) as client:
        opened = client.get(f"{BASE}/", params={"token": served.token})
        assert (opened.status_code, opened.headers["location"]) == (303, f"{BASE}/")
        assert f"Path={BASE}/;" in opened.headers["set-cookie"]
        yield client


def _run(served: ServedDashboard) -> str:
    with served.client() as direct:
        runs: str = direct.get(f"{BASE}/api/runs").json()[0]["run"]
    return runs


def test_pages_assets_and_downloads_come_through(client: httpx.Client, served: ServedDashboard) -> None:
    run = _run(served)
    assert "<html" in client.get(f"{BASE}/run?id={run}").text
    assert client.get(f"{BASE}/assets/icon.svg").headers["content-type"] == "image/svg+xml"
    assert client.get(BASE + module_url("site.js")).status_code == 200
    part = client.get(BASE + download_url(run, "weights"), headers={"Range": "bytes=255-257"})
    assert (part.status_code, part.content) == (206, b"\xff\x00\x01")
    assert len(client.get(BASE + download_url(run, "weights")).content) == 256 * 40_000
    assert client.get(BASE + csv_url(run)).text.startswith("step,time,attempt,train/loss")
    assert client.get(f"{BASE}/api/nothing").status_code == 404


def test_the_live_stream_arrives_event_by_event(client: httpx.Client, served: ServedDashboard) -> None:
    watch = {"watch": f"{_run(served)}/train"}
    with client.stream("GET", f"{BASE}/api/stream", params=watch) as answer:
        for line in answer.iter_lines():
            if line == "event: state":
                return
    raise AssertionError("The stream ended.")


def test_the_pages_web_socket_opens(client: httpx.Client, proxy: str) -> None:
    cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())

    async def connect(path: str, headers: dict[str, str]) -> str:
        address = proxy.replace("http://", "ws://") + path
        protocols = [websockets.Subprotocol("streamlit")]
        try:
            async with websockets.connect(
                address, origin=websockets.Origin(proxy), additional_headers=headers, subprotocols=protocols
            ):
                return "open"
        except websockets.InvalidStatus as refused:
            return str(refused.response.status_code)

    assert run_async(connect(f"{BASE}/_stcore/stream", {"Cookie": cookie})) == "open"
    assert run_async(connect(f"{BASE}/_stcore/stream", {})) == "403"


def test_an_action_needs_the_origin_that_the_browser_sees(client: httpx.Client, proxy: str) -> None:
    def press(origin: str) -> tuple[int, str]:
        answer = client.post(f"{BASE}/actions/nothing", headers={"Origin": origin}, json={})
        return answer.status_code, answer.headers["content-type"].partition(";")[0]

    status, _ = press(proxy)
    assert status != 403
    assert press("http://127.0.0.1:1")[0] == 403


# --- without a proxy -------------------------------------------------------------------------------------------------


def test_every_address_begins_with_the_base_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relight_app.settings._current", Settings(tmp_path, base_path="/a/b"))
    addresses = [
        site_path("/run"), download_url("r", "f"), log_url("r", attempt=1), csv_url("r"), plotly_url(),
        module_url("site.js"),
    ]  # fmt: skip
    assert [address.startswith("/a/b/") for address in addresses] == [True] * 6


def test_outside_the_base_path_there_is_one_sentence(served: ServedDashboard) -> None:
    bearer = {"Authorization": f"Bearer {served.token}"}
    with httpx.Client(base_url=served.site, headers=bearer) as client:
        for path in ("/", "/run", "/relightx/", "/api/runs", "/relight2", "//relight/"):
            answer = client.get(path)
            assert answer.status_code == 404 and f"at {BASE}/" in answer.text, path
        assert client.get(BASE).headers["location"] == f"{BASE}/"
        asked = client.get(BASE, params={"token": "x"})
        assert asked.headers["location"] == f"{BASE}/?token=x"
        for path in ("/_stcore/health", f"{BASE}/_stcore/health"):
            assert httpx.get(served.site + path).text == "ok"


def test_the_page_that_asks_for_the_token_sends_it_below_the_base_path(served: ServedDashboard) -> None:
    answer = httpx.get(f"{served.site}{BASE}/run", headers={"Accept": "text/html"})
    assert answer.status_code == 401 and f'action="{BASE}/"' in answer.text


def test_over_tls_the_cookie_is_for_tls_and_the_origin_has_its_port(served: ServedDashboard) -> None:
    headers = {"Host": HOST, "X-Forwarded-Proto": "https"}
    opened = httpx.get(f"{served.site}{BASE}/", params={"token": served.token}, headers=headers)
    cookie = opened.headers["set-cookie"]
    assert cookie.startswith("relight-443=") and "Secure" in cookie
    headers["Cookie"] = cookie.partition(";")[0]
    for origin, refused in ((f"https://{HOST}", False), (f"http://{HOST}", True), (f"https://{HOST}:444", True)):
        answer = httpx.post(f"{served.site}{BASE}/actions/nothing", headers=headers | {"Origin": origin}, json={})
        assert (answer.status_code == 403) is refused, origin


@pytest.mark.parametrize("path", ["relight", "/a//b", "/../x", "/a b", "/a?b", "//evil.example", "/ä"])
def test_a_base_path_that_is_none_is_refused(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--base-path", path])
    assert ended.value.code == 2
    assert "--base-path" in (said := capsys.readouterr().err) and "/relight" in said
