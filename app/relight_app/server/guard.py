"""The guard in front of every request, WebSockets included: it checks host, origin, and cookie or token.

Streamlit accepts any Host (so a web page can reach it by DNS rebinding), accepts any `http://localhost:*` page as an
origin, and has no login. The guard is a plain ASGI class, because Starlette's BaseHTTPMiddleware never sees WebSockets.
It checks, in this order:

1. The Host must be one of ours, else 421.
2. An Origin, which WebSockets and unsafe methods must have, must be exactly this site, port included, else 403. The
   browser's Sec-Fetch-Site must agree. Cookies do not distinguish ports, so these two keep out pages that another
   program serves on this machine.
3. The cookie must be present. Without it, a correct `?token=...` in the address sets it; anything else gets a 401 and a
   page that says where to find the link. A token never stays in the address. Only the health address needs no cookie.
4. A script sends `Authorization: Bearer TOKEN` instead of a cookie. No page of another site can do that, so it needs no
   Origin.
5. Behind a proxy that serves the dashboard below a path, every address must begin with it, else 404.
6. A read-only dashboard refuses every unsafe method with 403.

It also adds the headers that make the browser refuse to load anything from other sites.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection
from html import escape
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from relight_app.server.connections import note_admitted
from relight_app.server.token import cookie_value

HEALTH_PATH = "/_stcore/health"
LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", "relight.localhost", "::1"})
"""Names of this machine. Browsers send a cookie to every port of a host, and only ours is on relight.localhost."""
FETCHED = ("/api/", "/parts/", "/actions/")
"""Addresses that only the dashboard's own pages and scripts ask for: no page of another site may, not even to read."""
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_ELSEWHERE = frozenset({"cross-site", "same-site"})
_COOKIE_SECONDS = 30 * 24 * 3600
_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}

_CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        # Streamlit starts components from blobs; Vega and Arrow compile code.
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
_SECURITY_HEADERS = {
    "Content-Security-Policy": _CONTENT_SECURITY_POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Guard:
    """ASGI middleware that admits only browsers and scripts that know `token`, under our host names."""

    def __init__(
        self, app: ASGIApp, *, token: str, hosts: Collection[str] = (), base_path: str = "", read_only: bool = False
    ) -> None:
        assert token, "a dashboard without a token would be open to every page in the browser"
        self._app = app
        self._base_path = base_path
        self._read_only = read_only
        self._token = token
        self._cookie = cookie_value(token)
        self._hosts = LOCAL_HOSTS | {host.lower().rstrip(".") for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        if scope["path"] == HEALTH_PATH:  # a health check need not know the base path
            scope["path"] = self._base_path + HEALTH_PATH
        refusal = self._judge(scope)
        if refusal is not None and scope["path"].startswith(tuple(self._base_path + begin for begin in FETCHED)):
            refusal = _as_json(refusal)
        if refusal is None and scope["path"] != self._base_path + HEALTH_PATH:
            note_admitted(scope)
        if scope["type"] == "websocket":
            if refusal is None:
                await self._app(scope, receive, send)
            else:
                await receive()
                await send({"type": "websocket.close", "code": 1008})
            return
        guarded_send = _with_security_headers(send)
        if refusal is None:
            # The origin was checked. To check it again, Streamlit would ask the internet for its own address.
            headers = [(name, value) for name, value in scope["headers"] if name != b"origin"]
            await self._app({**scope, "headers": headers}, receive, guarded_send)
        else:
            await refusal(scope, receive, guarded_send)

    def _judge(self, scope: Scope) -> Response | None:
        """Return the response that refuses the request; None when it may pass."""
        headers = Headers(scope=scope)
        host = _split_host(headers.getlist("host"))
        if host is None or host[0] not in self._hosts:
            return PlainTextResponse(
                "The dashboard is not served under this host name. Open it as http://127.0.0.1:PORT, "
                "or start it with --allow-host NAME.\n",
                status_code=421,
            )
        if scope["path"] == self._base_path:
            query = scope["query_string"].decode("latin-1")
            return RedirectResponse(f"{self._base_path}/" + (f"?{query}" if query else ""), status_code=307)
        if not scope["path"].startswith(self._base_path + "/"):
            return PlainTextResponse(
                f"The dashboard is at {self._base_path}/. A proxy in front of it must not change the path.\n", 404
            )
        path = scope["path"].removeprefix(self._base_path)
        websocket = scope["type"] == "websocket"
        safe = not websocket and scope["method"] in _SAFE_METHODS
        bearer = None if websocket else _read_bearer(headers)
        fetched = path.startswith(FETCHED)
        if not _is_from_here(scope, headers, host, fetched=fetched, needs_origin=not safe and bearer is None):
            return PlainTextResponse("Requests from other sites are refused.\n", status_code=403)
        if path == HEALTH_PATH and safe:
            return None
        cookie_name = f"relight-{host[1] or _DEFAULT_PORTS.get(scope['scheme'], 80)}"
        if bearer is not None:
            if not _equal(bearer, self._token):
                return _refuse(wants_html=False, wrong=True, home=self._base_path + "/")
        elif not _equal(_read_cookie(headers.getlist("cookie"), cookie_name), self._cookie):
            return PlainTextResponse("", status_code=403) if websocket else self._admit(scope, headers, cookie_name)
        elif safe and (address := _without_token(scope)) is not None:
            return _redirect(address, headers)
        if self._read_only and not safe and not websocket:
            return PlainTextResponse(
                "This dashboard is read-only. Use the relight command, or start a dashboard without --read-only.\n",
                status_code=403,
            )
        return None

    def _admit(self, scope: Scope, headers: Headers, cookie_name: str) -> Response:
        """Respond to a browser without the cookie: set it if the address has the token, else say where to find that."""
        given = [value for name, value in _parse_query(scope) if name == "token"]
        address = _without_token(scope)
        right = len(given) == 1 and _equal(given[0], self._token)
        if address is None or not right or scope["method"] not in _SAFE_METHODS:
            return _refuse(
                wants_html="text/html" in headers.get("accept", ""), wrong=bool(given), home=self._base_path + "/"
            )
        response = _redirect(address, headers)
        response.set_cookie(
            cookie_name,
            self._cookie,
            max_age=_COOKIE_SECONDS,
            httponly=True,
            samesite="strict",
            path=self._base_path + "/",
            secure=scope["scheme"] in {"https", "wss"},
        )
        return response


def _parse_query(scope: Scope) -> list[tuple[str, str]]:
    return parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)


def _without_token(scope: Scope) -> str | None:
    """Return the address without the token that is in it; None when there is none."""
    query = _parse_query(scope)
    rest = [(name, value) for name, value in query if name != "token"]
    if len(rest) == len(query):
        return None
    return "/" + quote(scope["path"].lstrip("/\\")) + (f"?{urlencode(rest)}" if rest else "")


def _redirect(address: str, headers: Headers) -> Response:
    """Replace the address in the browser, and in its history, by this one."""
    response: Response
    if headers.get("sec-fetch-site") in _ELSEWHERE:
        # After a link on another site, the browser sends no strict cookie with a redirect, but does with a refresh.
        response = HTMLResponse(f'<meta http-equiv="refresh" content="0; url={escape(address)}">')
    else:
        response = RedirectResponse(address, status_code=303)
    response.headers["Cache-Control"] = "no-store"
    return response


def _is_from_here(
    scope: Scope, headers: Headers, host: tuple[str, int | None], *, fetched: bool, needs_origin: bool
) -> bool:
    """Return whether what the browser says about the request's sender allows it: no other site, no other port."""
    origins, sites = headers.getlist("origin"), set(headers.getlist("sec-fetch-site"))
    if (origins or needs_origin) and not (len(origins) == 1 and _is_same_site(origins[0], host, scope["scheme"])):
        return False
    if scope["type"] == "websocket":
        return True
    if needs_origin:
        return sites <= {"same-origin"}
    return not (sites & _ELSEWHERE and fetched)


def _as_json(refusal: Response) -> Response:
    """Return what a refusal says as the JSON that our scripts and the HTTP interface expect."""
    if refusal.media_type != "text/plain":
        return refusal
    kept = {name: value for name in ("Cache-Control", "WWW-Authenticate") if (value := refusal.headers.get(name))}
    sentence = bytes(refusal.body).decode().strip()
    return JSONResponse({"problem": sentence}, status_code=refusal.status_code, headers=kept)


def _split_host(values: list[str]) -> tuple[str, int | None] | None:
    """Return name and port of the Host header; None unless there is exactly one, and it is well formed."""
    if len(values) != 1:
        return None
    try:
        parts = urlsplit(f"//{values[0]}")
        port = parts.port
    except ValueError:
        return None
    if not parts.hostname or parts.netloc != values[0] or parts.username is not None:
        return None
    return parts.hostname.rstrip("."), port


def _is_same_site(origin: str, host: tuple[str, int | None], scheme: str) -> bool:
    """Return whether `origin` is exactly the site that the request was sent to."""
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return False
    if parts.scheme not in {"http", "https"} or parts.path or parts.query or not parts.hostname:
        return False
    # Behind a TLS proxy, the origin is https although the request is http: use the default port of each scheme.
    mine = host[1] if host[1] is not None else _DEFAULT_PORTS.get(parts.scheme)
    theirs = port if port is not None else _DEFAULT_PORTS[parts.scheme]
    if scheme in {"https", "wss"} and parts.scheme != "https":
        return False
    return parts.hostname.rstrip(".") == host[0] and theirs == mine


def _read_bearer(headers: Headers) -> str | None:
    """Return the token of an Authorization header; None without one. Several of them are never right."""
    values = headers.getlist("authorization")
    given = [token.strip() for kind, _, token in (value.partition(" ") for value in values) if kind.lower() == "bearer"]
    if not given:
        return None
    return given[0].encode("latin-1").decode("utf-8", "replace") if len(values) == 1 else ""


def _read_cookie(values: list[str], name: str) -> str:
    for value in values:
        for pair in value.split(";"):
            key, _, content = pair.strip().partition("=")
            if key == name:
                return content
    return ""


def _equal(given: str, right: str) -> bool:
    return hmac.compare_digest(given.encode(), right.encode())


def _with_security_headers(send: Send) -> Send:
    async def guarded_send(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _SECURITY_HEADERS.items():
                headers[name] = value
            if "access-control-allow-origin" in headers:
                del headers["access-control-allow-origin"]
        await send(message)

    return guarded_send


def _refuse(*, wants_html: bool, wrong: bool, home: str) -> Response:
    title = "This is not the dashboard's token." if wrong else "Open this dashboard with its link."
    if not wants_html:
        where = "The terminal that runs `relight up` or `make run` shows the link with the token"
        how = "A script sends the token as `Authorization: Bearer TOKEN`"
        return PlainTextResponse(
            f"{title} {where}. {how}.\n",
            status_code=401,
            headers={"Cache-Control": "no-store", "WWW-Authenticate": 'Bearer realm="Relight"'},
        )
    page = _PAGE.replace("{title}", escape(title)).replace("{home}", escape(home))
    return HTMLResponse(page, status_code=401, headers={"Cache-Control": "no-store"})


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Relight: link needed</title>
<link rel="icon" href="data:,">
<style>
  :root { --page: #f6f7f9; --card: #fff; --text: #131722; --quiet: #5b6475; --line: #dfe4ec; --accent: #4353e0 }
  @media (prefers-color-scheme: dark) {
    :root { --page: #0b0e14; --card: #141923; --text: #e7eaf0; --quiet: #98a2b3; --line: #232a38; --accent: #8593ff } }
  body { margin: 0; min-height: 100vh; display: grid; place-items: center; background: var(--page); color: var(--text);
    font: 15px/1.55 system-ui, sans-serif }
  main { box-sizing: border-box; width: min(34rem, 92vw); padding: 2rem; background: var(--card);
    border: 1px solid var(--line); border-radius: 12px }
  h1 { margin: 0 0 .75rem; font-size: 1.3rem }
  code { font: .9em ui-monospace, monospace; overflow-wrap: anywhere }
  pre { margin: .75rem 0; padding: .75rem; border: 1px solid var(--line); border-radius: 8px; white-space: pre-wrap }
  form { display: flex; gap: .5rem; margin-top: 1.25rem }
  input { flex: 1; min-width: 0; padding: .5rem .7rem; border: 1px solid var(--line); border-radius: 8px;
    background: var(--page); color: inherit; font: inherit }
  button { padding: .5rem 1rem; border: 0; border-radius: 8px; background: #4353e0; color: #fff; font: inherit }
  label { display: block; margin-top: 1.25rem; color: var(--quiet) }
  label + form { margin-top: .35rem }
  input:focus-visible, button:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px }
</style>
<main>
  <h1>{title}</h1>
  <p>The terminal that runs <code>relight up</code> or <code>make run</code> shows the link with the token:</p>
  <pre><code>http://127.0.0.1:8501{home}?token=&hellip;</code></pre>
  <p>For a container, run <code>docker logs CONTAINER</code>. This browser remembers the token for 30 days.</p>
  <label for="token">Or paste the token here:</label>
  <form method="get" action="{home}">
    <input id="token" name="token" type="password" autocomplete="off" required>
    <button>Open</button>
  </form>
</main>
</html>
"""
