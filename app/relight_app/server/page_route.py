"""The pages' HTML: Streamlit's own, which shows a page only once its scripts have run, with the page already in it.

The browser paints header and parts as they arrive, our modules make them live and draw the charts, and only then does
Streamlit start, behind what is shown. When it has mounted the page's components, `first_paint.js` moves everything into
them. Streamlit needs about a second for that; the page is there after a fifth of it.
"""

from __future__ import annotations

import contextlib
import html
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cache
from pathlib import Path

import anyio
import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from relight_app.live.component import Mount
from relight_app.markup import Markup, join, tag
from relight_app.navigation import ALIASES, PAGES, PageInfo, list_mounts
from relight_app.server.board_route import build_board
from relight_app.server.configuration import find_streamlit, read_font_faces
from relight_app.server.files import find_layout
from relight_app.server.part_route import build_part
from relight_app.settings import current_settings
from relight_app.urls import list_modules, module_url, site_path

_PATIENCE_S = 3.0
"""A part that takes longer is left for the browser to ask for."""
_AT_FIRST = {"runs": {"rows": "30"}}
"""More than a screen, by part; the browser asks for the rest a moment later."""
_STYLE = Path(__file__).parents[1] / "theme" / "first_paint.css"
_STARTS = re.compile(r'\s*<(?:script type="module"|link rel="(?:modulepreload|stylesheet)")[^>]*>(?:</script>)?')
"""What in Streamlit's page makes the browser load and run Streamlit."""
_LOAD = """
const load = () => import(%s).catch((error) => {
  if (!(error instanceof TypeError)) throw error
  setTimeout(load, 1000) // the server has died meanwhile: it will be back
})
load()
"""
_CHOOSE_THEME = """
{
  let theme = ''
  try { theme = localStorage.getItem(`stActiveTheme-${location.pathname}-v2`) ?? '' } catch {}
  const dark = matchMedia('(prefers-color-scheme: dark)').matches
  const first = document.getElementById('relight-first')
  first.dataset.theme = /dark/i.test(theme) ? 'dark' : /light/i.test(theme) ? 'light' : dark ? 'dark' : 'light'
}
"""
_HOLD = """
{
  const held = (document.getElementById('relight-first').held = [])
  for (const type of ['click', 'input']) {
    document.addEventListener(type, (event) => {
      const path = event.composedPath()
      const host = path.find((one) => one.dataset?.mount)
      if (!host || host.dataset.live !== undefined) return
      if (type === 'click') {
        const link = path.find((one) => one.matches?.('a[href], summary'))
        if (link && link.dataset.set === undefined && link.dataset.act === undefined) return // works without a script
        event.preventDefault()
      }
      if (event.detail <= 1) held.push({ type, host, target: path[0] })
    }, true)
  }
}
"""
"""What a person presses and types before a component is live; `first_paint.js` does it when it is."""


def page_routes() -> list[Route]:
    """Return the routes of all pages."""
    return [Route("/" + page.path, _sender(page), methods=["GET", "HEAD"]) for page in (*PAGES.values(), *ALIASES)]


def _sender(page: PageInfo) -> Callable[[Request], Awaitable[Response]]:
    async def send_page(request: Request) -> Response:
        query = dict(request.query_params)
        mounts = await anyio.to_thread.run_sync(list_mounts, page, query)
        # Not compressed: a compressor would keep back what the browser could already paint.
        headers = {"Cache-Control": "no-store", "Content-Encoding": "identity"}
        return StreamingResponse(_write_page(mounts, query), media_type="text/html; charset=utf-8", headers=headers)

    return send_page


async def _write_page(mounts: list[Mount], query: dict[str, str]) -> AsyncIterator[bytes]:
    head, body, starts = _split_streamlit_page()
    yield (head + _build_head(mounts) + body + _build_header()).encode()
    for mount in mounts:
        component = mount.component
        begin, end = Markup("<div>"), Markup("</div>")
        style = tag("style", Markup(component.style.read_text(encoding="utf-8")))
        if component.isolate_styles:
            begin, end = Markup('<div><template shadowrootmode="open">'), Markup("</template></div>")
        data = html.escape(json.dumps(mount.data))
        yield f'<div data-mount="{data}">{begin}{style}<div class="{component.element}">'.encode()
        run = mount.data.get("run")
        if run and "plotly" in mount.data:
            yield await _build_plan(run)
        for part in mount.data.get("parts", ()):
            yield await _build_part(part["name"], query | {"id": run} if run else query)
        yield f"</div>{end}</div>".encode()
    script = tag("script", Markup(_LOAD % json.dumps(module_url("first_paint.js"))), type="module")
    yield f'</main></div><template id="relight-streamlit">{starts}</template>{script}\n  </body>\n</html>\n'.encode()


async def _build_part(name: str, query: dict[str, str]) -> bytes:
    query = _AT_FIRST.get(name, {}) | query
    with anyio.move_on_after(_PATIENCE_S):
        part = await anyio.to_thread.run_sync(build_part, name, query, abandon_on_cancel=True)
        etag = None if part.failed else part.etag  # else the browser would not ask again
        return str(tag("div", Markup(part.body.decode()), class_="part", data_part=name, data_etag=etag)).encode()
    return b""


async def _build_plan(run: str) -> bytes:
    """Build what `board.js` would ask for first."""
    with anyio.move_on_after(_PATIENCE_S), contextlib.suppress(HTTPException):
        body, etag = await anyio.to_thread.run_sync(build_board, find_layout(run), abandon_on_cancel=True)
        plan = Markup(body.decode().replace("<", "\\u003c"))
        return str(tag("script", plan, type="application/json", data_etag=etag)).encode()
    return b""


@cache
def _split_streamlit_page() -> tuple[str, str, str]:
    """Split Streamlit's page: up to the end of its head, the rest up to the end of its body, what starts Streamlit."""
    page = (find_streamlit() / "static" / "index.html").read_text(encoding="utf-8")
    starts = "".join(_STARTS.findall(page))
    head, _, body = _STARTS.sub("", page).partition("</head>")
    assert starts and body, "this version of Streamlit has another page"
    head = head.replace("<title>Streamlit</title>", "<title>Relight</title>")
    return head, "</head>" + body.partition("</body>")[0], starts


def _build_head(mounts: list[Mount]) -> Markup:
    modules = {"first_paint.js", *(mount.data["module"].rpartition("/")[2] for mount in mounts)}
    plotly = {mount.data["plotly"] for mount in mounts if "plotly" in mount.data}
    faces = "".join(
        f"@font-face {{ font-family: {face['family']}; src: url({face['url']}); font-weight: {face['weight']}; "
        f"font-display: swap; unicode-range: {face.get('unicodeRange', 'U+0-10FFFF')}; }}\n"
        for face in read_font_faces(current_settings().base_path)
    )
    return join(
        [tag("link", rel="preload", as_="script", href=address) for address in plotly],
        [tag("link", rel="modulepreload", href=module_url(name)) for name in list_modules(modules)],
        tag("style", Markup(faces + _STYLE.read_text(encoding="utf-8"))),
    )


def _build_header() -> Markup:
    links = [tag("a", page.title, href=site_path("/" + page.path)) for page in PAGES.values() if not page.hidden]
    logo = tag("img", src=site_path("/assets/logo.svg"), alt="Logo", width="105", height="32")
    header = tag("header", tag("a", logo, href=site_path("/")), tag("nav", links, aria_label="App pages"))
    script = tag("script", Markup(_CHOOSE_THEME + _HOLD))
    return join(Markup('<div id="relight-first">'), script, header, Markup("<main>"))
