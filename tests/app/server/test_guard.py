"""The guard admits only browsers with the token, from this site, under a host name of this machine."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import httpx
import pytest
import websockets
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from relight_app.server.guard import Guard
from tests.app.served_dashboard import ServedDashboard
from tests.event_loop import run_async

TOKEN = "a token of the tests"
COOKIE = Guard(PlainTextResponse("x"), token=TOKEN)._cookie


async def _behind(scope: Scope, receive: Receive, send: Send) -> None:
    """The guarded app, which records that it was reached."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        return
    origin = dict(scope["headers"]).get(b"origin", b"none")
    await PlainTextResponse("reached " + origin.decode(), headers={"Access-Control-Allow-Origin": "*"})(
        scope, receive, send
    )


def _ask(
    path: str = "/",
    *,
    host: str | None = "127.0.0.1:8501",
    cookie: str | None = f"relight-8501={COOKIE}",
    origin: str | None = None,
    method: str = "GET",
    kind: str = "http",
    scheme: str = "http",
    headers: Iterable[tuple[str, str]] = (),
    hosts: tuple[str, ...] = (),
    read_only: bool = False,
) -> tuple[Any, dict[str, str], str]:
    """Return status (for a WebSocket "accept" or the close code), headers and body of the guard's response."""
    path, _, query = path.partition("?")
    given = [("host", host), ("cookie", cookie), ("origin", origin), *headers]
    scope: Scope = {
        "type": kind,
        "method": method,
        "scheme": scheme if kind == "http" else scheme.replace("http", "ws"),
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in given if value is not None],
    }
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request" if kind == "http" else "websocket.connect", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    run_async(Guard(_behind, token=TOKEN, hosts=hosts, read_only=read_only)(scope, receive, send))
    if kind == "websocket":
        return sent[0].get("code", "accept"), {}, ""
    answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], answered, b"".join(message.get("body", b"") for message in sent[1:]).decode()


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8501", "localhost:8501", "relight.localhost:8501", "[::1]:8501", "LocalHost:8501", "localhost.:8501"],
)
def test_this_machines_own_names_are_let_in(host: str) -> None:
    assert _ask(host=host)[0] == 200


@pytest.mark.parametrize(
    "host",
    [None, "evil.example", "evil.example:8501", "127.0.0.1.evil.example", "localhost@evil.example", "", "127.0.0.1:x",
     "localhost/evil.example", "0.0.0.0:8501", "127.0.0.1:8501:8501"],
)  # fmt: skip
def test_any_other_name_is_refused_with_421(host: str | None) -> None:
    assert _ask(host=host)[0] == 421
    assert _ask(host=host, kind="websocket", origin=f"http://{host}")[0] == 1008


def test_two_host_headers_are_refused() -> None:
    assert _ask(headers=[("host", "localhost:8501")])[0] == 421


def test_a_name_given_with_allow_host_is_let_in() -> None:
    cookie = f"relight-8501={COOKIE}"
    assert _ask(host="gpu-box:8501", cookie=cookie)[0] == 421
    assert _ask(host="gpu-box:8501", cookie=cookie, hosts=("gpu-box",))[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "origin",
    [None, "null", "http://evil.example", "http://127.0.0.1:3000", "http://localhost:8501", "http://127.0.0.1",
     "http://127.0.0.1:8501.evil.example", "ftp://127.0.0.1:8501", "http://127.0.0.1:8501/path", "garbage"],
)  # fmt: skip
def test_unsafe_methods_need_exactly_this_sites_origin(method: str, origin: str | None) -> None:
    assert _ask(method=method, origin=origin)[0] == 403


def test_an_unsafe_method_of_this_site_passes() -> None:
    assert _ask(method="POST", origin="http://127.0.0.1:8501")[0] == 200
    same = [("sec-fetch-site", "same-origin")]
    assert _ask("/actions/stop", method="POST", origin="http://127.0.0.1:8501", headers=same)[0] == 200


