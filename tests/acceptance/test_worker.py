"""A real worker on a real broker, with handlers that do as they are told."""

from __future__ import annotations

import json
import re
import urllib.request
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from meshtasks.amqp import headers
from meshtasks.celery import create_app
from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.worker.consumer import commands_at_once
from tests.support import scripted
from tests.support.amqp import publish_raw, queue_depth, take
from tests.support.meshes import reconfigured
from tests.support.waiting import wait_until
from tests.support.worker import CELERY, Worker, running

MOTION = "sensors.motion"
APP = "tests.support.scripted"


@pytest.fixture
def env(mesh_env: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """A mesh that retries twice, after a second each, and gives up on a batch
    after five."""
    retry = {"max_retries": 2, "retry_backoff": 1, "retry_backoff_max": 1}
    defaults = {"batch": {"count": 50}, "retry": retry, "time_limit_seconds": 5}
    queues = {"defaults": defaults}
    return reconfigured(mesh_env, tmp_path / "config", queues=queues)


def worker(
    env: dict[str, str],
    tmp_path: Path,
    *queues: str,
    pool: str = "prefork",
    c: int = 1,
    program: tuple[str | Path, ...] = (),
) -> Worker:
    return Worker(
        tmp_path,
        env,
        *(queues or (MOTION,)),
        arguments=("-P", pool, "-c", str(c)),
        app=APP,
        program=program,
    )


def publish(
    env: dict[str, str], *records: Any, key: str = "sensors.motion.hall"
) -> None:
    bodies = [json.dumps(record).encode() for record in records]
    publish_raw(env["MESH_BROKER_URL"], key.partition(".")[0], key, *bodies)


def effects(env: dict[str, str]) -> Counter[str]:
    state = Path(env["MESH_STATE_DIR"])
    return Counter(each["id"] for each in scripted.read(state, "effects"))


def wait_for_effects(env: dict[str, str], ids: set[str], within: float = 30) -> None:
    wait_until(lambda: ids <= effects(env).keys(), within, f"{len(ids)} effects")


def dead_letters(env: dict[str, str], count: int) -> list[Any]:
    return take(env["MESH_BROKER_URL"], "dead.letter.queue", count, within_seconds=30)


@pytest.mark.parametrize(
    ("pool", "c"), [("prefork", 1), ("prefork", 3), ("threads", 2), ("solo", 1)]
)
def test_plain_json_is_consumed_by_every_pool(
    env: dict[str, str], tmp_path: Path, pool: str, c: int
) -> None:
    ids = {f"r{number}" for number in range(120)}
    publish(env, *({"id": each} for each in sorted(ids)))
    publish(env, {"id": "dead", "do": "dead"}, [{"id": "a"}, {"id": "b"}])

    celery = (CELERY, "-A", APP, "worker")
    with running(worker(env, tmp_path, pool=pool, c=c, program=celery)):
        wait_for_effects(env, ids | {"a", "b"})
        (letter,) = dead_letters(env, 1)

    assert json.loads(letter.body)["id"] == "dead"
    assert set(effects(env).values()) == {1}
    assert queue_depth(env["MESH_BROKER_URL"], MOTION) == 0


def test_a_celery_call_of_the_queues_task_is_consumed_too(
    env: dict[str, str], tmp_path: Path
) -> None:
    body = json.dumps([[[{"id": "called"}]], {}, {}]).encode()
    publish_raw(
        env["MESH_BROKER_URL"],
        "",
        MOTION,
        body,
        headers={"task": MOTION, "id": "t1", "lang": "py"},
    )

    with running(worker(env, tmp_path)):
        wait_for_effects(env, {"called"})


@pytest.mark.parametrize("task", ["celery.chord_unlock", "home.events.automations"])
def test_a_message_that_names_another_task_does_not_run_it(
    env: dict[str, str], tmp_path: Path, task: str
) -> None:
    publish_raw(
        env["MESH_BROKER_URL"],
        "sensors",
        "sensors.motion.hall",
        b'[[{"id": "spoof"}], {}, {}]',
        headers={"task": task, "id": "t1", "lang": "py"},
    )

    with running(worker(env, tmp_path, MOTION, "home.events.automations")):
        (letter,) = dead_letters(env, 1)

    assert task in letter.headers[headers.REASON]
    assert letter.body == b'[[{"id": "spoof"}], {}, {}]'
    assert not effects(env)


def test_a_retry_comes_back_to_the_failing_queue_alone(
    env: dict[str, str], tmp_path: Path
) -> None:
    url = env["MESH_BROKER_URL"]
    publish(
        env, {"id": "n", "do": "retry", "times": 1}, key="alerts.notifications.door"
    )
    assert len(take(url, "alerts.critical", 1)) == 1  # the fanout's other copy

    with running(worker(env, tmp_path, "alerts.notifications")):
        wait_for_effects(env, {"n"})

    assert queue_depth(url, "alerts.critical") == 0
    attempts = scripted.read(Path(env["MESH_STATE_DIR"]), "attempts")
    assert [each["id"] for each in attempts] == ["n", "n"]


@pytest.mark.parametrize("fault", ["retry", "raise"])
def test_a_message_that_keeps_failing_is_dead_after_its_retries(
    env: dict[str, str], tmp_path: Path, fault: str
) -> None:
    publish(env, {"id": "x", "do": fault})

    with running(worker(env, tmp_path)):
        (letter,) = dead_letters(env, 1)

    assert letter.headers[headers.RETRIES] == 2
    assert "after 2 retries" in letter.headers[headers.REASON]
    assert letter.headers[headers.ROUTING_KEY] == "sensors.motion.hall"
    assert letter.headers[headers.EXCHANGE] == "sensors"
    assert ("RuntimeError" in letter.headers[headers.TRACEBACK]) == (fault == "raise")


def test_a_handler_that_raises_fails_no_neighbour_for_good(
    env: dict[str, str], tmp_path: Path
) -> None:
    good = {f"g{number}" for number in range(10)}
    publish(env, *({"id": each} for each in good), {"id": "bad", "do": "raise"})

    with running(worker(env, tmp_path)):
        (letter,) = dead_letters(env, 1)
        wait_for_effects(env, good)

    assert json.loads(letter.body)["id"] == "bad"


def test_a_poison_message_is_dead_and_its_neighbours_are_done(
    env: dict[str, str], tmp_path: Path
) -> None:
    good = {f"g{number}" for number in range(10)}
    publish(env, *({"id": each} for each in good), {"id": "poison", "do": "kill"})

    with running(worker(env, tmp_path)):
        wait_for_effects(env, good)
        (letter,) = dead_letters(env, 1)

    assert json.loads(letter.body)["id"] == "poison"
    assert letter.headers[headers.ERROR_TYPE] == "WorkerLost"
    assert "SIGKILL" in letter.headers[headers.REASON]


def test_a_message_that_hangs_is_cut_off_and_its_neighbours_are_done(
    env: dict[str, str], tmp_path: Path
) -> None:
    publish(env, {"id": "slow", "do": "hang", "times": 2}, {"id": "next"})

    with running(worker(env, tmp_path)):
        wait_for_effects(env, {"next", "slow"}, within=40)


def test_a_busy_queue_does_not_hold_up_another(
    env: dict[str, str], tmp_path: Path
) -> None:
    publish(env, {"id": "long", "do": "wait", "seconds": 4})

    with running(worker(env, tmp_path, MOTION, "home.events.automations", c=2)):
        wait_until(
            lambda: scripted.read(Path(env["MESH_STATE_DIR"]), "attempts"), 10, "start"
        )
        publish_raw(
            env["MESH_BROKER_URL"],
            "home.events",
            "home.automation.lamp.trigger",
            b'{"id": "quick"}',
        )
        wait_for_effects(env, {"quick"})
        assert "long" not in effects(env)


def test_a_batch_of_alerts_runs_before_those_that_wait_already(
    env: dict[str, str], tmp_path: Path
) -> None:
    one = {"defaults": {"batch": {"count": 1}}}
    env = reconfigured(env, tmp_path / "one", queues=one)
    publish(env, {"id": "holds the pool", "do": "wait", "seconds": 2})
    publish(env, *({"id": f"r{number}"} for number in range(10)))
    publish_raw(env["MESH_BROKER_URL"], "alerts", "alerts.test", b'{"id": "alert"}')

    with running(worker(env, tmp_path, MOTION, "alerts.notifications")):
        wait_for_effects(env, {"alert", "r9"})

    order = [
        each["id"] for each in scripted.read(Path(env["MESH_STATE_DIR"]), "effects")
    ]
    assert order.index("alert") < order.index("r9")
    assert order.index("alert") <= 2


def test_one_pool_process_is_kept_free_of_commands_beside_domain_queues(
    env: dict[str, str],
) -> None:
    environment = Environment(
        config_dir=Path(env["MESH_CONFIG_DIR"]),
        broker_url=SecretStr(env["MESH_BROKER_URL"]),
    )
    app = create_app(Settings(environment))

    def at_once(concurrency: int, *queues: str) -> int:
        app.amqp.queues.select(queues)
        return commands_at_once(app, SimpleNamespace(concurrency=concurrency))

    assert at_once(4, "commands", "alerts.critical") == 3
    assert at_once(1, "commands", "alerts.critical") == 1
    assert at_once(4, "commands") == 4


def test_a_message_that_meets_an_idle_queue_waits_for_no_others(
    env: dict[str, str], tmp_path: Path
) -> None:
    ten_minutes = {"batch": {"age_ms": 600_000}}
    env = reconfigured(env, tmp_path / "slow", queues={"defaults": ten_minutes})
    publish(env, {"id": "first"}, key="metrics.system.attic")

    with running(worker(env, tmp_path, scripted.AT_ONCE)):
        wait_for_effects(env, {"first"})


def test_a_warm_shutdown_finishes_what_the_worker_holds(
    env: dict[str, str], tmp_path: Path
) -> None:
    state = Path(env["MESH_STATE_DIR"])
    with running(worker(env, tmp_path)) as stopping:
        publish(env, {"id": "held", "do": "wait", "seconds": 2})
        wait_until(lambda: scripted.read(state, "attempts"), 10, "the batch to start")
        publish(env, {"id": "buffered"})

        assert stopping.stop() == 0

    assert effects(env)["held"] == 1
    left = queue_depth(env["MESH_BROKER_URL"], MOTION)
    assert left + effects(env)["buffered"] == 1


def test_a_worker_tells_prometheus_what_became_of_its_messages(
    env: dict[str, str], tmp_path: Path
) -> None:
    all_in_one = {
        "batch": {"count": 4, "age_ms": 60_000},
        "retry": {"retry_backoff": 1},
    }
    env = reconfigured(env, tmp_path / "one", queues={"defaults": all_in_one})
    publish(
        env,
        *({"id": do, "do": do, "times": 1} for do in ("kill", "done", "dead", "retry")),
    )

    with running(worker({**env, "MESH_METRICS_PORT": "0"}, tmp_path)) as consumer:
        wait_until(lambda: " http://127.0.0.1:" in consumer.log(), 30, "the page")
        found = re.search(r"Metrics at (\S+)", consumer.log())
        assert found

        def counts() -> dict[str, float]:
            with urllib.request.urlopen(found[1]) as answer:
                text = str(answer.read(), "utf-8")
            return {
                family: sum(
                    sample.value
                    for metric in text_string_to_metric_families(text)
                    for sample in metric.samples
                    if sample.name == f"meshtasks_{family}"
                )
                for family in WANTED
            }

        wait_until(lambda: counts() == WANTED, 60, f"{WANTED}")


#: The batch is lost with its process, and all is done alone; one waits for a second.
WANTED = {
    "messages_received_total": 5,
    "messages_done_total": 3,
    "messages_dead_total": 1,
    "messages_retried_total": 1,
    "batches_lost_total": 1,
    "messages_unsettled": 0,
    "queue_consuming": 1,
    "worker_info": 1,
}
