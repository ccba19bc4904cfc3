"""The console for everybody: by keyboard, by a reader of screens, narrow and dark."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from meshtasks.config.environment import Environment
from meshtasks.gateway.console import PAGES
from tests.support import axe
from tests.support.alerting import alert, receive
from tests.support.amqp import drain
from tests.support.browser import Browser
from tests.support.dead_letters import QUEUE, add_dead_letters, dead_letter
from tests.support.environments import ensure_axe
from tests.support.gateway import Gateway
from tests.support.waiting import wait_until

SENSOR = "/sensor/sensors.temperature.attic"
#: Everything that a click does something with, how many there are, and which of them no
#: key has come to.
_PRESSABLE = (
    "[...document.querySelectorAll('a, button, input, textarea, summary, "
    "[role=button]')].filter(e => e.offsetParent !== null && !e.disabled && "
    "e.getAttribute('aria-disabled') !== 'true')"
)
PRESSABLE = f"{_PRESSABLE}.length"
UNREACHED = (
    f"{_PRESSABLE}.filter(e => !e.dataset.reached && "
    "!e.querySelector('[data-reached]')).map(e => e.outerHTML.slice(0, 200))"
)
#: Whether nothing shows that the keyboard is at the element.
IS_UNMARKED = """(() => {
  const e = document.activeElement;
  if (e === document.body) return false;
  const around = e.closest('.q-field') || e;
  const helper = e.querySelector('.q-focus-helper');
  const style = getComputedStyle(e);
  return !(style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0)
    && !around.classList.contains('q-field--focused')
    && !(helper && parseFloat(getComputedStyle(helper).opacity) > 0.1);
})()"""


def faults_in_all_shapes(page: Browser, within: str = "html") -> str:
    """The faults of accessibility, a line each. What is dark differs in colours."""
    found = []
    for width in (1280, 390):
        page.look(width=width)
        found += [f"{width} light: {fault}" for fault in axe.faults(page, within)]
        page.look(width=width, dark=True)
        colours = axe.faults(page, within, "color-contrast")
        found += [f"{width} dark: {fault}" for fault in colours]
    return "\n".join(found)


@pytest.fixture(scope="module", autouse=True)
def busy(console_mesh: Environment, console_url: str) -> Iterator[None]:
    """Something to be seen on each page."""
    ensure_axe()
    add_dead_letters(console_url, map(dead_letter, range(30)))
    severities = ("info", "warning", "critical")
    alerts = [alert(severity=each, source=each) for each in severities]
    receive(console_mesh, *alerts)
    yield
    over = [alert(severity=each, source=each, resolved=True) for each in severities]
    receive(console_mesh, *over)
    drain(console_url, QUEUE)


@pytest.mark.usefixtures("chromium")
class TestAccessibility:
    @pytest.mark.parametrize("path", [*PAGES, "/login", SENSOR])
    def test_a_page_has_no_serious_fault(
        self, console: Gateway, page: Browser, path: str
    ) -> None:
        page.open(console.url + path)
        wait_until(lambda: page.evaluate("!!document.querySelector('h1')"), 60, path)
        if path == "/dead-letters":
            page.press("SchemaMismatch")
            page.wait_for("REPLAY ALL")
        if path == "/alerts":
            page.wait_for("attic is damp")
        if path == "/":
            page.wait_for("dead letters")

        assert faults_in_all_shapes(page) == ""

    @pytest.mark.parametrize(
        ("path", "opened", "expected"),
        [
            ("/dead-letters", ("SchemaMismatch", "Open "), "would be a dead letter"),
            ("/dead-letters", ("SchemaMismatch", "Replay all"), "would be requeued"),
            ("/alerts", ("Silence",), "Silences "),
        ],
    )
    def test_a_dialog_has_no_serious_fault(
        self,
        console: Gateway,
        page: Browser,
        path: str,
        opened: tuple[str, ...],
        expected: str,
    ) -> None:
        page.open(console.url + path)
        for name in opened:
            page.press(name)
        page.wait_for(expected)

        assert faults_in_all_shapes(page, ".q-dialog") == ""

    @pytest.mark.parametrize("path", PAGES)
    def test_everything_that_can_be_pressed_is_reached_by_keyboard_and_seen_there(
        self, console: Gateway, page: Browser, path: str
    ) -> None:
        page.open(console.url + path)
        wait_until(lambda: page.evaluate("!!document.querySelector('h1')"), 60, path)
        if path == "/dead-letters":
            page.wait_for("SchemaMismatch")
        if path == "/alerts":
            page.wait_for("attic is damp")
        wanted = page.evaluate(PRESSABLE)
        assert wanted

        page.evaluate("document.activeElement.blur()")
        unseen = set()
        for _ in range(wanted + 20):
            page.key("Tab")
            if page.evaluate(IS_UNMARKED):
                unseen.add(page.evaluate("document.activeElement.outerHTML")[:200])
            page.evaluate("document.activeElement.dataset.reached = 1")

        assert page.evaluate(UNREACHED) == []
        assert unseen == set()
