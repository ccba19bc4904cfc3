"""Home Assistant's address and token, and config/producers/homeassistant.yaml."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit, urlunsplit

from pydantic import AfterValidator, Field

from meshtasks.config.loader import ConfigModel
from meshtasks.config.settings import ConfigFile, Settings
from meshtasks.errors import ConfigError
from meshtasks.producers.configuration import Selection, fits

#: Name of the command, of its file and of its spool.
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
    """Selects entities by patterns of their ids."""

    include: tuple[Pattern, ...] = ("*",)
    exclude: tuple[Pattern, ...] = ()


class Readings(Entities):
    """Selects entities whose states are also published as readings; by default none."""

    include: tuple[Pattern, ...] = ()


class Loops(ConfigModel):
    """How to recognise what the mesh itself causes in Home Assistant.

    Attributes:
        users: names or ids of the users of Home Assistant that the mesh acts as.
        automations: patterns of automations that the mesh starts.
    """

    users: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    automations: tuple[Pattern, ...] = ()

    def starts(self, entity_id: str) -> bool:
        """Return whether this is an automation that the mesh starts."""
        return fits(entity_id, self.automations)


class HomeAssistantConfig(ConfigModel):
    """Content of the configuration file.

    Attributes:
        entities: entities whose changes and triggers are published.
        readings: entities whose states are also published to ``sensors``.
        loops: how to recognise what the mesh itself causes.
    """

    entities: Entities = Entities()
    readings: Readings = Readings()
    loops: Loops = Loops()


CONFIG = ConfigFile(f"producers/{NAME}.yaml", HomeAssistantConfig)


def access_token(settings: Settings) -> str:
    """Return the token in ``MESH_HASS_TOKEN``.

    Raises:
        ConfigError: it is not set.
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
    """Return the URL of Home Assistant's websocket.

    It is below the base URL in ``MESH_HASS_URL``, or is that URL if it is one of a
    websocket.

    Raises:
        ConfigError: ``MESH_HASS_URL`` is not a valid URL, or contains credentials, a
            query or a fragment.
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
