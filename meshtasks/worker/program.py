"""The program ``celery worker``, and its replies to Celery's remote control.

Celery's options and commands are made for tasks that run one by one, from queues that
are created and deleted at any time. Here queues, time limits and batch sizes are
configuration. So options and commands that would have no effect, report something
wrong, or lose messages, are rejected or replaced. Importing this module registers the
replies, in the worker and on the command line (``celery -A meshtasks inspect --list``).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any, Never

from celery import Celery, concurrency
from celery.apps.worker import Worker
from celery.worker import control
from celery.worker.control import control_command, inspect_command
from typing_extensions import override

from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.errors import ConfigError
from meshtasks.text import clip, did_you_mean
from meshtasks.worker.mesh import Mesh, mesh_of

_POOLS = ("prefork", "solo", "threads")
_TIME_LIMIT = "does nothing: set time_limit_seconds in queues.yaml"
#: Options that are rejected, by Celery's name: option and reason.
_REFUSED = {
    "autoscale": ("--autoscale", "is not supported: set the pool's size with -c"),
    "beat": ("-B", "does nothing: the mesh has no scheduled tasks"),
    "purge": ("--purge", "would delete what waits in the queues, and is refused"),
    "soft_time_limit": ("--soft-time-limit", _TIME_LIMIT),
    "time_limit": ("--time-limit", _TIME_LIMIT),
}


class MeshWorker(Worker):  # type: ignore[misc]  # celery ships no types
    """Celery's worker, which reports in one sentence why it does not start."""

    @override
    def prepare_args(self, **kwargs: Any) -> dict[str, Any]:
        """Check the options, and return them with the queues to consume."""
        try:
            self._check(kwargs)
            queues = selected(
                mesh_of(self.app), kwargs.get("queues"), kwargs.get("exclude_queues")
            )
        except ConfigError as error:
            end(error)
        return {**kwargs, "queues": queues, "exclude_queues": None}

    @override
    def setup_includes(self, includes: Any) -> None:
        """Import the modules of ``-I``, or end with an error."""
        try:
            super().setup_includes(includes)
        except ImportError as error:
            end(ConfigError("celery worker", "-I", f"cannot be imported: {error}"))

    def _check(self, options: dict[str, Any]) -> None:
        for name, (option, why) in _REFUSED.items():
            if options.get(name):
                raise ConfigError("celery worker", option, why)
        if self.pool_start_method != "fork":
            expected = "expected fork: a process that is spawned knows no handlers"
            raise ConfigError("celery worker", "--pool-start-method", expected)
        if _path_of(self.pool_cls) not in map(_path_of, _POOLS):
            expected = f"expected {' or '.join(_POOLS)}; other pools consume nothing"
            raise ConfigError("celery worker", "-P", expected)


def _path_of(pool: Any) -> str:
    """Return the path of a pool's class; a pool given by name is not loaded for it."""
    if isinstance(pool, str):
        return str(concurrency.ALIASES.get(pool, pool))
    return f"{pool.__module__}:{pool.__qualname__}"


def run_worker(app: Celery, arguments: Sequence[str]) -> Never:
    """Run Celery's command ``worker`` without Celery's other commands.

    Raises:
        SystemExit: at its end.
    """
    modules: dict[str, Any] = sys.modules
    # Celery's other commands use it to colour their output, if present; it needs 2 MB.
    is_hidden = modules.setdefault("pygments", None) is None
    from celery.bin.base import CLIContext  # noqa: PLC0415
    from celery.bin.worker import worker  # noqa: PLC0415

    if is_hidden:
        del modules["pygments"]
    context = CLIContext(app, no_color=not sys.stdout.isatty(), workdir=None)
    worker.main([*arguments], prog_name="meshtasks worker", obj=context)
    raise SystemExit


def end(error: ConfigError) -> Never:
    """Print what is wrong with the configuration, one line per error, and exit.

    Raises:
        SystemExit: always.
    """
    faults = (error, *error.more)
    sys.stderr.writelines(f"meshtasks: {fault}\n" for fault in faults)
    sys.exit(ConfigError.exit_code)


def consumable(mesh: Mesh) -> list[str]:
    """Return the domain queues that have a handler, and the commands queue."""
    topology = mesh.settings.read(TOPOLOGY)
    handled = [queue for queue in topology.domain_queues if queue in mesh.handlers]
    return [*handled, topology.commands_queue]


def unavailable_reason(mesh: Mesh, queue: str) -> str | None:
    """Return why a worker cannot consume a queue; None if it can."""
    known = consumable(mesh)
    if queue in known:
        return _missing_client(mesh, queue)
    topology = mesh.settings.read(TOPOLOGY)
    if queue == topology.dead_letter_queue:
        return f"{queue} is read by people: meshtasks dlq list"
    if queue in {each.name for each in topology.all_queues}:
        kind = queue.partition(".")[2] or "co2"
        return (
            f"{queue} has no handler. For readings of sensors, give it a flow under "
            f"queues in queues.yaml ({queue}: {{flow: readings, kind: {kind}}}) and "
            "declare the kind in kinds.yaml; see docs/add-a-queue.md. Other records "
            "need a package with a flow; `meshtasks flow list` has those installed"
        )
    return f"there is no queue {clip(queue)}{did_you_mean(queue, known)}"


def _missing_client(mesh: Mesh, queue: str) -> str | None:
    """Return which package a sink of a queue lacks; None if it lacks none."""
    handler = mesh.handlers.get(queue)
    try:
        for sink in handler.sinks if handler else ():
            sink.check()
    except ConfigError as error:
        return f"{queue} cannot be consumed: {error.key} {error.expected}"
    return None


def selected(
    mesh: Mesh, include: Iterable[str] | None, exclude: Iterable[str] | None
) -> list[str]:
    """Return the queues that ``-Q`` and ``-X`` select, and the queues in which messages
    of these wait for sinks, each once.

    Args:
        include: queues of ``-Q``; None for all that can be consumed.
        exclude: queues of ``-X``.

    Raises:
        ConfigError: a queue cannot be consumed, or none is left.
    """
    known = consumable(mesh)
    chosen = known if include is None else _names(include)
    left_out = _names(exclude or ())
    for queue in chosen:
        if queue in known and queue in left_out:
            continue
        if reason := unavailable_reason(mesh, queue):
            raise _fault("-Q", reason)
    every = [*known, *mesh.settings.read(TOPOLOGY).domain_queues]
    for queue in left_out:
        if queue not in every:
            close = did_you_mean(queue, every)
            raise _fault("-X", f"there is no queue {clip(queue)}{close}")
    left = [queue for queue in chosen if queue not in left_out]
    if not left:
        option = "-X" if include is None else "-Q"
        raise _fault(option, "leaves no queue to consume")
    waiting = [queue for queue in _waiting(mesh, left) if queue not in left_out]
    return [*dict.fromkeys((*left, *waiting))]


def _waiting(mesh: Mesh, queues: Iterable[str]) -> list[str]:
    """Return the queues in which messages of these queues wait for unavailable sinks. A
    worker that fills such a queue also consumes it."""
    return [
        key.waits_in
        for queue in queues
        if (handler := mesh.handlers.get(queue)) is not None and handler.defers
        for key in handler.sinks
        if key.waits_in in mesh.handlers
    ]


def _names(given: Iterable[str]) -> list[str]:
    """Return each name once, in order, without empty ones."""
    return [*dict.fromkeys(name.strip() for name in given if name.strip())]


def _fault(option: str, expected: str) -> ConfigError:
    return ConfigError("celery worker", option, expected)


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
