"""Notifications to phones and elsewhere, by Apprise URLs.

Apprise knows a hundred services, but of a notification only title and text. ntfy and
Home Assistant's app can do more (priority, replacing an earlier notification), so
they are spoken to directly; their URLs are Apprise's all the same.

The URLs are secrets. Errors name the receiver, never its URL, and the loggers of
Apprise and of the HTTP libraries below it are kept from writing URLs down.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Protocol

import apprise
import requests
from apprise.plugins.home_assistant import NotifyHomeAssistant
from apprise.plugins.ntfy import NotifyNtfy
from pydantic import SecretStr
from typing_extensions import override

from meshtasks.errors import ConfigError, SinkRejected, SinkUnavailable
from meshtasks.flows.alerts.rendering import Notification
from meshtasks.flows.http import bound_in_time, retry_after_seconds
from meshtasks.records.alert import Severity
from meshtasks.text import clip
from meshtasks.timing import timed

#: The sink's name in errors.
SINK = "notifier"

_CONNECT_TIMEOUT_SECONDS = 4.0
_READ_TIMEOUT_SECONDS = 10.0
#: Apprise may make several requests for one notification.
_LONGEST_SECONDS = 30.0

#: What is wrong with nothing but the notification; all else is the service's trouble,
#: or of the way to it.
_OF_THE_NOTIFICATION = frozenset({400, 413, 422})

_TYPES: dict[Severity, apprise.NotifyType] = {
    "info": apprise.NotifyType.INFO,
    "warning": apprise.NotifyType.WARNING,
    "critical": apprise.NotifyType.FAILURE,
}

#: What Home Assistant's app makes of priorities (its documentation, "Critical
#: notifications"): Android by channel and time to live, Apple by the level.
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
    """Sends notifications to named receivers.

    Args:
        urls: their Apprise URLs.

    Raises:
        ConfigError: a URL is none that Apprise knows.
    """

    def __init__(self, urls: Mapping[str, SecretStr]) -> None:
        _keep_urls_out_of_logs()
        self._receivers = {name: _receiver(name, url) for name, url in urls.items()}

    @timed(SINK)
    def send(self, name: str, notification: Notification) -> None:
        """Send a notification; returns once the service has taken it.

        What the service does with it afterwards nobody can tell.

        Args:
            name: of a receiver that has a URL.
            notification: what to send.

        Raises:
            SinkUnavailable: the service cannot be reached, or is not well.
            SinkRejected: it refuses this notification, or us.
        """
        self._receivers[name].send(notification)

    def base_urls(self) -> dict[str, str]:
        """By receiver, where its service is; of ntfy and Home Assistant only, since
        nobody knows what else Apprise would connect to."""
        return {
            name: receiver.base_url
            for name, receiver in self._receivers.items()
            if isinstance(receiver, _Ntfy | _HomeAssistant)
        }

    def close(self) -> None:
        """Nothing: no connection is kept."""


class Receiver(Protocol):
    """Somewhere a notification can be sent."""

    def send(self, notification: Notification) -> None:
        """See :meth:`Notifier.send`."""


class _Ntfy:
    """A topic of an ntfy server (docs.ntfy.sh/publish, "Publish as JSON").

    A later message with the same ``sequence_id`` replaces the earlier one since
    ntfy 2.16; older servers do not mind it and show both.
    """

    def __init__(self, name: str, plugin: NotifyNtfy) -> None:
        self._topics: list[str] = plugin.topics
        base = plugin.cloud_notify_url if plugin.mode == "cloud" else _base_url(plugin)
        token = plugin.token if plugin.auth == "token" else None
        self.base_url: str = base
        self._service = _Service(name, base, plugin, token)

    def send(self, notification: Notification) -> None:
        for topic in self._topics:
            self._service.post(
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


class _HomeAssistant:
    """Notify services of Home Assistant, its phone app above all.

    A later notification with the same ``tag`` replaces the earlier one on the phone,
    one with the same ``notification_id`` in Home Assistant itself.
    """

    def __init__(self, name: str, plugin: NotifyHomeAssistant) -> None:
        base = _base_url(plugin) + plugin.prefix.rstrip("/")
        self.base_url = base
        self._service = _Service(name, base, plugin, plugin.accesstoken)
        self._targets: list[tuple[str | None, str | None, list[str]]] = plugin.targets

    def send(self, notification: Notification) -> None:
        text = {"title": notification.title, "message": notification.body}
        for domain, service, people in self._targets:
            if domain is None:
                path = "/api/services/persistent_notification/create"
                extra: dict[str, Any] = {"notification_id": notification.tag}
            else:
                path = f"/api/services/{domain}/{service}"
                data = {"tag": notification.tag, **_PUSH[notification.priority]}
                extra = {"data": data, **({"target": people} if people else {})}
            self._service.post(path, {**text, **extra})


class _Other:
    """Any other service that Apprise knows."""

    def __init__(self, name: str, plugin: apprise.NotifyBase) -> None:
        self._name = name
        # No pictures from the web, which Apprise would add.
        asset = apprise.AppriseAsset(
            app_id="meshtasks", image_url_mask=None, image_url_logo=None
        )
        self._apprise = apprise.Apprise(asset=asset)
        self._apprise.add(plugin)

    def send(self, notification: Notification) -> None:
        taken = threading.Event()

        def notify() -> None:
            # Whatever a plugin raises means that the service did not take it, and
            # its text may hold the URL.
            with suppress(Exception):
                if self._notify(notification):
                    taken.set()

        # Apprise bounds each read, so a server that drips would hold us for ever.
        thread = threading.Thread(target=notify, name="mesh-apprise", daemon=True)
        thread.start()
        thread.join(_LONGEST_SECONDS)
        if not taken.is_set():  # Apprise says why in its log only, URLs included
            message = f"receiver {self._name}: the service did not take it"
            raise SinkUnavailable(SINK, message)

    def _notify(self, notification: Notification) -> bool:
        kind = _TYPES[notification.severity]
        return bool(
            self._apprise.notify(
                title=notification.title,
                body=notification.body,
                # its text is no markup: a service that shows HTML is given it escaped
                body_format=apprise.NotifyFormat.TEXT,
                notify_type=(
                    apprise.NotifyType.SUCCESS if notification.resolved else kind
                ),
            )
        )


class _Service:
    """An HTTP service that takes JSON.

    Args:
        name: of the receiver.
        base_url: where it is.
        plugin: Apprise's reading of the URL.
        token: of the URL.
    """

    def __init__(
        self, name: str, base_url: str, plugin: apprise.NotifyBase, token: str | None
    ) -> None:
        self._name = name
        self._base_url = base_url
        self._verify: bool = plugin.verify_certificate
        self._auth = _Authorisation(plugin.user, plugin.password, token)

    def post(self, path: str, content: dict[str, Any]) -> None:
        try:
            with requests.Session() as session:
                session.mount("http://", _InTime())
                session.mount("https://", _InTime())
                answer = session.post(
                    self._base_url + path,
                    json=content,
                    auth=self._auth,
                    timeout=(_CONNECT_TIMEOUT_SECONDS, _READ_TIMEOUT_SECONDS),
                    verify=self._verify,
                    allow_redirects=False,
                )
        except requests.RequestException as error:
            # Its text holds the URL.
            message = f"receiver {self._name}: {type(error).__name__}"
            raise SinkUnavailable(SINK, message) from None
        if not (answer.status_code == HTTPStatus.OK and _is_of_a_service(answer)):
            raise self._refusal(answer)

    def _refusal(self, answer: requests.Response) -> SinkUnavailable | SinkRejected:
        status = answer.status_code
        message = f"receiver {self._name}: HTTP {status} {_explained(answer)}".rstrip()
        if status in _OF_THE_NOTIFICATION and isinstance(_json(answer), dict):
            return SinkRejected(message)
        if answer.ok:
            message = f"{message}, and not as the service answers (is the URL right?)"
        wait = retry_after_seconds(answer.headers.get("Retry-After"))
        return SinkUnavailable(SINK, message, wait)


class _InTime(requests.adapters.HTTPAdapter):
    """Answers bounded in time as a whole."""

    @override
    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        bound_in_time(self.poolmanager)


class _Authorisation(requests.auth.AuthBase):
    """Credentials of a URL. Without this, requests looks for some in ``~/.netrc``."""

    def __init__(
        self, user: str | None, password: str | None, token: str | None
    ) -> None:
        self._token = token
        self._basic = (
            requests.auth.HTTPBasicAuth(user, password or "") if user else None
        )

    @override
    def __call__(self, r: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            r.headers["Authorization"] = f"Bearer {self._token}"
        elif self._basic:
            return self._basic(r)
        return r


def _receiver(name: str, url: SecretStr) -> Receiver:
    with warnings.catch_warnings():
        # Some plugins import what Python 3.13 no longer has.
        warnings.simplefilter("ignore", DeprecationWarning)
        plugin = apprise.Apprise.instantiate(url.get_secret_value())
    match plugin:
        case None:
            variable = f"MESH_RECEIVERS__{name.upper()}"
            expected = "expected an Apprise URL such as ntfys://ntfy.example.org/topic"
            raise ConfigError("environment", variable, expected)
        case NotifyNtfy():
            return _Ntfy(name, plugin)
        case NotifyHomeAssistant():
            return _HomeAssistant(name, plugin)
        case _:
            return _Other(name, plugin)


def _base_url(plugin: apprise.NotifyBase) -> str:
    scheme = "https" if plugin.secure else "http"
    port = f":{plugin.port}" if plugin.port else ""
    return f"{scheme}://{plugin.host}{port}"


def _explained(answer: requests.Response) -> str:
    """The reason that a service gives in JSON, as both of ours do."""
    content = _json(answer)
    if isinstance(content, dict):
        for name in ("error", "message"):
            if isinstance(reason := content.get(name), str):
                return clip(reason, 200)
    return answer.reason or ""


def _json(answer: requests.Response) -> Any:
    """What it says in JSON; None if it does not."""
    try:
        return answer.json()
    except (requests.JSONDecodeError, RecursionError):
        return None


def _is_of_a_service(answer: requests.Response) -> bool:
    """Whether a 200 is a service's own: ntfy and Home Assistant answer in JSON. A login
    page that stands in their place is none."""
    return not answer.content or _json(answer) is not None


def _keep_urls_out_of_logs() -> None:
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
    # At DEBUG it writes the path of every request down, tokens included.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.INFO)
