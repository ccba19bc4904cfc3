"""A producer and a real broker, with the network between them at fault."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshtasks.amqp import publisher as publisher_module
from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.demo.rabbitmq import RabbitMQ
from meshtasks.errors import PublishUnconfirmed
from meshtasks.producers.base import MAX_BODY_BYTES, Producer
from meshtasks.producers.buffer import Batching, Buffer, Pending
from meshtasks.producers.spool import Spool, SpoolLimits
from meshtasks.timing import Backoff
from tests.support.amqp import Delivery, drain, open_channel, queue_depth, take
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until

EXCHANGE = "readings"
QUEUE = "all.readings"
KEY = "sensors.temperature.kitchen"
#: Tries again at once, so that no test waits for a delay.
IMPATIENT = Backoff(first_seconds=0.02, longest_seconds=0.1)


def declare(url: str) -> None:
    with open_channel(url) as channel:
        channel.exchange_declare(EXCHANGE, "topic", durable=True, auto_delete=False)
        channel.queue_declare(QUEUE, durable=True, auto_delete=False)
        channel.queue_bind(QUEUE, EXCHANGE, "sensors.#")


def declare_routable_at_once(url: str) -> None:
    """The exchange last, and nothing is bound to it: its alternate has the queue."""
    with open_channel(url) as channel:
        channel.queue_declare(QUEUE, durable=True, auto_delete=False)
        channel.exchange_declare("others", "fanout", durable=True, auto_delete=False)
        channel.queue_bind(QUEUE, "others")
        arguments = {"alternate-exchange": "others"}
        channel.exchange_declare(
            EXCHANGE, "topic", durable=True, auto_delete=False, arguments=arguments
        )


@pytest.fixture
def url(amqp_url: str) -> str:
    """A virtual host with an exchange and a queue for every reading."""
    declare(amqp_url)
    return amqp_url


@contextmanager
def running(
    url: str,
    *,
    buffer: Buffer | None = None,
    batching: Batching | None = None,
    on_confirmed: Callable[..., None] | None = None,
) -> Iterator[Producer]:
    """A started producer; it is abandoned at the end if it was not stopped."""
    producer = Producer(
        Publisher(url),
        buffer=buffer,
        batching=batching,
        backoff=IMPATIENT,
        on_confirmed=on_confirmed,
    )
    producer.start()
    try:
        yield producer
    finally:
        producer.stop(0.0)


def numbers(deliveries: list[Delivery]) -> list[int]:
    return [json.loads(each.body) for each in deliveries]


def test_the_queue_holds_exactly_what_was_confirmed(url: str) -> None:
    with running(url) as producer:
        for number in range(1_234):
            producer.submit(EXCHANGE, KEY, number)

        assert producer.stop(10.0) == ()

    counts = producer.counts()
    assert counts.accepted == counts.confirmed == counts.messages == 1_234
    assert numbers(drain(url, QUEUE)) == list(range(1_234))


def test_a_single_record_does_not_wait_for_others(url: str) -> None:
    with running(url) as producer:
        producer.submit(EXCHANGE, KEY, {"value": 21.5})

        wait_until(lambda: producer.counts().confirmed == 1, 10.0, "a confirm")
        assert queue_depth(url, QUEUE) == 1


def test_messages_are_persistent_json_with_an_id_and_a_timestamp(url: str) -> None:
    with running(url) as producer:
        producer.submit(EXCHANGE, KEY, {"unit": "°C"}, timestamp=1_795_439_462.9)
        before = int(time.time())
        producer.submit(EXCHANGE, KEY, 1)
        producer.stop(10.0)

    first, second = drain(url, QUEUE)
    assert first.body == '{"unit":"°C"}'.encode()
    assert first.properties["delivery_mode"] == 2
    assert first.properties["content_type"] == "application/json"
    assert first.properties["timestamp"] == 1_795_439_462
    assert before <= second.properties["timestamp"] <= time.time()
    assert first.properties["message_id"] != second.properties["message_id"]


def test_a_message_keeps_the_id_and_headers_that_it_came_with(url: str) -> None:
    message = Outgoing(
        EXCHANGE, KEY, b"raw \xff", message_id="mine", headers={"origin": "test"}
    )
    with running(url) as producer:
        producer.submit_message(message)
        producer.stop(10.0)

    (delivery,) = drain(url, QUEUE)
    assert delivery.body == b"raw \xff"
    assert delivery.properties["message_id"] == "mine"
    assert delivery.headers == {"origin": "test"}


def test_nothing_is_lost_when_the_connection_is_cut_again_and_again(
    url: str, proxy: Proxy
) -> None:
    with running(proxy.url(url), batching=Batching(count=50)) as producer:
        for start in range(0, 1_500, 150):
            for number in range(start, start + 150):
                producer.submit(EXCHANGE, KEY, number)
            wait_until(
                lambda some=start: producer.counts().confirmed > some,  # type: ignore[misc]
                10.0,
                "confirms after the cut",
            )
            proxy.cut()

        assert producer.stop(20.0) == ()

    assert proxy.cuts >= 5
    assert producer.counts().confirmed == 1_500
    deliveries = drain(url, QUEUE)
    ids = defaultdict(set)
    for delivery in deliveries:
        ids[delivery.body].add(delivery.properties["message_id"])
    assert {int(body) for body in ids} == set(range(1_500))
    assert all(len(same) == 1 for same in ids.values()), "a duplicate has another id"


def test_what_arrives_first_arrives_in_order_whatever_happens(
    url: str, proxy: Proxy
) -> None:
    with running(proxy.url(url), batching=Batching(count=50)) as producer:
        for number in range(1_000):
            producer.submit(EXCHANGE, KEY, number)
            if number % 200 == 100:
                proxy.cut()
        producer.stop(20.0)

    first_arrivals = list(dict.fromkeys(numbers(drain(url, QUEUE))))
    assert first_arrivals == list(range(1_000))


def test_a_broker_restart_loses_nothing(
    new_rabbitmq: Callable[..., RabbitMQ],
) -> None:
    node = new_rabbitmq()
    url = node.amqp_url()
    declare(url)
    with running(url) as producer:
        for number in range(1_000):
            producer.submit(EXCHANGE, KEY, number)
        node.restart()
        for number in range(1_000, 2_000):
            producer.submit(EXCHANGE, KEY, number)

        assert producer.stop(30.0) == ()

    assert set(numbers(take(url, QUEUE, 2_000))) == set(range(2_000))


def test_a_producer_starts_before_its_broker(url: str, proxy: Proxy) -> None:
    proxy.close_door()
    with running(proxy.url(url)) as producer:
        producer.submit(EXCHANGE, KEY, 1)
        assert not producer.wait_connected(0.0)

        proxy.open_door()

        assert producer.wait_connected(10.0)
        assert producer.stop(10.0) == ()
    assert numbers(drain(url, QUEUE)) == [1]


def test_a_full_buffer_drops_the_oldest_and_counts_them(url: str, proxy: Proxy) -> None:
    proxy.close_door()
    buffer = Buffer(max_messages=100)
    with running(proxy.url(url), buffer=buffer) as producer:
        for number in range(250):
            producer.submit(EXCHANGE, KEY, number)
        assert not producer.wait_for_room(size_bytes=3, within_seconds=0.0)

        proxy.open_door()

        assert producer.wait_for_room(size_bytes=3, within_seconds=10.0)
        assert producer.stop(10.0) == ()

    counts = producer.counts()
    assert (counts.accepted, counts.dropped, counts.confirmed) == (250, 150, 100)
    assert numbers(drain(url, QUEUE)) == list(range(150, 250))


def test_what_one_run_leaves_on_disk_the_next_publishes_first(
    url: str, proxy: Proxy, tmp_path: Path
) -> None:
    path, limits = tmp_path / "spool", SpoolLimits(1_000_000, 1_000_000_000)
    with running(proxy.url(url), buffer=Spool(path, limits)) as earlier:
        for number in range(200):
            earlier.submit(EXCHANGE, KEY, number)
        wait_until(lambda: earlier.counts().confirmed == 200, 30.0, "confirms")
        proxy.close_door()
        for number in range(200, 800):
            earlier.submit(EXCHANGE, KEY, number)

        assert earlier.stop(0.0) == ()
    assert earlier.counts().unresolved == 600

    with running(proxy.url(url), buffer=Spool(path, limits)) as later:
        for number in range(800, 1_200):
            later.submit(EXCHANGE, KEY, number)
        proxy.open_door()

        assert later.stop(30.0) == ()
    assert later.counts().restored == 600
    assert later.counts().unresolved == 0
    # The earlier one's last attempt may have come through.
    first_arrivals = list(dict.fromkeys(numbers(drain(url, QUEUE))))
    assert first_arrivals == list(range(1_200))


def test_an_array_that_is_not_full_is_safe_when_it_is_old_enough(
    url: str, proxy: Proxy, tmp_path: Path
) -> None:
    proxy.close_door()
    spool = Spool(tmp_path / "spool", SpoolLimits(100, 1_000_000))
    batching = Batching(array_size=100)
    with running(proxy.url(url), buffer=spool, batching=batching) as producer:
        producer.submit(EXCHANGE, KEY, 1)

        wait_until(lambda: spool.waiting == 1, 30.0, "the array")


def test_stopping_without_a_broker_ends_in_time_and_returns_what_was_not_sent(
    url: str, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.close_door()
    with running(proxy.url(url), batching=Batching(array_size=10)) as producer:
        for number in range(25):
            producer.submit(EXCHANGE, KEY, number)

        unsent = producer.stop(0.3)

    assert [json.loads(each.message.body) for each in unsent] == [
        list(range(10)),
        list(range(10, 20)),
        list(range(20, 25)),
    ]
    assert producer.counts().accepted == sum(each.records for each in unsent)
    assert f"3 to {EXCHANGE}:{KEY}" in caplog.text


def test_messages_without_a_queue_are_counted_and_their_neighbours_stored(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with running(url) as producer:
        for key in (KEY, "nowhere.at.all", KEY):
            producer.submit(EXCHANGE, key, 1)
        producer.stop(10.0)

    counts = producer.counts()
    assert (counts.confirmed, counts.unroutable) == (2, 1)
    assert queue_depth(url, QUEUE) == 2
    assert "'nowhere.at.all'" in caplog.text


def test_messages_wait_for_an_exchange_that_is_not_declared_yet(
    amqp_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with running(amqp_url) as producer:
        producer.submit(EXCHANGE, KEY, 1)
        wait_until(lambda: EXCHANGE in producer.last_error, 10.0, "a refusal")
        declare_routable_at_once(amqp_url)

        assert producer.stop(10.0) == ()
    assert numbers(drain(amqp_url, QUEUE)) == [1]
    assert "NOT_FOUND" in caplog.text


def test_records_are_packed_into_arrays(url: str) -> None:
    with running(url, batching=Batching(array_size=100)) as producer:
        for number in range(250):
            producer.submit(EXCHANGE, KEY, number)
        producer.stop(10.0)

    arrays = [json.loads(each.body) for each in drain(url, QUEUE)]
    assert [len(array) for array in arrays] == [100, 100, 50]
    assert [number for array in arrays for number in array] == list(range(250))
    counts = producer.counts()
    assert (counts.confirmed, counts.messages) == (250, 3)


def test_an_array_that_does_not_fill_up_is_sent_when_it_is_old_enough(url: str) -> None:
    with running(url, batching=Batching(array_size=100)) as producer:
        producer.submit(EXCHANGE, KEY, 1)

        wait_until(lambda: producer.counts().confirmed == 1, 10.0, "a confirm")
    assert drain(url, QUEUE)[0].body == b"[1]"


def test_a_whole_message_does_not_overtake_an_array_that_was_begun(url: str) -> None:
    with running(url, batching=Batching(array_size=100)) as producer:
        producer.submit(EXCHANGE, KEY, 1)
        producer.submit_message(Outgoing(EXCHANGE, KEY, b"2"))
        producer.stop(10.0)

    assert numbers(drain(url, QUEUE)) == [[1], 2]


def test_the_callback_gets_what_is_confirmed_and_nothing_else(url: str) -> None:
    confirmed: list[Pending] = []
    with running(url, on_confirmed=confirmed.extend) as producer:
        for key in (KEY, "nowhere.at.all", KEY):
            producer.submit(EXCHANGE, key, 1)
        producer.stop(10.0)

    assert [each.message.routing_key for each in confirmed] == [KEY, KEY]


def test_any_number_of_threads_may_submit(url: str) -> None:
    with running(url) as producer, ThreadPoolExecutor(8) as threads:
        list(
            threads.map(
                lambda number: producer.submit(EXCHANGE, KEY, number), range(800)
            )
        )
        assert producer.stop(10.0) == ()

    assert sorted(numbers(drain(url, QUEUE))) == list(range(800))


@pytest.mark.parametrize(
    "message",
    [
        Outgoing(EXCHANGE, "k" * 256, b"1"),
        Outgoing(EXCHANGE, KEY, b"x" * (MAX_BODY_BYTES + 1)),
    ],
    ids=["routing key too long", "body too large"],
)
def test_a_message_that_would_block_all_others_is_refused_at_once(
    url: str, message: Outgoing
) -> None:
    with (
        running(url) as producer,
        pytest.raises(ValueError, match=r"longer|larger"),
    ):
        producer.submit_message(message)

    assert producer.counts().accepted == 0


@pytest.mark.parametrize("cut_after_bytes", [20_000, 50_000, 100_000])
def test_a_publisher_cut_in_the_middle_of_a_batch_loses_nothing(
    url: str, rabbitmq: RabbitMQ, cut_after_bytes: int
) -> None:
    batch = [
        Outgoing(EXCHANGE, KEY, b"%d" % number, message_id=f"id-{number}")
        for number in range(1_000)
    ]
    with Proxy(rabbitmq.ports.amqp, cut_after_bytes) as proxy:
        publisher = Publisher(proxy.url(url))
        publisher.publish([])  # connects, so that the loss is of a used one

        publisher.publish(batch)
        publisher.close()

        assert proxy.cuts >= 1
    assert set(numbers(drain(url, QUEUE))) == set(range(1_000))


def test_a_broker_that_takes_nothing_any_more_is_given_up_in_time(
    url: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher_module, "CONNECT_TIMEOUT_SECONDS", 0.5)
    publisher = Publisher(proxy.url(url), confirm_timeout_seconds=0.5)
    publisher.publish([])
    proxy.freeze()

    # More than fits into the buffers of the sockets in between.
    large = Outgoing(EXCHANGE, KEY, b"x" * (8 * 1024 * 1024))
    with pytest.raises(PublishUnconfirmed):
        publisher.publish([large] * 4)
