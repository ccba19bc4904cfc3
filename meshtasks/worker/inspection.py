"""What a worker answers and does when it is asked, by Celery's remote control.

Celery's own commands know tasks and queues that come and go. Those that would say what
is not so of domain queues and batches, or lose messages, are replaced here. Importing
this module registers them, in the worker and on the command line
(``celery -A meshtasks inspect --list``).
"""

from __future__ import annotations

from typing import Any

from celery.worker import control
from celery.worker.control import control_command, inspect_command

from meshtasks.worker.mesh import mesh_of
from meshtasks.worker.program import unavailable_reason

_limit_rate, _limit_time = control.rate_limit, control.time_limit

Answer = dict[str, Any]


@inspect_command(name="mesh_state")  # type: ignore[untyped-decorator]
def mesh_state(state: Any) -> Answer:
    """The queues it consumes, those that are paused, and the circuits that are open."""
    answer: Answer = state.consumer.consumer_step.state()
    return answer


@inspect_command(name="active_queues")  # type: ignore[untyped-decorator]
def active_queues(state: Any) -> list[Answer]:
    """List the queues a worker serves, those that are paused included."""
    queues = state.app.amqp.queues.consume_from.values()
    return [dict(queue.as_dict(recurse=True)) for queue in queues]


@control_command(name="add_consumer", args=[("queue", str)], signature="<queue>")  # type: ignore[untyped-decorator]
def add_consumer(state: Any, queue: str, **_: Any) -> Answer:
    """Tell worker(s) to consume one more queue of the mesh; none is ever created."""
    if reason := unavailable_reason(mesh_of(state.app), queue):
        return {"error": reason}
    state.consumer.call_soon(state.consumer.add_task_queue, queue)
    return {"ok": f"add consumer {queue}"}


@control_command(name="cancel_consumer", args=[("queue", str)], signature="<queue>")  # type: ignore[untyped-decorator]
def cancel_consumer(state: Any, queue: str, **_: Any) -> Answer:
    """Tell worker(s) to stop consuming a queue; what they hold of it is finished."""
    if queue not in state.app.amqp.queues.consume_from:
        return {"error": f"it does not consume {queue}"}
    state.consumer.call_soon(state.consumer.cancel_task_queue, queue)
    return {"ok": f"no longer consuming from {queue}"}


@control_command(  # type: ignore[untyped-decorator]
    name="rate_limit",
    args=[("task_name", str), ("rate_limit", str)],
    signature="<task_name> <rate_limit (e.g., 5/s | 5/m | 5/h)>",
)
def rate_limit(state: Any, task_name: str, rate_limit: str, **options: Any) -> Answer:
    """Tell worker(s) to modify the rate limit of a command."""
    if task_name in mesh_of(state.app).handlers:
        return {"error": f"batches of {task_name} have no rate limit"}
    answer: Answer = _limit_rate(state, task_name, rate_limit, **options)
    return answer


@control_command(  # type: ignore[untyped-decorator]
    name="time_limit",
    args=[("task_name", str), ("soft", float), ("hard", float)],
    signature="<task_name> <soft_secs> [hard_secs]",
)
def time_limit(
    state: Any,
    task_name: str | None = None,
    hard: float | None = None,
    soft: float | None = None,
    **options: Any,
) -> Answer:
    """Tell worker(s) to modify the time limits of a command."""
    if task_name in mesh_of(state.app).handlers:
        said = f"the limit of {task_name} is time_limit_seconds in queues.yaml"
        return {"error": said}
    answer: Answer = _limit_time(state, task_name, hard, soft, **options)
    return answer


@control_command(name="pool_grow", args=[("n", int)], signature="[N=1]")  # type: ignore[untyped-decorator]
def pool_grow(state: Any, n: int = 1, **_: Any) -> Answer:
    """Grow pool by n processes."""
    return _resize(state, n, grow=True)


@control_command(name="pool_shrink", args=[("n", int)], signature="[N=1]")  # type: ignore[untyped-decorator]
def pool_shrink(state: Any, n: int = 1, **_: Any) -> Answer:
    """Shrink pool by n processes; one stays."""
    return _resize(state, n, grow=False)


def _resize(state: Any, n: int, *, grow: bool) -> Answer:
    consumer = state.consumer
    pool = consumer.pool
    if n < 1:
        return {"error": f"expected a number of processes above 0, not {n}"}
    if not grow and n >= pool.num_processes:
        said = f"the pool has {pool.num_processes}, and the last one must stay"
        return {"error": f"{said}; cancel_consumer stops a queue"}
    if not hasattr(pool, "grow"):
        return {"error": "threads and the solo pool keep the size they started with"}
    try:
        (pool.grow if grow else pool.shrink)(n)
    except ValueError as error:  # all processes are busy
        return {"error": str(error)}
    consumer.call_soon(consumer.consumer_step.pump)
    return {"ok": f"pool will {'grow' if grow else 'shrink'}"}