@pytest.mark.parametrize("site", ["same-site", "cross-site", "none", ""])
def test_an_unsafe_method_that_the_browser_ascribes_to_another_site_is_refused(site: str) -> None:
    ask = {"method": "POST", "origin": "http://127.0.0.1:8501"}
    assert _ask("/actions/stop", headers=[("sec-fetch-site", site)], **ask)[0] == 403
    twice = [("sec-fetch-site", "same-origin"), ("sec-fetch-site", site)]
    assert _ask("/actions/stop", headers=twice, **ask)[0] == 403


@pytest.mark.parametrize("path", ["/api/runs", "/parts/header", "/actions/x"])
@pytest.mark.parametrize("site", ["same-site", "cross-site"])
def test_a_page_on_another_port_or_site_cannot_ask_for_data(path: str, site: str) -> None:
    assert _ask(path, headers=[("sec-fetch-site", site)])[0] == 403
    assert _ask(path, headers=[("sec-fetch-site", "same-origin")])[0] == 200
    assert _ask("/run?id=digits", headers=[("sec-fetch-site", site)])[0] == 200, "a link to a page still works"


# --- scripts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_a_script_needs_the_token_but_neither_cookie_nor_origin(method: str) -> None:
    for kind in ("Bearer", "bearer"):
        status, headers, _ = _ask(
            "/actions/stop", method=method, cookie=None, headers=[("authorization", f"{kind} {TOKEN}")]
        )
        assert status == 200 and "set-cookie" not in headers


@pytest.mark.parametrize(
    "given", ["Bearer wrong", "Bearer ", "Bearer", f"Bearer {COOKIE}", f"Bearer {TOKEN}x", "Bearer \xff"]
)
def test_a_wrong_bearer_is_refused_with_a_sentence_even_with_the_cookie(given: str) -> None:
    status, headers, body = _ask("/api/runs", headers=[("authorization", given), ("accept", "text/html")])
    assert status == 401 and headers["content-type"] == "application/json"
    assert list(json.loads(body)) == ["problem"]
    assert "not the dashboard's token" in body and "Authorization: Bearer" in body
    assert headers["www-authenticate"].startswith("Bearer")
    assert TOKEN not in body


def test_two_authorizations_are_refused() -> None:
    right = ("authorization", f"Bearer {TOKEN}")
    assert _ask("/api/runs", cookie=None, headers=[right, right])[0] == 401
    assert _ask("/api/runs", cookie=None, headers=[("authorization", "Basic eDp5"), right])[0] == 401


def test_the_password_of_a_proxy_is_not_a_bearer() -> None:
    basic = [("authorization", "Basic eDp5")]
    assert _ask(headers=basic)[0] == 200
    assert _ask(cookie=None, headers=basic)[0] == 401


def test_a_bearer_opens_no_web_socket_and_excuses_no_foreign_origin_or_host() -> None:
    right = [("authorization", f"Bearer {TOKEN}")]
    assert (
        _ask("/_stcore/stream", kind="websocket", origin="http://127.0.0.1:8501", cookie=None, headers=right)[0] == 1008
    )
    assert _ask("/actions/stop", method="POST", origin="http://127.0.0.1:3000", cookie=None, headers=right)[0] == 403
    assert _ask("/api/runs", cookie=None, host="evil.example", headers=right)[0] == 421


def test_a_token_with_any_letters_is_compared_as_it_is() -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {
        "type": "http", "method": "GET", "scheme": "http", "path": "/api/runs", "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"authorization", "Bearer größe 12".encode())],
    }  # fmt: skip
    run_async(Guard(_behind, token="größe 12")(scope, receive, send))
    assert sent[0]["status"] == 200


# --- read-only -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_read_only_dashboard_refuses_every_action_with_a_sentence(method: str) -> None:
    right = [("authorization", f"Bearer {TOKEN}")]
    for ask in ({"origin": "http://127.0.0.1:8501"}, {"cookie": None, "headers": right}):
        status, _, body = _ask("/actions/stop", method=method, read_only=True, **ask)
        assert status == 403 and "read-only" in json.loads(body)["problem"]


def test_a_read_only_dashboard_shows_everything() -> None:
    assert _ask("/run?id=x", read_only=True)[0] == 200
    assert _ask("/_stcore/stream", kind="websocket", origin="http://127.0.0.1:8501", read_only=True)[0] == "accept"
    assert _ask("/api/runs", cookie=None, read_only=True)[0] == 401
    assert _ask("/actions/stop", method="POST", cookie=None, origin="http://127.0.0.1:8501", read_only=True)[0] == 401


