"""Workers are told and asked, as scripts do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery


@contextmanager
def asking(env: dict[str, str]) -> Iterator[Celery]:
    """An application that asks the workers, as scripts do."""
    app = Celery("asking", broker=env["MESH_BROKER_URL"], set_as_current=False)
    yield app
    app.close()


def answer(app: Celery, command: str, **arguments: Any) -> Any:
    """What the one worker says."""
    with app.connection_for_write() as connection:
        replies = app.control.broadcast(
            command,
            arguments=arguments,
            reply=True,
            timeout=300,
            limit=1,
            connection=connection,
        )
    ((said,),) = [reply.values() for reply in replies]
    return said
