"""What the worker copies or overrides of Celery is as it was when that was written.

A failure here names the method that a release has changed and what to compare it with;
then the fingerprint is noted anew.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import subprocess
import sys
from functools import reduce
from types import SimpleNamespace
from typing import Any

import celery
import pytest
from celery.concurrency import get_implementation

from meshtasks.worker.celery_internals import forks

_CONSUMER = "celery.worker.consumer.consumer:Consumer"
#: By what stands upon it: the object, and a fingerprint of its source.
RELIED_ON = {
    "celery_internals.PoolRequest": {
        "celery.worker.request:Request.__init__": "c212241f7633",
        "celery.worker.request:Request.execute_using_pool": "59468ddcc619",
        "celery.worker.request:create_request_cls": "1667bb255f97",
        "celery.worker.request:Request.on_accepted": "3ff3927a9ac7",
        "celery.worker.request:Request.on_timeout": "af28f40fd8af",
        "celery.worker.request:Request.on_success": "46567bad20d4",
        "celery.worker.request:Request.on_failure": "39179d9e9ac9",
        "celery.worker.request:Request.terminate": "f5db411a0520",
        "celery.worker.strategy:default": "385971b6bec6",
        "celery.worker.worker:WorkController._process_task": "86d5f6a8f3f0",
        "celery.concurrency.base:BasePool.apply_async": "df0ad07dfb25",
    },
    "celery_internals.run_traced": {
        "celery.app.trace:fast_trace_task": "2440a54bf4ee",
        "celery.app.trace:build_tracer": "496dbd893852",
    },
    "celery_internals.pool_size": {
        "celery.concurrency.prefork:TaskPool.on_start": "1df889a0bf66",
    },
    "celery_internals.RemoteControl": {
        "celery.worker.consumer.control:Control.__init__": "b814f8cfe468",
        "celery.worker.pidbox:Pidbox.start": "0a82a31e45ed",
        "kombu.pidbox:Mailbox.get_queue": "a5c504067b1c",
    },
    "celery_internals.EventLoop": {
        "kombu.asynchronous.hub:Hub.call_soon": "9e2dc18d72e7",
        "kombu.asynchronous.hub:Hub.create_loop": "abfdad98fa1f",
    },
    "celery_internals.BurstReader": {
        "kombu.transport.pyamqp:Transport.register_with_event_loop": "ad7ee61f701f",
    },
    "consumer.MeshConsumer": {
        f"{_CONSUMER}.__init__": "89e3a549b82c",
        f"{_CONSUMER}.Blueprint": "a5195228dbb5",
        f"{_CONSUMER}.start": "13bb1143fe28",
        f"{_CONSUMER}.shutdown": "f9434c870594",
        f"{_CONSUMER}.ensure_connected": "c7eb4142fb7a",
        f"{_CONSUMER}.on_connection_error_after_connected": "db0845d135b2",
        f"{_CONSUMER}.on_send_event_buffered": "58df5f68e2e8",
        f"{_CONSUMER}.on_decode_error": "2473d9173707",
        f"{_CONSUMER}.create_task_handler": "007b9e085800",
        f"{_CONSUMER}.add_task_queue": "89247851e1e9",
        f"{_CONSUMER}.cancel_task_queue": "59637ee8bc12",
    },
    "consumer_step.ConsumerStep": {
        "celery.events.dispatcher:EventDispatcher.send": "ff0fe9b7fb62",
        "celery.events.dispatcher:EventDispatcher.flush": "9fcea06e15f0",
        "celery.worker.consumer.tasks:Tasks.start": "93f00deac5bf",
        "celery.worker.loops:asynloop": "eddfee26a1a5",
    },
    "program.MeshWorker": {
        "celery.apps.worker:Worker.on_before_init": "49201974f7c9",
        "celery.worker.worker:WorkController.setup_defaults": "af4181da5fdb",
        "celery.worker.worker:WorkController.prepare_args": "d24116363636",
        "celery.worker.worker:WorkController.setup_includes": "840e9c811f0e",
    },
    "program.run_worker": {
        "celery.bin.base:CLIContext.__init__": "78e0de9cc31d",
    },
    "program": {
        "celery.worker.control:rate_limit": "4f73e287f53d",
        "celery.worker.control:time_limit": "1b81868304e4",
        "celery.worker.control:add_consumer": "54b1aaf6d8c8",
        "celery.worker.control:cancel_consumer": "3e80b859ced2",
        "celery.worker.control:pool_grow": "78b78e1b4b00",
        "celery.worker.control:pool_shrink": "b4dbbf2952ff",
        "celery.worker.control:active_queues": "4b78c6d1d839",
    },
    "commands.AnswersBackend": {
        "celery.backends.base:DisabledBackend": "31056f7192ef",
        "celery.backends.base:Backend.mark_as_failure": "769f1c6718ca",
    },
}


def source_of(path: str) -> str:
    module, _, name = path.partition(":")
    found: Any = reduce(getattr, name.split("."), importlib.import_module(module))
    return " ".join(inspect.getsource(found).split())


@pytest.mark.parametrize("relying", RELIED_ON)
def test_what_is_relied_on_is_as_it_was(relying: str) -> None:
    found = {
        path: hashlib.sha256(source_of(path).encode()).hexdigest()[:12]
        for path in RELIED_ON[relying]
    }
    assert found == RELIED_ON[relying], (
        f"Celery {celery.__version__} or kombu has changed what worker/{relying} was "
        "written for: compare the two, then note the new fingerprint"
    )


_OWN_COMMAND = """
import sys
from meshtasks.celery import app
from meshtasks.worker.program import run_worker
try:
    run_worker(app, ["--help"])
except SystemExit as ended:
    print("ended", ended.code, *sys.modules)
"""


def test_the_own_command_loads_none_of_celerys_others() -> None:
    shown = subprocess.check_output(
        [sys.executable, "-W", "ignore", "-c", _OWN_COMMAND],
        env={**os.environ, "MESH_BROKER_URL": "amqp://guest:guest@127.0.0.1:1//"},
        text=True,
    )

    assert "--concurrency" in shown
    modules = shown.partition("ended 0 ")[2].split()
    assert "celery.bin.worker" in modules
    assert not {"celery.bin.celery", "flower", "prompt_toolkit", "pygments.lexer"} & {
        *modules
    }


@pytest.mark.parametrize(
    ("pool", "expected"), [("prefork", True), ("solo", False), ("threads", False)]
)
def test_only_a_pool_of_processes_forks(pool: str, expected: bool) -> None:
    assert forks(SimpleNamespace(pool=get_implementation(pool))) is expected
