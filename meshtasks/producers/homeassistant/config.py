"""Home Assistant's address, its token, and config/producers/homeassistant.yaml."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit, urlunsplit

from pydantic import AfterValidator, Field

from meshtasks.config.loader import ConfigModel
from meshtasks.config.settings import ConfigFile, Settings
from meshtasks.errors import ConfigError
from meshtasks.producers.configuration import Selection, fits

#: Of the command, its file and its spool.
NAME = "homeassistant"

_PATTERN = re.compile(r"[a-z0-9_.*?\[\]!-]+")
_WEBSOCKET_SCHEMES = {"http": "ws", "https": "wss"}
#: https://developers.home-assistant.io/docs/api/websocket
_WEBSOCKET_PATH = "/api/websocket"


def _pattern(text: str) -> str:
    if not _PATTERN.fullmatch(text) or not set(text) & set(".*?["):
        message = (
            "expected a pattern of entity ids, such as light.kitchen, light.* or "
            "*_battery"
        )
        raise ValueError(message)
    return text


Pattern = Annotated[str, AfterValidator(_pattern)]


class Entities(Selection):
    """Some of the entities, by patterns of their ids."""

    include: tuple[Pattern, ...] = ("*",)
    exclude: tuple[Pattern, ...] = ()


class Readings(Entities):
    """Entities whose states are readings, too: none unless they are named."""

    include: tuple[Pattern, ...] = ()


class Loops(ConfigModel):
    """How to tell what the mesh itself has caused.

    Attributes:
        users: names or ids of Home Assistant's users that the mesh acts as.
        automations: patterns of the automations that it starts.
    """

    users: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    automations: tuple[Pattern, ...] = ()

    def starts(self, entity_id: str) -> bool:
        """Whether it is an automation that the mesh starts."""
        return fits(entity_id, self.automations)


class HomeAssistantConfig(ConfigModel):
    """The file.

    Attributes:
        entities: whose changes and triggers are published.
        readings: those that are published to ``sensors``, too.
    """

    entities: Entities = Entities()
    readings: Readings = Readings()
    loops: Loops = Loops()


CONFIG = ConfigFile(f"producers/{NAME}.yaml", HomeAssistantConfig)


def access_token(settings: Settings) -> str:
    """The token of ``MESH_HASS_TOKEN``.

    Raises:
        ConfigError: there is none.
    """
    token = settings.env.hass_token.get_secret_value().strip()
    if not token:
        expected = (
            "expected a long-lived access token of an administrator; make one in Home "
            "Assistant: your profile, Security, Long-lived access tokens"
        )
        raise ConfigError("environment", "MESH_HASS_TOKEN", expected)
    return token


def websocket_url(settings: Settings) -> str:
    """Address of Home Assistant's websocket: below the base URL of ``MESH_HASS_URL``,
    or that URL itself if it is one of a websocket.

    Raises:
        ConfigError: it is no URL.
    """
    text = settings.env.hass_url
    expected = f"expected a URL such as http://homeassistant.local:8123, got {text!r}"
    fault = ConfigError("environment", "MESH_HASS_URL", expected)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise fault from error
    schemes = {*_WEBSOCKET_SCHEMES, *_WEBSOCKET_SCHEMES.values()}
    if parts.scheme not in schemes or not parts.hostname or port == 0:
        raise fault
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise fault
    if parts.scheme in _WEBSOCKET_SCHEMES:
        path = parts.path.rstrip("/") + _WEBSOCKET_PATH
        parts = parts._replace(scheme=_WEBSOCKET_SCHEMES[parts.scheme], path=path)
    return urlunsplit(parts)
