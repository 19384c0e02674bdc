"""Every press causes exactly one action, whatever the browser requests at the same moment."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from streamlit.proto.ClientState_pb2 import ClientState

from relight_app.server.presses import Presses, has_press, key_of
from tests.app.served_dashboard import ServedDashboard
from tests.app.server.page_socket import ask_for_the_page, buttons, connect, hear
from tests.event_loop import run_async

_PAGE = """
import time
from pathlib import Path
import streamlit as st
from relight_app.browser_session import remembered
from relight_app.widgets.action_button import action_button

def act():
    time.sleep({takes_s})
    remembered()["done"] = remembered().get("done", 0) + 1
    Path({done!r}).write_text(str(remembered()["done"]))

for number in range(5):
    st.text(number)
action_button("Do", act, key="do")
st.text("the end")
"""


@pytest.mark.processes
@pytest.mark.parametrize("takes_s", [0.0, pytest.param(0.05, marks=pytest.mark.thorough)])
def test_a_press_that_another_request_follows_at_once_is_acted_on_once(tmp_path: Path, takes_s: float) -> None:
    script, done = tmp_path / "page.py", tmp_path / "done"
    script.write_text(_PAGE.format(takes_s=takes_s, done=str(done)))
    gaps_s = [gap_ms / 1000 for gap_ms in (0, 0, 0, 1, 1, 3, 5, 10, 20, 30)]

    async def press(served: ServedDashboard) -> None:
        async with connect(served) as connection:
            await ask_for_the_page(connection)
            (button,) = buttons(await hear(connection, "script_finished"))
            for times, gap_s in enumerate(gaps_s, start=1):
                await ask_for_the_page(connection, pressed=button)
                for _ in range(3):
                    await asyncio.sleep(gap_s)
                    await ask_for_the_page(connection)
                for _ in range(1000):
                    if done.exists() and done.read_text() == str(times):
                        break
                    await asyncio.sleep(0.02)
                assert done.read_text() == str(times), f"{gap_s} s between"
            await asyncio.sleep(0.3)
            assert done.read_text() == str(len(gaps_s)), "a press was acted on again"

    with ServedDashboard(tmp_path / "runs", script=script) as served:
        run_async(press(served))


def _ask(*pressed: str, part: str = "") -> ClientState:
    asked = ClientState(fragment_id=part)
    for one in pressed:
        asked.widget_states.widgets.add(id=one, trigger_value=True)
    return asked


def _pressed(asked: ClientState) -> list[str]:
    return [key_of(state.id) for state in asked.widget_states.widgets]


def test_a_press_is_added_to_the_next_request_of_its_session_but_not_of_another_session_or_fragment() -> None:
    presses = Presses()
    presses.expect("stop")
    presses.carry("a", _ask("$$ID-1f-stop"))
    other, part, own = _ask(), _ask(part="list"), _ask()
    presses.carry("b", other)
    presses.carry("a", part)
    presses.carry("a", own)
    assert (_pressed(other), _pressed(part), _pressed(own)) == ([], [], ["stop"])


def test_only_buttons_that_claim_their_presses_have_them_repeated() -> None:
    presses = Presses()
    presses.carry("a", _ask("$$ID-1f-stop"))
    after = _ask()
    presses.carry("a", after)
    assert _pressed(after) == []


def test_a_press_of_a_button_that_is_gone_is_not_repeated_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("relight_app.server.presses.time.monotonic", lambda: now[0])
    presses = Presses()
    presses.expect("stop")
    presses.carry("a", _ask("$$ID-1f-stop"))
    now[0] += 6
    later = _ask()
    presses.carry("a", later)
    assert _pressed(later) == []


def test_the_press_of_a_component_is_handled_like_one_of_a_button() -> None:
    asked = ClientState()
    asked.widget_states.widgets.add(id="$$ID-1f-a-menu__events", json_trigger_value='{"action": 1}')
    assert has_press(asked)
    assert _pressed(asked) == ["a-menu"]
    quiet = ClientState()
    quiet.widget_states.widgets.add(id="$$ID-1f-stop", trigger_value=False)
    quiet.widget_states.widgets.add(id="$$ID-1f-a-menu__events", json_trigger_value="")
    assert not has_press(quiet)


def test_outside_a_server_every_claim_is_granted() -> None:
    assert Presses().claim("stop")
