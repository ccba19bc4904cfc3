"""The console's pages without a browser and a network: NiceGUI's own simulation, in
this process. What a browser makes of them is tested in one."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from nicegui import ui
from nicegui.testing import User, user_simulation
from pydantic import SecretStr
from typing_extensions import override

from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.flows.contract import Scope
from meshtasks.flows.loading import load_flows
from meshtasks.gateway.clients import Client
from meshtasks.gateway.console.frame import Console
from meshtasks.gateway.console.sessions import Sessions
from meshtasks.gateway.context import Context
from tests.support.archive import directory_environment
from tests.support.gateway import TOKENS

#: On a busy machine.
_PATIENCE_SECONDS = 120.0


class _Everybody(Sessions):
    """Takes whoever comes for the same client."""

    def __init__(self, client: Client) -> None:
        self.client = client

    @override
    def client_of(self, cookie: str | None) -> Client | None:
        return self.client


class Visit:
    """Somebody who looks at pages."""

    def __init__(self, user: User, sessions: _Everybody) -> None:
        self._user = user
        self._sessions = sessions

    def be(self, *scopes: Scope) -> None:
        """Have these scopes from now on."""
        self._sessions.client = Client("operator", frozenset(scopes))

    async def open(self, path: str) -> None:
        """Go to a page."""
        await self._user.open(path)

    def elements(self, kind: type[Any]) -> Iterable[Any]:
        """All of a page that are of that kind."""
        assert self._user.client is not None
        found = self._user.client.elements.values()
        return [each for each in found if isinstance(each, kind)]

    def html(self) -> str:
        """What is written on the page."""
        return "\n".join(each.content for each in self.elements(ui.html))

    async def see(self, text: str) -> None:
        """Wait until a text is on the page."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while text not in self.html():
            assert time.monotonic() < deadline, f"no {text!r} in:\n{self.html()}"
            await asyncio.sleep(0.05)

    def button(self, name: str) -> Any:
        """The button of that name."""
        (found,) = [each for each in self.elements(ui.button) if each.text == name]
        return found

    def press(self, name: str) -> None:
        """Press a button as a browser would, whatever it looks like there."""
        self.emit(self.button(name), "click", {})

    def emit(self, element: Any, event: str, arguments: Any) -> None:
        """Have the browser say that something was done to an element."""
        for listener in list(element._event_listeners.values()):  # noqa: SLF001
            if listener.type == event:
                message = {
                    "id": element.id,
                    "listener_id": listener.id,
                    "args": arguments,
                }
                element._handle_event(message)  # noqa: SLF001 - as a message does

    def fill(self, label: str, value: Any) -> None:
        """Put a value into the field of that label."""
        fields = self.elements(ui.input), self.elements(ui.textarea)
        found = [e for each in fields for e in each if e.props.get("label") == label]
        found[0].set_value(value)


@asynccontextmanager
async def visiting(
    environment: Environment, *add_pages: Callable[[Console], None]
) -> AsyncIterator[Visit]:
    """A console with these pages, and somebody who may operate it."""
    settings, flows = Settings(environment), load_flows()
    context = Context.from_settings(settings, flows.handlers(settings), flows.commands)
    sessions = _Everybody(Client("operator", frozenset({"operate"})))
    modules = dict(sys.modules)  # it takes away those that have pages, and all above
    try:
        async with user_simulation() as user:
            console = Console(context, flows, sessions)
            for add_page in add_pages:
                add_page(console)
            yield Visit(user, sessions)
    finally:
        sys.modules.update(modules)
        context.store.close()


Steps = Callable[[Visit], Awaitable[None]]
Walk = Callable[[Steps], None]


async def _from_anywhere(_visit: Visit) -> None:
    pass


def walking(
    environment: Environment,
    *add_pages: Callable[[Console], None],
    begin: Steps = _from_anywhere,
) -> Walk:
    """Has somebody visit a console with these pages, for every test anew.

    Args:
        environment: of the mesh.
        add_pages: of the pages.
        begin: what every visit begins with.
    """

    def walk(steps: Steps) -> None:
        async def visit() -> None:
            async with visiting(environment, *add_pages) as visit:
                await begin(visit)
                await steps(visit)

        asyncio.run(visit())

    return walk


def without_broker(tmp_path: Path) -> Environment:
    """A mesh whose broker is away."""
    return directory_environment(
        tmp_path,
        broker_url=SecretStr("amqp://u:p@127.0.0.1:1/mesh"),
        api_tokens=SecretStr(TOKENS),
    )
