"""Sends notifications to the services that Apprise URLs name.

Apprise supports a hundred services, but only title and text of a notification. ntfy and
Home Assistant's app support more (priorities, replacing an earlier notification), so
they are called directly; their URLs have Apprise's format nevertheless.

The URLs are secrets. Errors name the receiver, never its URL, and the loggers of
Apprise and its HTTP libraries are set so that they write no URLs.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from http import HTTPStatus
from http.client import responses
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import apprise
from apprise.plugins.home_assistant import NotifyHomeAssistant
from apprise.plugins.ntfy import NotifyNtfy
from pydantic import SecretStr
from urllib3 import make_headers
from urllib3.exceptions import HTTPError

from meshtasks.errors import ConfigError, SinkRejected, SinkUnavailable
from meshtasks.flows.alerts.rendering import Notification
from meshtasks.http import Answer, mend_urllib3, pool_manager, request
from meshtasks.records.alert import Severity
from meshtasks.text import clip, json_in
from meshtasks.timing import timing

#: The sink's name in errors.
SINK = "notifier"

_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")

_READ_TIMEOUT_SECONDS = 10.0
#: Longest time for a notification by Apprise, which may make several requests.
_LONGEST_SECONDS = 30.0

#: Plugins of the services that are called directly, by scheme. Apprise finds a plugin
#: by loading all of them, which takes 10 MB and half a second.
_DIRECT: dict[str, type[apprise.NotifyBase]] = {
    scheme: plugin
    for plugin in (NotifyNtfy, NotifyHomeAssistant)
    for scheme in (plugin.protocol, plugin.secure_protocol)
}

#: Status codes that are about the notification; all others mean that the service is
#: unavailable.
_OF_THE_NOTIFICATION = frozenset({400, 413, 422})

_TYPES: dict[Severity, apprise.NotifyType] = {
    "info": apprise.NotifyType.INFO,
    "warning": apprise.NotifyType.WARNING,
    "critical": apprise.NotifyType.FAILURE,
}

#: Data for Home Assistant's app by priority (see "Critical notifications" in its
#: documentation): channel and time to live for Android, interruption level for Apple.
_PUSH: dict[int, dict[str, Any]] = {
    1: {"push": {"interruption-level": "passive"}},
    2: {"push": {"interruption-level": "passive"}},
    3: {},
    4: {"ttl": 0, "priority": "high", "push": {"interruption-level": "time-sensitive"}},
    5: {
        "ttl": 0,
        "priority": "high",
        "channel": "alarm_stream",
        "push": {
            "interruption-level": "critical",
            "sound": {"name": "default", "critical": 1, "volume": 1.0},
        },
    },
}


class Notifier:
    """Sends notifications to receivers.

    Args:
        urls: Apprise URLs by name of the receiver.

    Raises:
        ConfigError: Apprise does not support a URL.
    """

    def __init__(self, urls: Mapping[str, SecretStr]) -> None:
        logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
        # At level DEBUG it logs the path of every request, tokens included.
        logging.getLogger("urllib3.connectionpool").setLevel(logging.INFO)
        _know_the_way_to_this_machine()
        mend_urllib3()  # Apprise takes the status of a response that breaks off
        self._receivers = {name: _receiver(name, url) for name, url in urls.items()}

    @timing(SINK)
    def send(self, name: str, notification: Notification) -> None:
        """Send a notification; return when the receiver's service has accepted it.

        Args:
            name: name of a receiver that has a URL.
            notification: the notification.

        Raises:
            SinkUnavailable: the service is unreachable, or fails.
            SinkRejected: the service rejects this notification.
        """
        self._receivers[name].send(notification)

    def base_urls(self) -> dict[str, str]:
        """The URL of each receiver's service, by name of the receiver; only of ntfy and
        Home Assistant, because others are known only to Apprise."""
        return {
            name: receiver.base_url
            for name, receiver in self._receivers.items()
            if isinstance(receiver, _JsonService)
        }

    def close(self) -> None:
        """Do nothing: no connection is kept open."""


#: Gives path and JSON body of each request for a notification.
_Calls = Callable[[Notification], Iterator[tuple[str, Any]]]


class _JsonService:
    """A receiver that is called directly, with JSON.

    Args:
        name: name of the receiver.
        base_url: URL of its service.
        plugin: Apprise's plugin, which has parsed the URL.
        token: bearer token; None if there is none.
        calls: gives the requests for a notification.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        plugin: apprise.NotifyBase,
        token: str | None,
        calls: _Calls,
    ) -> None:
        self._calls = calls
        self._name = name
        self.base_url = base_url
        self._verify: bool = plugin.verify_certificate
        self._headers = {"Content-Type": "application/json", "User-Agent": "meshtasks"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        elif plugin.user:
            basic = f"{plugin.user}:{plugin.password or ''}"
            self._headers |= make_headers(basic_auth=basic)

    def send(self, notification: Notification) -> None:
        for path, content in self._calls(notification):
            self._post(path, content)

    def _post(self, path: str, content: Any) -> None:
        url = self.base_url + path
        unverified = {} if self._verify else {"cert_reqs": "CERT_NONE"}
        try:
            with pool_manager(_proxy_for(url), maxsize=1, **unverified) as http:
                answer = request(
                    http,
                    "POST",
                    url,
                    timeout_seconds=_READ_TIMEOUT_SECONDS,
                    body=json.dumps(content).encode(),
                    headers=self._headers,
                )
        except HTTPError as error:
            # The text of the error has the URL.
            message = f"receiver {self._name}: {type(error).__name__}"
            raise SinkUnavailable(SINK, message) from None
        # ntfy and Home Assistant respond with JSON, a login page does not.
        is_json = not answer.body or json_in(answer.body) is not None
        if not (answer.status == HTTPStatus.OK and answer.whole and is_json):
            raise self._refusal(answer)

    def _refusal(self, answer: Answer) -> SinkUnavailable | SinkRejected:
        status = answer.status
        message = f"receiver {self._name}: HTTP {status} {_explained(answer)}".rstrip()
        if status in _OF_THE_NOTIFICATION and isinstance(json_in(answer.body), dict):
            return SinkRejected(message)
        if status < HTTPStatus.BAD_REQUEST:
            message = f"{message}, and not as the service answers (is the URL right?)"
        return SinkUnavailable(SINK, message, answer.retry_after_seconds)


def _ntfy(name: str, plugin: NotifyNtfy) -> _JsonService:
    """Topics of an ntfy server (docs.ntfy.sh/publish, "Publish as JSON").

    Since ntfy 2.16 a message replaces an earlier one with the same ``sequence_id``;
    older servers ignore it and show both.
    """
    topics: list[str] = plugin.topics
    base = plugin.cloud_notify_url if plugin.mode == "cloud" else _base_url(plugin)
    token = plugin.token if plugin.auth == "token" else None

    def calls(notification: Notification) -> Iterator[tuple[str, Any]]:
        for topic in topics:
            yield (
                "/",
                {
                    "topic": topic,
                    "title": notification.title,
                    "message": notification.body,
                    "priority": notification.priority,
                    "tags": notification.tags,
                    "sequence_id": notification.tag,
                },
            )

    return _JsonService(name, base, plugin, token, calls)


def _home_assistant(name: str, plugin: NotifyHomeAssistant) -> _JsonService:
    """Notify services of Home Assistant, such as its app.

    A notification replaces an earlier one: on the phone one with the same ``tag``, in
    Home Assistant itself one with the same ``notification_id``.
    """
    targets: list[tuple[str | None, str | None, list[str]]] = plugin.targets
    base = _base_url(plugin) + plugin.prefix.rstrip("/")

    def calls(notification: Notification) -> Iterator[tuple[str, Any]]:
        text = {"title": notification.title, "message": notification.body}
        for domain, service, people in targets:
            if domain is None:
                path = "/api/services/persistent_notification/create"
                yield path, {**text, "notification_id": notification.tag}
                continue
            data = {"tag": notification.tag, **_PUSH[notification.priority]}
            to = {"target": people} if people else {}
            yield f"/api/services/{domain}/{service}", {**text, "data": data, **to}

    return _JsonService(name, base, plugin, plugin.accesstoken, calls)


class _Other:
    """Any other service that Apprise supports."""

    def __init__(self, name: str, plugin: apprise.NotifyBase) -> None:
        self._name = name
        # Without this, Apprise would add images from the web.
        asset = apprise.AppriseAsset(
            app_id="meshtasks", image_url_mask=None, image_url_logo=None
        )
        self._apprise = apprise.Apprise(asset=asset)
        self._apprise.add(plugin)

    def send(self, notification: Notification) -> None:
        taken = threading.Event()

        def notify() -> None:
            # Any error of a plugin means that the service did not accept it. The text
            # of the error may have the URL.
            with suppress(Exception):
                if self._notify(notification):
                    taken.set()

        # Apprise limits only the time of each read; a server may send byte by byte.
        thread = threading.Thread(target=notify, name="mesh-apprise", daemon=True)
        thread.start()
        thread.join(_LONGEST_SECONDS)
        if not taken.is_set():  # the reason is only in Apprise's log, with URLs
            message = f"receiver {self._name}: the service did not take it"
            raise SinkUnavailable(SINK, message)

    def _notify(self, notification: Notification) -> bool:
        kind = _TYPES[notification.severity]
        return bool(
            self._apprise.notify(
                title=notification.title,
                body=notification.body,
                # plain text: Apprise escapes it for services that show HTML
                body_format=apprise.NotifyFormat.TEXT,
                notify_type=(
                    apprise.NotifyType.SUCCESS if notification.resolved else kind
                ),
            )
        )


def _receiver(name: str, url: SecretStr) -> _JsonService | _Other:
    match _plugin(url.get_secret_value()):
        case None:
            variable = f"MESH_RECEIVERS__{name.upper()}"
            expected = "expected an Apprise URL such as ntfys://ntfy.example.org/topic"
            raise ConfigError("environment", variable, expected)
        case NotifyNtfy() as plugin:
            return _ntfy(name, plugin)
        case NotifyHomeAssistant() as plugin:
            return _home_assistant(name, plugin)
        case plugin:
            return _Other(name, plugin)


def _plugin(url: str) -> apprise.NotifyBase | None:
    """Return Apprise's plugin for a URL; None if it is invalid."""
    scheme, separator, _ = url.partition("://")  # what Apprise takes for a URL
    if separator and (direct := _DIRECT.get(scheme.strip().lower())):
        with suppress(TypeError):
            if parts := direct.parse_url(url):
                return direct(**parts)
        return None
    with warnings.catch_warnings():
        # Some plugins import modules that Python 3.13 no longer has.
        warnings.simplefilter("ignore", DeprecationWarning)
        return apprise.Apprise.instantiate(url)


def _base_url(plugin: apprise.NotifyBase) -> str:
    scheme = "https" if plugin.secure else "http"
    port = f":{plugin.port}" if plugin.port else ""
    return f"{scheme}://{plugin.host}{port}"


def _proxy_for(url: str) -> str | None:
    """The proxy of the environment for a URL; receivers may be on the internet."""
    parts = urlsplit(url)
    if proxy_bypass(parts.hostname or ""):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")


def _explained(answer: Answer) -> str:
    """The reason in a response: the text in its JSON, else that of the status."""
    content = json_in(answer.body)
    if isinstance(content, dict):
        for name in ("error", "message"):
            if isinstance(reason := content.get(name), str):
                return clip(reason, 200)
    return responses.get(answer.status, "")


def _know_the_way_to_this_machine() -> None:
    """Make sure that neither we nor Apprise use a proxy for this host."""
    hosts = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if hosts.strip() != "*":
        known = [host for each in hosts.split(",") if (host := each.strip())]
        missing = [host for host in _THIS_MACHINE if host not in known]
        os.environ["no_proxy"] = ",".join([*known, *missing])
