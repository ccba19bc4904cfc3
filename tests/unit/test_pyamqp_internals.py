"""What is used of py-amqp and kombu beyond what they document: each is done here, so a
release that moves any of it fails here first."""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import Any

import amqp
import pytest
from amqp.method_framing import frame_handler
from amqp.spec import Basic
from amqp.transport import TCPTransport
from kombu import Connection as KombuConnection

from meshtasks.amqp.pyamqp_internals import (
    PROPERTY_TYPES,
    BaseConnection,
    callback_of,
    dumps,
    wait_for_full_peer,
    write_some,
)
from meshtasks.amqp.receiving import ReceivingConnection

CANCEL_OK = struct.pack(">HH", *Basic.CancelOk) + b"\x03tag"


class Peer:
    """A connection with one channel, and the other end of its socket."""

    def __init__(self, kind: type[BaseConnection]) -> None:
        server = socket.create_server(("127.0.0.1", 0))
        ours = socket.create_connection(server.getsockname())
        self.socket, _ = server.accept()
        server.close()
        self.connection: Any = kind()
        transport = self.connection.transport = TCPTransport("host")
        transport.sock = ours
        transport.connected = True
        self.connection.on_inbound_frame = frame_handler(
            self.connection, self.connection.on_inbound_method
        )
        self.connection.frame_writer = lambda *_: None
        self.channel: Any = self.connection.Channel(self.connection, 1)
        self.channel.is_open = True


@pytest.fixture
def peer(request: pytest.FixtureRequest) -> Iterator[Peer]:
    peer = Peer(getattr(request, "param", BaseConnection))
    yield peer
    peer.socket.close()
    peer.connection.collect()


def test_what_the_socket_has_is_received_within_a_time(peer: Peer) -> None:
    before = peer.connection.bytes_recv
    with pytest.raises(TimeoutError):
        peer.connection.receive(0)

    peer.socket.send(b"frames")

    assert peer.connection.receive(5.0) == b"frames"
    assert peer.connection.bytes_recv > before


def test_what_is_received_counts_as_a_sign_of_life(peer: Peer) -> None:
    connection = peer.connection
    connection.heartbeat = 10
    connection.heartbeat_tick()
    connection.last_heartbeat_received -= 100
    peer.socket.send(b"x")
    connection.receive(5.0)

    connection.heartbeat_tick()  # else too many heartbeats would be missed


def test_a_closed_socket_ends_the_connection(peer: Peer) -> None:
    peer.socket.close()

    with pytest.raises(ConnectionResetError, match="closed the connection"):
        peer.connection.receive(5.0)

    assert not peer.connection.connected
    with pytest.raises(ConnectionResetError, match="is closed"):
        peer.connection.receive(5.0)


def test_a_connection_that_is_collected_closes_its_socket(peer: Peer) -> None:
    peer.connection.collect()

    assert peer.socket.recv(1) == b""


def test_a_full_socket_takes_what_it_can(peer: Peer) -> None:
    wait_for_full_peer(peer.channel)
    frames = bytearray(1 << 24)

    assert 0 < write_some(peer.channel, frames, 5.0) < len(frames)
    fill = iter(partial(write_some, peer.channel, frames, 0.05), 0)
    with pytest.raises(TimeoutError):
        deque(fill)


def test_channels_and_consumers_are_found(peer: Peer) -> None:
    def took(_message: object) -> None:
        """What a consumer calls."""

    peer.channel.basic_consume("q", consumer_tag="tag", callback=took, nowait=True)

    assert peer.connection.open_channel(1) is peer.channel
    assert peer.connection.open_channel(2) is None
    assert callback_of(peer.channel, "tag") is took
    assert peer.connection.dispatch_frame(1, 1, CANCEL_OK)
    assert callback_of(peer.channel, "tag") is None


def test_a_channel_that_is_being_closed_takes_nothing(peer: Peer) -> None:
    found: list[object] = []
    # it waits for the broker's answer
    peer.channel.wait = lambda *_, **__: found.append(peer.connection.open_channel(1))

    peer.channel.close()

    assert found == [None]


def test_methods_that_can_be_read_are_told_from_others(peer: Peer) -> None:
    assert peer.connection.is_readable(1, CANCEL_OK)
    assert not peer.connection.is_readable(1, struct.pack(">HH", *Basic.Ack))
    assert not peer.connection.is_readable(1, b"\0\1\0\1")
    assert not peer.connection.is_readable(9, CANCEL_OK)


@pytest.mark.parametrize("peer", [ReceivingConnection], indirect=True)
def test_waiting_for_an_answer_comes_by_our_reader(peer: Peer) -> None:
    frame = struct.pack(">BHI", 1, 1, len(CANCEL_OK)) + CANCEL_OK + b"\xce"
    peer.socket.send(frame)

    assert peer.channel.basic_cancel("tag") == "tag"


def test_events_of_publishing_are_sets_of_callbacks(peer: Peer) -> None:
    heard: list[tuple[str, int, bool]] = []
    for name, method in (("basic_ack", Basic.Ack), ("basic_nack", Basic.Nack)):
        peer.channel.events[name].add(partial(lambda *said: heard.append(said), name))
        peer.connection.dispatch_frame(1, 1, struct.pack(">HHQB", *method, 7, 1))

    assert heard == [("basic_ack", 7, True), ("basic_nack", 7, True)]
    assert peer.connection.on_blocked is peer.connection.on_unblocked is None


def test_a_method_that_a_message_follows_has_the_arguments_that_we_read() -> None:
    arguments = {
        signature: known.args
        for signature, known in amqp.Channel._METHODS.items()  # noqa: SLF001
        if known.content
    }
    assert arguments == {
        Basic.Deliver: "sLbss",
        Basic.GetOk: "Lbssl",
        Basic.Return: "Bsss",
    }


def test_arguments_and_properties_are_written_by_their_letters() -> None:
    assert dumps("sLbso", ("a", 1, True, "", 2)) == b"\1a" + bytes(7) + b"\1\1\0\2"
    assert dumps("A", [[None]]) == b"\0\0\0\1V"
    assert PROPERTY_TYPES[0] == ("content_type", "s")
    assert PROPERTY_TYPES[2] == ("application_headers", "F")
    assert [kind for _, kind in PROPERTY_TYPES] == [*"ssFoosssss"[:9], *"Lssss"]


@pytest.mark.parametrize("scheme", ["amqp", "amqps"])
def test_kombu_opens_connections_with_our_reader(scheme: str) -> None:
    connection = KombuConnection(f"{scheme}://host")

    assert connection.transport.Connection is ReceivingConnection
    assert connection.as_uri().startswith(f"{scheme}://")
