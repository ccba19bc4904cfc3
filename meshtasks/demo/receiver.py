"""Receives webhooks and notifications of the demo, and shows them on a page.

It stands in for two servers: for n8n it receives calls of ``/webhook/…``, for ntfy what
is published as JSON (https://docs.ntfy.sh/publish/#publish-as-json). It counts
everything, so that the reconciliation of the demo can use counts that do not come from
the mesh.
"""

from __future__ import annotations

import html
import json
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from typing_extensions import override

from meshtasks.demo import loopback

WEBHOOKS = "/webhook/"
#: Notifications and calls shown on the page.
_SHOWN = 50
#: Ids kept to detect repetitions.
_REMEMBERED = 100_000
_POLL_SECONDS = 0.1
_CLOCK = "%H:%M:%S"


#: Cells of a table row on the page.
_Cells = tuple[str, ...]


class Received(NamedTuple):
    """Counts since the start.

    Attributes:
        records: webhook → distinct records.
        repeated: records that were received again.
        notifications: notifications received.
    """

    records: Mapping[str, int]
    repeated: int
    notifications: int


class Receiver:
    """An HTTP server on loopback, in a thread of this process.

    Args:
        port: TCP port; by default a free one.

    Attributes:
        started_at: time of the start in epoch seconds.
    """

    def __init__(self, *, port: int | None = None) -> None:
        self.port = loopback.free_port() if port is None else port
        self.started_at = 0.0
        self._lock = threading.Lock()
        self._records: Counter[str] = Counter()
        #: (webhook, record id) in order of arrival.
        self._ids: dict[tuple[str, str], None] = {}
        self._repeated = 0
        self._calls: deque[_Cells] = deque(maxlen=_SHOWN)
        self._notifications = 0
        #: Notifications by ntfy's ``sequence_id``; a later one replaces an earlier one.
        self._phone: dict[str, _Cells] = {}
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Base URL, for ``MESH_N8N_URL``; also the URL of the page."""
        return f"http://{loopback.HOST}:{self.port}"

    @property
    def phone_url(self) -> str:
        """URL of the phone for Apprise, for ``MESH_RECEIVERS__…``."""
        return f"ntfy://{loopback.HOST}:{self.port}/phone"

    def start(self) -> None:
        """Start listening.

        Raises:
            OSError: the port is in use.
        """
        self.started_at = time.time()
        self._server = _Server((loopback.HOST, self.port), _Handler)
        self._server.receiver = self
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            args=(_POLL_SECONDS,),
            name="receiver",
            daemon=True,
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop listening."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = None

    def received(self) -> Received:
        """Return the counts so far."""
        with self._lock:
            return Received(dict(self._records), self._repeated, self._notifications)

    def take_call(self, name: str, ids: Iterable[str], body: str) -> None:
        """Count a call of a webhook.

        Args:
            name: of the webhook.
            ids: of the records in the call.
            body: of the call; its beginning is shown.
        """
        with self._lock:
            for each in ids:
                if (name, each) in self._ids:
                    self._repeated += 1
                    continue
                self._records[name] += 1
                self._ids[name, each] = None
                if len(self._ids) > _REMEMBERED:
                    del self._ids[next(iter(self._ids))]
            self._calls.append((time.strftime(_CLOCK), name, body[:300]))

    def take_notification(self, content: Mapping[str, Any]) -> None:
        """Count a notification; the keys are those of ntfy."""
        tag = str(content.get("sequence_id"))
        texts = (str(content.get(name, "")) for name in ("title", "message"))
        cells = (time.strftime(_CLOCK), str(int(content.get("priority", 3))), *texts)
        with self._lock:
            self._notifications += 1
            self._phone.pop(tag, None)
            self._phone[tag] = cells

    def page(self) -> str:
        """Return the page as HTML."""
        with self._lock:
            phone = list(self._phone.values())[-_SHOWN:]
            calls = list(self._calls)
            counts = dict(self._records)
        return _PAGE.format(
            notifications="".join(map(_row, reversed(phone))),
            counts=", ".join(
                f"{count:,} to {html.escape(name)}" for name, count in counts.items()
            ),
            calls="".join(map(_row, reversed(calls))),
        )


class _Server(ThreadingHTTPServer):
    receiver: Receiver

    @override
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that ended during a request; show other errors."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    #: Buffer the response, so that head and body are one packet. Else the body waits
    #: 40 ms for the client's acknowledgement of the head.
    wbufsize = -1
    server: _Server

    def do_GET(self) -> None:
        """Return the page."""
        if self.path == "/":
            page = self.server.receiver.page().encode()
            self._answer(HTTPStatus.OK, page, "text/html; charset=utf-8")
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"{}")

    def do_POST(self) -> None:
        """Receive the call of a webhook, or a notification."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            content = json.loads(body)
            if self.path.startswith(WEBHOOKS):
                name = self.path.removeprefix(WEBHOOKS)
                ids = _ids(content, self.headers.get("Idempotency-Key", ""))
                self.server.receiver.take_call(name, ids, body.decode())
            else:
                self.server.receiver.take_notification(content)
        except (ValueError, TypeError, KeyError, AttributeError):
            self._answer(HTTPStatus.BAD_REQUEST, b'{"error": "not understood"}')
        else:
            self._answer(HTTPStatus.OK, b"{}")

    def _answer(
        self, status: HTTPStatus, body: bytes, kind: str = "application/json"
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: the demo's output is about the mesh."""


def _ids(content: Any, idempotency_key: str) -> Sequence[str]:
    """Return the ids of the records in a call: of a batch, or of the request."""
    if isinstance(content, list):
        return [str(entry["id"]) for entry in content]
    return [idempotency_key]


def _row(cells: _Cells) -> str:
    return f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>\n"


_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="refresh" content="2">
<meta name="viewport" content="width=device-width">
<title>meshtasks demo: phone and n8n</title>
<style>
  body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem; max-width: 70rem;
         color-scheme: light dark }}
  td {{ padding: 0 1rem 0 0; vertical-align: top; white-space: pre-wrap;
       overflow-wrap: anywhere }}
  td:first-child {{ white-space: nowrap }}
</style>
<h1>meshtasks demo</h1>
<h2>The phone</h2>
<p>Stands in for ntfy: what the alert manager has sent, the latest first.</p>
<table>{notifications}</table>
<h2>n8n</h2>
<p>Stands in for n8n: what the webhooks were called with. Records: {counts}.</p>
<table>{calls}</table>
"""
