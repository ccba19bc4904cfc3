"""The queues that Celery is given, and what Celery makes of them."""

from __future__ import annotations

import pytest
from celery import Celery

from meshtasks.amqp.declare import task_queues
from tests.support.topologies import shipped_topology


@pytest.fixture
def app() -> Celery:
    """An application with the shipped queues; it connects to nothing."""
    app = Celery("test", set_as_current=False)
    app.conf.task_queues = task_queues(shipped_topology())
    app.conf.task_create_missing_queues = False
    return app


def test_celery_knows_the_domain_queues_and_the_commands_queue(app: Celery) -> None:
    topology = shipped_topology()

    assert set(app.amqp.queues) == {*topology.domain_queues, "commands"}


def test_celery_declares_no_domain_queue(app: Celery) -> None:
    topology = shipped_topology()

    assert all(app.amqp.queues[name].no_declare for name in topology.domain_queues)


def test_celery_sends_to_a_domain_queue_directly(app: Celery) -> None:
    """Through ``alerts`` the other queue of the fanout would get it too."""
    queue = app.amqp.queues["alerts.critical"]

    assert queue.exchange.type == "direct"  # for such Celery uses the default exchange
    assert queue.routing_key == "alerts.critical"


def test_celery_declares_the_commands_queue_as_the_topology_does(app: Celery) -> None:
    (declared,) = (q for q in shipped_topology().queues if q.name == "commands")
    queue = app.amqp.queues["commands"]

    assert queue.queue_arguments == declared.arguments
    assert (queue.exchange.name, queue.exchange.type) == ("commands", "direct")
    assert queue.exchange.arguments == {"alternate-exchange": "unrouted"}
    assert queue.routing_key == "commands"
    assert not queue.bindings
