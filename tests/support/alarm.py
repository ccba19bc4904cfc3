"""The broker's memory alarm, set and cleared as operators meet it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from meshtasks.demo.rabbitmq import SERVER, RabbitMQ

_ALARM = "{resource_limit, memory, node()}"


@contextmanager
def memory_alarm(node: RabbitMQ) -> Iterator[None]:
    """The node is short of memory meanwhile: it takes nothing from publishers."""
    _evaluate(node, f"rabbit_alarm:set_alarm({{{_ALARM}, []}}).")
    try:
        yield
    finally:
        _evaluate(node, f"rabbit_alarm:clear_alarm({_ALARM}).")


def _evaluate(node: RabbitMQ, expression: str) -> None:
    subprocess.run(
        [SERVER.with_name("rabbitmqctl"), "eval", expression],
        env=node.environment,
        check=True,
        capture_output=True,
        timeout=300,
    )