@pytest.mark.parametrize(
    "origin", [None, "http://evil.example", "http://127.0.0.1:3000", "http://localhost:8501", "null"]
)
def test_a_web_socket_of_another_origin_is_closed_with_1008(origin: str | None) -> None:
    assert _ask("/_stcore/stream", kind="websocket", origin=origin)[0] == 1008


def test_a_web_socket_of_this_site_with_the_cookie_passes() -> None:
    assert _ask("/_stcore/stream", kind="websocket", origin="http://127.0.0.1:8501")[0] == "accept"


def test_a_web_socket_without_the_cookie_is_closed_even_with_the_token_in_the_address() -> None:
    ask = {"kind": "websocket", "origin": "http://127.0.0.1:8501", "cookie": None}
    assert _ask("/_stcore/stream", **ask)[0] == 1008
    assert _ask(f"/_stcore/stream?token={TOKEN}", **ask)[0] == 1008


def test_reading_with_a_foreign_origin_is_refused_too() -> None:
    assert _ask(origin="http://evil.example")[0] == 403


def test_a_checked_origin_is_not_passed_on_and_no_other_site_may_read() -> None:
    status, headers, body = _ask(origin="http://127.0.0.1:8501")
    assert (status, body) == (200, "reached none")
    assert "access-control-allow-origin" not in headers


def test_behind_a_proxy_that_ends_tls_the_https_origin_is_this_site() -> None:
    ask = {"host": "localhost", "cookie": f"relight-80={COOKIE}", "method": "POST"}
    assert _ask(origin="https://localhost", **ask)[0] == 200
    assert _ask(origin="https://localhost:444", **ask)[0] == 403


def test_the_token_becomes_a_strict_cookie_of_this_port_and_leaves_the_address() -> None:
    status, headers, _ = _ask("/run?run=a+b&token=" + TOKEN.replace(" ", "%20"), cookie=None)
    assert status == 303
    assert headers["location"] == "/run?run=a+b"
    cookie = headers["set-cookie"]
    assert cookie.startswith(f"relight-8501={COOKIE};")
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Path=/" in cookie
    assert TOKEN not in cookie
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize("token", [TOKEN.replace(" ", "%20"), "of-the-last-start"])
@pytest.mark.parametrize("site", ["none", "cross-site"])
def test_the_token_leaves_the_address_of_a_browser_that_has_the_cookie(token: str, site: str) -> None:
    status, headers, body = _ask(f"/run s?a=1&token={token}&b=2", headers=[("sec-fetch-site", site)])
    assert "set-cookie" not in headers and headers["cache-control"] == "no-store"
    if site == "none":
        assert (status, headers["location"]) == (303, "/run%20s?a=1&b=2")
    else:
        assert status == 200 and "url=/run%20s?a=1&amp;b=2" in body and token not in body


def test_over_https_the_cookie_is_secure() -> None:
    ask = {"cookie": None, "scheme": "https"}
    assert "Secure" in _ask(f"/?token={TOKEN}".replace(" ", "%20"), **ask)[1]["set-cookie"]


def test_a_link_on_another_site_works_although_a_redirect_would_carry_no_strict_cookie() -> None:
    status, headers, body = _ask(
        f"/runs?token={TOKEN}".replace(" ", "%20"), cookie=None, headers=[("sec-fetch-site", "cross-site")]
    )
    assert status == 200 and "set-cookie" in headers
    assert 'http-equiv="refresh" content="0; url=/runs"' in body


@pytest.mark.parametrize("path", ["//evil.example/x", "/\\evil.example", "///evil.example"])
def test_the_redirect_never_leaves_the_site(path: str) -> None:
    location = _ask(f"{path}?token={TOKEN}".replace(" ", "%20"), cookie=None)[1]["location"]
    assert location.startswith("/") and not location.startswith(("//", "/\\"))


