"""A press is done once, whatever the connection and the server do, and the button shows that it is on its way."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.app.browser.conftest import SITE

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

_LISTEN = """async ([address, html]) => {
  const { listen } = await import(address)
  const root = document.querySelector('#root')
  root.innerHTML = html
  window.refreshed = 0
  listen(root, {
    refresh: async () => { window.refreshed += 1 },
    shows: (text) => text === 'already shown',
    findRoot: () => document.body,
  })
}"""
STOP = """<button data-act="stop" data-payload='{"run": "x"}'>Stop</button>"""
FORM = """<form data-act="launch" data-payload='{"task": "digits"}'>
  <label>Epochs<input name="config.epochs" value="12" data-default="12" data-mark></label>
  <label>Name<input name="name"></label>
  <label>Note<input name="config.note" value="x" data-default="x" data-send-empty></label>
  <label>Mode<select name="config.mode" data-default="a"><option>a</option><option>b</option></select></label>
  <button type="submit">Launch</button>
</form>"""


class Server:
    """Answers the actions of the page."""

    def __init__(self, page: Page) -> None:
        self.asked: list[tuple[str, dict[str, Any], str]] = []
        """Action, payload and key of every request."""
        self.answers: list[Callable[[Route], None]] = []
        """What to answer next; at the end, everything is done."""
        page.route(f"{SITE}/actions/**", self._answer)

    @property
    def keys(self) -> list[str]:
        """The keys of the requests."""
        return [key for _, _, key in self.asked]

    def _answer(self, route: Route) -> None:
        request = route.request
        name = request.url.rpartition("/")[2]
        self.asked.append((name, json.loads(request.post_data or ""), request.headers["idempotency-key"]))
        answer = self.answers.pop(0) if self.answers else reply(200, {"run": "x"})
        answer(route)


def reply(status: int, body: Any) -> Callable[[Route], None]:
    """Return an answer with this status and JSON."""
    return lambda route: route.fulfill(status=status, body=json.dumps(body), content_type="application/json")


def hang_up(route: Route) -> None:
    """Break the connection, as a server does that is killed."""
    route.abort("connectionreset")


@pytest.fixture
def server(blank: Page) -> Server:
    return Server(blank)


def _show(page: Page, html: str) -> None:
    page.evaluate(_LISTEN, [f"{SITE}/gestures.js", html])


def _settle(page: Page) -> None:
    """Wait until no press is on its way."""
    expect(page.locator("[data-busy]")).to_have_count(0)


def test_a_press_sends_its_payload_with_a_fresh_key_and_then_shows_the_result(blank: Page, server: Server) -> None:
    _show(blank, STOP)
    for _ in range(2):
        blank.get_by_role("button", name="Stop").click()
        blank.wait_for_function("() => window.refreshed")
        _settle(blank)
    assert [(name, payload) for name, payload, _ in server.asked] == [("stop", {"run": "x"})] * 2
    assert len(set(server.keys)) == 2
    assert all(len(key) == 32 for key in server.keys)


def test_a_double_click_and_clicks_while_it_is_busy_are_one_press(blank: Page, server: Server) -> None:
    held: list[Route] = []
    server.answers = [lambda route: held.append(route)]  # noqa: PLW0108  playwright marks it
    _show(blank, STOP)
    button = blank.get_by_role("button", name="Stop")
    button.dblclick()
    expect(button).to_have_attribute("data-busy", "")
    expect(button).to_have_attribute("aria-disabled", "true")
    for _ in range(3):
        button.evaluate("button => button.click()")
    held[0].fulfill(body="{}")
    expect(button).not_to_have_attribute("data-busy", "")
    expect(button).not_to_have_attribute("aria-disabled", "true")
    assert len(server.asked) == 1


def test_a_press_outlives_a_broken_connection_and_a_gateway_error_with_the_same_key(
    blank: Page, server: Server
) -> None:
    server.answers = [hang_up, reply(502, {}), hang_up, reply(202, {"pending": True}), reply(200, {"run": "x"})]
    _show(blank, STOP)
    blank.get_by_role("button", name="Stop").click()
    blank.wait_for_function("() => window.refreshed")
    assert len(server.asked) == 5
    assert len(set(server.keys)) == 1, "so that it is done once"
    expect(blank.get_by_role("alert")).to_have_count(0)


def test_a_refusal_is_an_alert_with_its_traceback_until_it_is_closed(blank: Page, server: Server) -> None:
    server.answers = [reply(409, {"problem": "The run is <b>busy</b>.", "traceback": "Traceback …"})]
    _show(blank, STOP)
    blank.get_by_role("button", name="Stop").click()
    alert = blank.get_by_role("alert")
    expect(alert.get_by_text("The run is <b>busy</b>.", exact=True)).to_be_visible()
    expect(alert.locator("pre")).to_have_text("Traceback …")
    expect(blank.get_by_role("button", name="Stop")).to_be_enabled()
    alert.get_by_role("button", name="Close").click()
    expect(alert).to_have_count(0)


def test_a_person_who_has_left_the_page_stays_there_and_is_told_what_failed(blank: Page, server: Server) -> None:
    held: list[Route] = []
    form = FORM.replace("<form", '<form data-then="/run?id={run}"')
    for status, answer in ((200, {"run": "x"}), (409, {"problem": "The disk is full."})):
        server.answers = [lambda route: held.append(route)]  # noqa: PLW0108  playwright marks it
        blank.evaluate("() => { document.querySelector('#root') ?? document.body.append(window.root) }")
        _show(blank, form)
        blank.get_by_role("button", name="Launch").click()
        expect(blank.locator("form[data-busy]")).to_be_visible()
        blank.evaluate("() => { window.root = document.querySelector('#root'); window.root.remove() }")
        reply(status, answer)(held.pop())
        blank.wait_for_function("() => window.refreshed")
    expect(blank.get_by_role("alert")).to_contain_text("The disk is full.")
    assert blank.evaluate("location.pathname") == "/"


def test_a_problem_that_the_page_shows_already_is_not_told_twice(blank: Page, server: Server) -> None:
    server.answers = [reply(409, {"problem": "already shown"})]
    _show(blank, STOP)
    blank.get_by_role("button", name="Stop").click()
    blank.wait_for_function("() => window.refreshed")
    _settle(blank)
    expect(blank.get_by_role("alert")).to_have_count(0)


@pytest.mark.parametrize(("answer", "presses"), [("Stop now", 1), ("Keep training", 0)])
def test_a_question_comes_before_the_press(blank: Page, server: Server, answer: str, presses: int) -> None:
    words = {"": "All is lost.", "-title": "Stop?", "-yes": "Stop now", "-no": "Keep training"}
    asks = " ".join(f'data-confirm{name}="{text}"' for name, text in words.items())
    _show(blank, STOP.replace("<button", f"<button {asks}"))
    blank.get_by_role("button", name="Stop").click()
    dialog = blank.get_by_role("dialog", name="Stop?")
    expect(dialog).to_contain_text("All is lost.")
    expect(dialog.get_by_role("button", name="Keep training")).to_be_focused()
    assert server.asked == []
    dialog.get_by_role("button", name=answer).click()
    expect(dialog).to_have_count(0)
    if presses:
        blank.wait_for_function("() => window.refreshed")
    assert len(server.asked) == presses


def test_code_from_elsewhere_runs_only_after_the_person_has_agreed(blank: Page, server: Server) -> None:
    untrusted = {"problem": "It would run /x.py.", "ask": "trust"}
    server.answers = [reply(409, untrusted), reply(409, untrusted), reply(200, {"run": "x"})]
    _show(blank, STOP.replace("stop", "resume"))
    for answer in ("Cancel", "Trust and continue"):
        blank.get_by_role("button", name="Stop").click()
        dialog = blank.get_by_role("dialog")
        expect(dialog).to_contain_text("It would run /x.py.")
        dialog.get_by_role("button", name=answer).click()
        _settle(blank)
    blank.wait_for_function("() => window.refreshed")
    assert [payload for _, payload, _ in server.asked] == [{"run": "x"}, {"run": "x"}, {"run": "x", "trust": True}]
    assert len(set(server.keys)) == 3
    expect(blank.get_by_role("alert")).to_have_count(0)


def test_a_refused_button_cannot_be_pressed(blank: Page, server: Server) -> None:
    _show(blank, STOP.replace("<button", '<button aria-disabled="true" data-refused'))
    blank.get_by_role("button", name="Stop").click(force=True)
    blank.get_by_role("button", name="Stop").press("Enter")
    blank.wait_for_timeout(100)
    assert server.asked == []


def test_a_form_sends_what_differs_from_what_leaving_it_out_means(blank: Page, server: Server) -> None:
    _show(blank, FORM)
    launch = blank.get_by_role("button", name="Launch")
    launch.click()
    _settle(blank)
    blank.get_by_label("Epochs").fill(" 7 ")
    blank.get_by_label("Name").fill("my run")
    blank.get_by_label("Note").fill("")
    blank.get_by_label("Mode").select_option("b")
    launch.evaluate("button => button.click()")
    _settle(blank)
    blank.get_by_label("Epochs").fill("")
    blank.get_by_label("Epochs").press("Enter")
    _settle(blank)
    changed = {"task": "digits", "name": "my run", "config": {"note": "", "mode": "b"}}
    assert [payload for _, payload, _ in server.asked] == [
        {"task": "digits"}, changed | {"config": {"epochs": "7", "note": "", "mode": "b"}}, changed,
    ]  # fmt: skip


def test_a_double_click_on_the_button_of_a_form_is_one_press(blank: Page, server: Server) -> None:
    _show(blank, FORM)
    blank.get_by_role("button", name="Launch").dblclick()
    _settle(blank)
    blank.wait_for_timeout(100)
    assert len(server.asked) == 1


def test_another_button_of_a_form_does_its_own_action_with_the_fields_that_it_names(
    blank: Page, server: Server
) -> None:
    drill = """<button type="submit" data-submit="drill" data-fields="config arguments">Prove resume</button>"""
    _show(blank, FORM.replace("</form>", f"{drill}</form>"))
    blank.get_by_label("Epochs").fill("7")
    blank.get_by_label("Name").fill("my run")
    blank.get_by_role("button", name="Prove resume").click()
    _settle(blank)
    blank.get_by_label("Name").press("Enter")
    _settle(blank)
    assert [(name, payload) for name, payload, _ in server.asked] == [
        ("drill", {"task": "digits", "config": {"epochs": "7"}}),
        ("launch", {"task": "digits", "config": {"epochs": "7"}, "name": "my run"}),
    ]
