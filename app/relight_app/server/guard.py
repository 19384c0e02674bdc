"""What stands before every request, web socket and route alike: right host, right origin, right person.

Streamlit by itself takes any Host (so a web page can reach it by DNS rebinding), any `http://localhost:*` page as an
origin, and knows no log-in. The guard is a plain ASGI class, because Starlette's BaseHTTPMiddleware never sees web
sockets, and does, in this order:

1. the Host must be one of ours, else 421;
2. an Origin, which web sockets and unsafe methods must have, must be exactly this site, port included, else 403;
3. the cookie must be there, else `?token=...` in the address becomes that cookie, else 401 and a page that says where
   the link is. Only the health address answers without.

It also sends the headers by which the browser itself refuses to load anything from elsewhere.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection
from html import escape
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from relight_app.server.token import cookie_value

HEALTH_PATH = "/_stcore/health"
LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_COOKIE_SECONDS = 30 * 24 * 3600
_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}

_CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        # Streamlit starts components from blobs, Vega and Arrow compile code.
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
    """ASGI middleware that lets only the holder of `token` in, on the names in `hosts`."""

    def __init__(self, app: ASGIApp, *, token: str, hosts: Collection[str] = ()) -> None:
        assert token, "a dashboard without a token would be open to every page in the browser"
        self._app = app
        self._token = token
        self._cookie = cookie_value(token)
        self._hosts = LOCAL_HOSTS | {host.lower().rstrip(".") for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        refusal = self._judge(scope)
        if scope["type"] == "websocket":
            if refusal is None:
                await self._app(scope, receive, send)
            else:
                await receive()
                await send({"type": "websocket.close", "code": 1008})
            return
        guarded_send = _with_security_headers(send)
        if refusal is None:
            # The origin is proven. Streamlit would ask the internet for its own address to judge it again.
            headers = [(name, value) for name, value in scope["headers"] if name != b"origin"]
            await self._app({**scope, "headers": headers}, receive, guarded_send)
        else:
            await refusal(scope, receive, guarded_send)

    def _judge(self, scope: Scope) -> Response | None:
        """None when the request may pass; else the answer that it gets."""
        headers = Headers(scope=scope)
        host = _split_host(headers.getlist("host"))
        if host is None or host[0] not in self._hosts:
            return PlainTextResponse(
                "The dashboard does not go by this name. Open it as http://127.0.0.1:PORT, "
                "or start it with --allow-host NAME.\n",
                status_code=421,
            )
        websocket = scope["type"] == "websocket"
        origins = headers.getlist("origin")
        needs_origin = websocket or scope["method"] not in _SAFE_METHODS
        if (origins or needs_origin) and not (len(origins) == 1 and _is_same_site(origins[0], host, scope["scheme"])):
            return PlainTextResponse("Requests of other sites are refused.\n", status_code=403)
        if scope["path"] == HEALTH_PATH and not websocket and scope["method"] in _SAFE_METHODS:
            return None
        cookie_name = f"relight-{host[1] or _DEFAULT_PORTS.get(scope['scheme'], 80)}"
        if _equal(_read_cookie(headers.getlist("cookie"), cookie_name), self._cookie):
            return None
        if websocket:
            return PlainTextResponse("", status_code=403)
        return self._admit(scope, headers, cookie_name)

    def _admit(self, scope: Scope, headers: Headers, cookie_name: str) -> Response:
        """The answer to somebody without a cookie: one, when the address holds the token; else where to find it."""
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for name, value in query if name == "token"]
        if len(given) != 1 or not _equal(given[0], self._token) or scope["method"] not in _SAFE_METHODS:
            return _refuse(wants_html="text/html" in headers.get("accept", ""), wrong=bool(given))
        rest = urlencode([(name, value) for name, value in query if name != "token"])
        address = "/" + scope["path"].lstrip("/\\") + (f"?{rest}" if rest else "")
        response: Response
        if headers.get("sec-fetch-site") in {"cross-site", "same-site"}:
            # Followed from another site's page, a redirect would not carry a strict cookie; a step of our own does.
            response = HTMLResponse(f'<meta http-equiv="refresh" content="0; url={escape(address)}">')
        else:
            response = RedirectResponse(address, status_code=303)
        response.set_cookie(
            cookie_name,
            self._cookie,
            max_age=_COOKIE_SECONDS,
            httponly=True,
            samesite="strict",
            secure=scope["scheme"] in {"https", "wss"},
        )
        response.headers["Cache-Control"] = "no-store"
        return response


def _split_host(values: list[str]) -> tuple[str, int | None] | None:
    """Name and port of a Host header; None when there is not exactly one that is well formed."""
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
    """Whether `origin` is exactly the site that the request was sent to."""
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return False
    if parts.scheme not in {"http", "https"} or parts.path or parts.query or not parts.hostname:
        return False
    # Behind a proxy that ends TLS the origin is https while we are spoken to in http: each default port is its own.
    mine = host[1] if host[1] is not None else _DEFAULT_PORTS.get(parts.scheme)
    theirs = port if port is not None else _DEFAULT_PORTS[parts.scheme]
    if scheme in {"https", "wss"} and parts.scheme != "https":
        return False
    return parts.hostname.rstrip(".") == host[0] and theirs == mine


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


def _refuse(*, wants_html: bool, wrong: bool) -> Response:
    said = "That token is not this dashboard's." if wrong else "This dashboard opens with its own link."
    where = "The link with the token stands in the terminal where `relight up` or `make run` was started"
    if not wants_html:
        return PlainTextResponse(f"{said} {where}.\n", status_code=401, headers={"Cache-Control": "no-store"})
    page = _PAGE.replace("{said}", escape(said))
    return HTMLResponse(page, status_code=401, headers={"Cache-Control": "no-store"})


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Relight: open it with its link</title>
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
  <h1>{said}</h1>
  <p>The link with the token stands in the terminal where <code>relight up</code> or <code>make run</code> was
  started:</p>
  <pre><code>http://127.0.0.1:8501/?token=&hellip;</code></pre>
  <p>In a container, <code>docker logs CONTAINER</code> shows it. After the first visit this browser remembers.</p>
  <label for="token">Or paste the token here</label>
  <form method="get" action="/">
    <input id="token" name="token" type="password" autocomplete="off" required>
    <button>Open</button>
  </form>
</main>
</html>
"""
