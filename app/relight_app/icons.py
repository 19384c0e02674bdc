"""The icons of the pages' own views, as inline SVG: no font and no request."""

from __future__ import annotations

from relight_app.markup import Markup

_PATHS = {
    "running": '<circle cx="12" cy="12" r="6.5"/>',
    "queued": '<circle cx="5" cy="12" r="2.4"/><circle cx="12" cy="12" r="2.4"/><circle cx="19" cy="12" r="2.4"/>',
    "finished": '<path d="M9.3 18.6 3.4 12.7l2.2-2.2 3.7 3.7 9.1-9.1 2.2 2.2z"/>',
    "stopped": '<rect x="5.5" y="5.5" width="13" height="13" rx="2.5"/>',
    "crashed": '<path d="m12 9.8 5-5L19.2 7l-5 5 5 5-2.2 2.2-5-5-5 5L4.8 17l5-5-5-5L7 4.8z"/>',
    "interrupted": '<path d="M14.2 1.8 4.4 13.9h6.3l-1 8.3 9.9-12.3h-6.4z"/>',
    "more": '<circle cx="12" cy="5" r="1.9"/><circle cx="12" cy="12" r="1.9"/><circle cx="12" cy="19" r="1.9"/>',
    "verified": '<path d="M12 1.6 20 5v6.4c0 5-3.3 9.2-8 11-4.7-1.8-8-6-8-11V5z'
    'm-1.2 14.6 6.1-6.1-1.7-1.7-4.4 4.4-2-2-1.7 1.7z"/>',
    "resume": '<path d="M7 4.6v14.8a1 1 0 0 0 1.5.86l12-7.4a1 1 0 0 0 0-1.7l-12-7.4A1 1 0 0 0 7 4.6z"/>',
    "launch": '<path d="M21.6 2.5c-5.8-.8-10.3 1-13.3 5.6L4.2 9l-1.7 3.4 4 .6 4.5 4.5.6 4 3.4-1.7.9-4.1'
    'c4.6-3 6.5-7.4 5.7-13.2zM15 7.2a1.8 1.8 0 1 1 0 3.6 1.8 1.8 0 0 1 0-3.6z"/>',
    "branch": '<path d="M6 3a3 3 0 0 1 1.2 5.7v6.6a3 3 0 1 1-2.4 0V8.7A3 3 0 0 1 6 3zm12 0a3 3 0 0 1 1.2 5.7V10'
    'a4 4 0 0 1-4 4H9v-2.4h6.2c.9 0 1.6-.7 1.6-1.6V8.7A3 3 0 0 1 18 3z"/>',
    "search": '<path d="M10 3a7 7 0 0 1 5.6 11.2l5.1 5.1-1.7 1.7-5.1-5.1A7 7 0 1 1 10 3zm0 2.4'
    'a4.6 4.6 0 1 0 0 9.2 4.6 4.6 0 0 0 0-9.2z"/>',
    "columns": '<path d="M4 4h16v16H4zm2 2v12h3.6V6zm5.4 0v12h7V6z" fill-rule="evenodd"/>',
    "bell": '<path d="M12 2.5a6 6 0 0 1 6 6v4.6l1.8 3.1H4.2L6 13.1V8.5a6 6 0 0 1 6-6zM9.5 18h5a2.5 2.5 0 0 1-5 0z"/>',
    "download": '<path d="M10.8 3h2.4v8.4l3-3 1.7 1.7L12 16l-5.9-5.9 1.7-1.7 3 3zM4 18.6h16V21H4z"/>',
}  # fmt: skip


def icon(name: str) -> Markup:
    """Return the icon called `name` in the color of the text. It is decorative: the text next to it says the same."""
    return Markup(f'<svg viewBox="0 0 24 24" aria-hidden="true" focusable="false">{_PATHS[name]}</svg>')