@pytest.mark.parametrize(
    "cookie", [None, "relight-8501=", "relight-8501=wrong", f"relight-8502={COOKIE}", f"other={COOKIE}",
               f"relight-8501={TOKEN}"],
)  # fmt: skip
def test_without_the_cookie_a_page_says_where_the_link_is(cookie: str | None) -> None:
    status, headers, body = _ask("/anything", cookie=cookie, headers=[("accept", "text/html,*/*")])
    assert status == 401
    assert headers["content-type"].startswith("text/html")
    assert "relight up" in body and "docker logs" in body and "token" in body
    assert TOKEN not in body


def test_a_wrong_token_is_reported_as_wrong() -> None:
    status, headers, body = _ask("/?token=wrong", cookie=None)
    assert status == 401 and "set-cookie" not in headers
    assert "not the dashboard's token" in body


def test_a_cookie_among_others_is_found() -> None:
    assert _ask(cookie=f"a=b; relight-8501={COOKIE}; c=d")[0] == 200


def test_only_the_health_address_is_public() -> None:
    assert _ask("/_stcore/health", cookie=None)[0] == 200
    for path in (
        "/_stcore/health/",
        "/_stcore/metrics",
        "/_stcore/host-config",
        "/static/x.js",
        "/media/x",
        "/api/stream",
    ):
        assert _ask(path, cookie=None)[0] == 401, path
    assert _ask("/_stcore/health", cookie=None, method="POST", origin="http://127.0.0.1:8501")[0] == 401


def test_the_headers_make_the_browser_load_nothing_from_elsewhere() -> None:
    for cookie in (None, f"relight-8501={COOKIE}"):
        headers = _ask(cookie=cookie)[1]
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy and "connect-src 'self'" in policy and "frame-ancestors 'none'" in policy
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-content-type-options"] == "nosniff"


# --- the same with a real server -------------------------------------------------------------------------------------


def test_every_route_of_the_served_dashboard_is_behind_the_guard(dashboard: ServedDashboard) -> None:
    paths = ["/", "/_stcore/host-config", "/_stcore/metrics", "/api/stream", "/api/history", "/assets/icon.svg",
             "/files/x/exports/y", "/files/x/log.txt", "/files/x/metrics.csv", "/static/x",
             "/nothing"]  # fmt: skip
    with httpx.Client(base_url=dashboard.site) as stranger:
        assert {path: stranger.get(path).status_code for path in paths} == dict.fromkeys(paths, 401)
        assert stranger.get("/_stcore/health").text == "ok"
        evil = {"Host": "evil.example"}
        assert {path: stranger.get(path, headers=evil).status_code for path in paths} == dict.fromkeys(paths, 421)
        bearer = {"Authorization": f"Bearer {dashboard.token}"}
        assert stranger.get("/api/history", headers=bearer).status_code in {400, 404}
        for path in ("/actions/nothing", "/parts/nothing"):
            assert stranger.post(path).status_code == 403
            assert stranger.post(path, headers={"Authorization": "Bearer wrong"}).status_code == 401
            assert stranger.get(path, headers=bearer).status_code == 404
    with dashboard.client() as owner:
        assert owner.get("/").status_code == 200
        assert "token" not in str(owner.get("/").url)


def test_streamlits_own_web_socket_is_behind_the_guard(dashboard: ServedDashboard) -> None:
    with dashboard.client() as owner:
        cookie = "; ".join(f"{name}={value}" for name, value in owner.cookies.items())

    async def connect(origin: str, headers: dict[str, str], host: str = "127.0.0.1") -> str:
        try:
            async with websockets.connect(
                f"ws://{host}:{dashboard.port}/_stcore/stream",
                host="127.0.0.1",
                port=dashboard.port,
                origin=websockets.Origin(origin),
                additional_headers=headers,
                subprotocols=[websockets.Subprotocol("streamlit")],
            ):
                return "open"
        except websockets.InvalidStatus as refused:
            return str(refused.response.status_code)

    async def connect_all() -> list[str]:
        evil = "evil.example"
        return [
            await connect(dashboard.site, {"Cookie": cookie}),
            await connect(dashboard.site, {}),
            await connect("http://127.0.0.1:3000", {"Cookie": cookie}),
            await connect(f"http://{evil}:{dashboard.port}", {"Cookie": cookie}, host=evil),
        ]

    assert run_async(connect_all()) == ["open", "403", "403", "403"]
