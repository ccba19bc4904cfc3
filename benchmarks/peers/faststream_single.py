"""FastStream: one call per message, many at a time on one event loop.

Its RabbitMQ broker has no batches; concurrency up to the prefetch count is its
way to throughput. ``faststream run benchmarks.peers.faststream_single:app``
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from faststream import (  # type: ignore[import-not-found]  # its own venv
    AckPolicy,
    Context,
    ContextRepo,
    FastStream,
)
from faststream.rabbit import (  # type: ignore[import-not-found]  # its own venv
    Channel,
    RabbitBroker,
    RabbitQueue,
)

from benchmarks.peers.reading import WRITE_PATH, Reading, to_line

PREFETCH = 100

broker = RabbitBroker(
    os.environ["BENCH_BROKER_URL"],
    default_channel=Channel(prefetch_count=PREFETCH),
    # Its two lines per message would go out at INFO; the others write none.
    log_level=logging.DEBUG,
)


@asynccontextmanager
async def lifespan(context: ContextRepo) -> AsyncIterator[None]:
    """One HTTP session for all calls."""
    store_url = os.environ["BENCH_STORE_URL"]
    async with aiohttp.ClientSession(store_url, raise_for_status=True) as session:
        context.set_global("session", session)
        yield


app = FastStream(broker, lifespan=lifespan)


@broker.subscriber(  # type: ignore[untyped-decorator]  # its own venv
    RabbitQueue("sensors.temperature", declare=False),
    ack_policy=AckPolicy.NACK_ON_ERROR,
)
async def store_reading(
    reading: Reading,
    session: aiohttp.ClientSession = Context(),  # noqa: B008 - FastStream's injection
) -> None:
    """Store one reading."""
    async with session.post(WRITE_PATH, data=to_line(reading)):
        pass
