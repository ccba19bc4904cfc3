"""A page as a person uses it: headless Chromium, driven by its DevTools protocol
(https://chromedevtools.github.io/devtools-protocol/)."""

from __future__ import annotations

import json
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import requests
from websockets.sync.client import ClientConnection, connect

from tests.support.chromium import OPTIONS
from tests.support.waiting import wait_until

#: A page may take so long on a busy machine.
_PATIENCE_SECONDS = 300.0


class PageLeft(Exception):
    """The page went away before it answered: one that had lost its connection for a
    while loads itself anew."""


class Browser:
    """One tab.

    Args:
        directory: for its profile.
    """

    def __init__(self, directory: Path) -> None:
        self._profile = directory / "profile"
        self._resources = ExitStack()
        self._numbers = 0
        self._document = ""
        self._connection: ClientConnection
        #: Errors of the page's programs and of what it loads.
        self.complaints: list[str] = []
        #: Addresses that were asked for.
        self.requested: list[str] = []

    def __enter__(self) -> Self:
        with self._resources:
            self._start()
            self._resources = self._resources.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def _start(self) -> None:
        process = subprocess.Popen(
            [
                "chromium",
                *OPTIONS,
                "--remote-debugging-port=0",
                f"--user-data-dir={self._profile}",
                "about:blank",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._resources.callback(process.wait)
        self._resources.callback(process.terminate)
        announced = self._profile / "DevToolsActivePort"
        wait_until(
            lambda: announced.exists() and announced.read_text().count("\n"),
            _PATIENCE_SECONDS,
            "the browser",
        )
        port = announced.read_text().split()[0]
        tabs = requests.get(f"http://127.0.0.1:{port}/json", timeout=30).json()
        (address,) = [
            tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page"
        ]
        self._connection = self._resources.enter_context(
            # a browser that is busy answers pings late, and none that wait unread
            connect(address, max_size=None, ping_interval=None)
        )
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """Have the browser do something; gives its answer."""
        self._numbers += 1
        number = self._numbers
        self._connection.send(
            json.dumps({"id": number, "method": method, "params": parameters})
        )
        while True:
            message = json.loads(self._connection.recv(_PATIENCE_SECONDS))
            if message.get("id") == number:
                if "navigated" in message.get("error", {}).get("message", ""):
                    raise PageLeft
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        parameters = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.complaints.append(str(parameters["exceptionDetails"]))
            case "Log.entryAdded" if parameters["entry"]["level"] == "error":
                self.complaints.append(str(parameters["entry"]))
            case "Network.requestWillBeSent":
                self.requested.append(parameters["request"]["url"])
            case "Page.frameNavigated" if "parentId" not in parameters["frame"]:
                self._document = parameters["frame"]["loaderId"]
            case _:
                pass

    def look(self, *, width: int, dark: bool = False) -> None:
        """Be so wide (pixels), and prefer dark pages or light ones."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, url: str) -> None:
        """Go to a page, and wait until the tab has left the one before: Chromium may
        never answer who goes on to a third one until then."""
        going = self.call("Page.navigate", url=url)
        if "errorText" in going:
            return
        while "loaderId" in going and self._document != going["loaderId"]:
            self._note(json.loads(self._connection.recv(_PATIENCE_SECONDS)))

    def evaluate(self, script: str) -> Any:
        """What a JavaScript expression gives."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        return result["result"].get("value")

    def text(self) -> str:
        """All text that is to be seen."""
        return str(self.evaluate("document.body.innerText") or "")

    def shown(self) -> str:
        """The text, and what stands in the fields."""
        fields = "[...document.querySelectorAll('input, textarea')].map(e => e.value)"
        return f"{self.text()}\n{self.evaluate(f'{fields}.join()')}"

    def wait_for(self, text: str) -> None:
        """Wait until a text is to be seen."""
        wait_until(
            lambda: text in self.text(),
            _PATIENCE_SECONDS,
            f"{text!r} on the page: {self.text()[:2000]}",
        )

    def press(self, name: str) -> None:
        """Press the button or link of that name, once it is there."""
        script = (
            "(() => { const found = [...document.querySelectorAll("
            "'button, a, .q-item')].filter(e => "
            "e.offsetParent !== null && !e.disabled && "
            "`${e.getAttribute('aria-label') || ''} ${e.innerText}`.toLowerCase()"
            f".includes({json.dumps(name.lower())})); "
            "if (found.length) found.at(-1).click(); return found.length })()"
        )
        wait_until(
            lambda: self.evaluate(script), _PATIENCE_SECONDS, f"the button {name}"
        )

    def key(self, name: str) -> None:
        """Press a key."""
        code = {"Tab": 9, "Enter": 13, "Escape": 27}[name]
        for kind in ("rawKeyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=name,
                code=name,
                windowsVirtualKeyCode=code,
            )

    def fill(self, label: str, value: str) -> None:
        """Type into the field of that label, in place of what is there."""
        script = (
            "(() => { const field = [...document.querySelectorAll('input, textarea')]"
            ".find(e => e.offsetParent !== null && "
            f"e.getAttribute('aria-label') === {json.dumps(label)}); "
            "if (!field) return false; field.focus(); field.select(); "
            "return document.activeElement === field })()"
        )
        wait_until(
            lambda: self.evaluate(script), _PATIENCE_SECONDS, f"the field {label}"
        )
        self.call("Input.insertText", text=value)
