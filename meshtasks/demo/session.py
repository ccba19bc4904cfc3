"""One run of the demo: start, show, stop."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from celery.app.utils import find_app
from rich.console import Console

from meshtasks.amqp.connecting import connected
from meshtasks.amqp.declare import declare
from meshtasks.amqp.topology import TOPOLOGY, Topology
from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings, load_settings
from meshtasks.demo.audit import REST_SECONDS, Audit, Backlog
from meshtasks.demo.process import (
    Process,
    ProcessFailed,
    Server,
    Shutdown,
    Steps,
    stop_together,
)
from meshtasks.demo.reconciliation import published_so_far
from meshtasks.demo.screen import Screen, print_summary, shown_path
from meshtasks.demo.stack import Stack
from meshtasks.errors import MeshError, Transient
from meshtasks.flows.loading import load_flows
from meshtasks.gateway.config import GATEWAY
from meshtasks.observation.collect import Collector
from meshtasks.worker.mesh import mesh_of

_EXIT_OK = 0
_EXIT_FAILED = 1
_EXIT_INTERRUPTED = 130

_START_SECONDS = 60.0
#: Time for which queues must stay empty before messages of an earlier run are gone.
_SURELY_SECONDS = 3.0
#: Longest wait for empty queues, before and after a run.
_DRAIN_SECONDS = 60.0
_MOMENT_SECONDS = 3.0
#: Longer than the ten seconds that the simulator waits for confirms.
_SIMULATOR_STOP_SECONDS = 15.0

#: Restarts of a process; one that ends more often is broken.
_MAX_RESTARTS = 3

_HOT_ROOM = "greenhouse"
_BAD_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Options:
    """Options of the user.

    Attributes:
        state_dir: directory for all files.
        rate_per_second: simulated messages per second.
        for_seconds: length of the run; None for no limit.
    """

    state_dir: Path
    rate_per_second: float
    for_seconds: float | None


def run(options: Options) -> int:
    """Run the demo and return its exit code.

    Raises:
        ConfigError: the configuration is not valid.
    """
    settings = load_settings()
    settings.validate((*load_flows().files, GATEWAY))
    try:
        stack = Stack(options.state_dir, settings.env.config_dir)
    except (OSError, ProcessFailed) as error:
        _complain(f"{error}. --state names another directory.")
        return os.EX_CANTCREAT
    # From here on, this process uses only the environment of the demo's mesh.
    os.environ.clear()
    os.environ.update(stack.environment)
    return Session(stack, options, Console(highlight=False)).run()


class Session:
    """One run of a stack."""

    def __init__(self, stack: Stack, options: Options, console: Console) -> None:
        self._stack = stack
        self._options = options
        self._console = console
        self._steps = Steps(console)
        self._shutdown = Shutdown(self._steps)
        self._settings = Settings(Environment(_env_file=None))
        self._collector = Collector(
            self._settings,
            points=stack.victoria_metrics.rows_inserted,
        )
        self._url = self._settings.env.amqp_url
        self._servers: list[Process | Server] = [stack.rabbitmq, stack.victoria_metrics]
        self._no_triton = stack.triton_unavailable
        self._interrupted = False
        self._restarts: Counter[str] = Counter()
        handled = handled_queues(self._settings.read(TOPOLOGY))
        archive = [queue for queue in handled if queue.startswith("archive.")]
        alerts = [queue for queue in handled if queue.startswith("alerts.")]
        house = [queue for queue in handled if queue not in (*archive, *alerts)]
        # Separate workers, so that alerts do not wait for a model, for a slow archive
        # or for calls from the gateway.
        self._queues = {
            "house": house,
            "alerts": alerts,
            "archive": archive,
            "commands": [self._settings.read(TOPOLOGY).commands_queue],
        }
        self._workers = {
            name: stack.worker(name, queues) for name, queues in self._queues.items()
        }
        self._consumed = handled
        retry = [queue.name for queue in self._settings.read(TOPOLOGY).retry_queues]
        self._backlog = Backlog(self._collector, handled, retry)

    def run(self) -> int:
        """Start, show and stop the mesh; return the exit code."""
        where = shown_path(self._stack.directory)
        self._say(f"meshtasks demo: everything is kept in {where}\n")
        code, at_once = _EXIT_INTERRUPTED, False
        try:
            self._boot()
            with self._collector:
                code = self._present()
        except KeyboardInterrupt:
            at_once = self._interrupted  # this is the second interrupt
            self._say("\ninterrupted")
        except (MeshError, OSError) as error:
            _complain(f"{error}\nIf it happens again, rm -r {where} begins anew.")
            code = os.EX_UNAVAILABLE
        finally:
            self._shutdown.run(at_once=at_once)
            self._stack.receiver.stop()
        self._say(f"\nThe data stay in {where}, logs in {where}/log.")
        self._say(f"To remove them: rm -r {where}")
        return code

    def _boot(self) -> None:
        """Start everything except the sensors."""
        stack, step = self._stack, self._steps.step
        with step("RabbitMQ, the message broker"):
            self._shutdown.add("RabbitMQ", stack.rabbitmq)
            stack.rabbitmq.start()
        with step("VictoriaMetrics, the time-series store"):
            self._shutdown.add("VictoriaMetrics", stack.victoria_metrics)
            stack.victoria_metrics.start()
        with step("what stands in for n8n and for the phone"):
            stack.receiver.start()
        self._boot_triton()
        with step("exchanges, queues and bindings"), connected(self._url) as connection:
            declare(connection, self._settings.read(TOPOLOGY))
        left = sum(self._backlog.waiting().values())
        with step("Celery workers"):
            self._shutdown.add("Flower", stack.flower)
            workers = list(self._workers.values())
            self._shutdown.add("the workers", *workers)
            self._start_workers()
        if left:
            with step(f"{left:,} messages of an earlier run"):
                self._backlog.wait_empty(_DRAIN_SECONDS, for_seconds=_SURELY_SECONDS)
                if self._options.for_seconds is not None:
                    # Count only after no worker holds old messages.
                    stop_together(workers)
                    self._start_workers()
                    time.sleep(REST_SECONDS)

    def _boot_triton(self) -> None:
        """Start Triton if this machine can run it; the demo also works without."""
        triton = self._stack.triton
        if self._no_triton is None:
            self._shutdown.add("Triton", triton)
            try:
                with self._steps.step("Triton, the server of models"):
                    triton.start()
            except ProcessFailed as error:
                self._no_triton = str(error).partition(";")[0]
            else:
                self._servers.append(triton)
                return
        self._say(f" - No Triton, so no model is asked: {self._no_triton}")

    def _start_workers(self) -> None:
        for worker in self._workers.values():
            worker.start()
        for name, worker in self._workers.items():
            is_ready = partial(self._backlog.are_consumed, self._queues[name])
            worker.wait_ready(is_ready, _START_SECONDS)

    @cached_property
    def _simulator(self) -> Process:
        """The simulator; created late, because it needs to know if Triton runs."""
        asks = self._no_triton is None
        return self._stack.simulator(*_simulator_options(self._options, asks=asks))

    def _present(self) -> int:
        """Start the sensors and show the mesh; return the exit code."""
        if not self._collector.wait_watching(_START_SECONDS):
            faults = self._collector.snapshot().faults
            raise Transient(faults[0] if faults else None)
        stack = self._stack
        audit = Audit(stack, self._collector, self._settings, self._consumed)
        seconds = self._options.for_seconds
        self._start_sensors()
        screen = Screen(self._console, stack, self._collector, seconds)
        screen.print_hints()
        try:
            screen.show_while(self._goes_on)
        except KeyboardInterrupt:
            if seconds is not None:
                raise
            self._interrupted = True
            self._say("")
        if seconds is not None:
            return self._check(audit)
        with self._steps.step("the queues run empty"):
            self._simulator.stop(_SIMULATOR_STOP_SECONDS)
            self._backlog.wait_empty(_MOMENT_SECONDS)
        return _EXIT_OK

    def _start_sensors(self) -> None:
        """Start the sensors, Flower and the gateway."""
        stack = self._stack
        with self._steps.step("a house of sensors, Flower and the gateway"):
            # Flower asks for the workers only once, so they must run by now.
            stack.flower.start()
            self._shutdown.add("the gateway", stack.gateway)
            stack.gateway.start()
            simulator = self._simulator
            self._shutdown.add("the sensors", simulator)
            simulator.start()
            stack.flower.wait_ready(stack.flower_answers, _START_SECONDS)
            stack.gateway.wait_ready(stack.gateway_answers, _START_SECONDS)
            self._servers += [stack.flower, stack.gateway]

    def _goes_on(self) -> bool:
        """Return whether the simulator runs, and restart what was killed.

        A killed server is restarted only if nothing is counted, since its counters
        would miss messages.

        Raises:
            ProcessFailed: a process that is not restarted has ended.
        """
        simulator = self._simulator
        parts: list[Process | Server] = [*self._workers.values()]
        if self._options.for_seconds is None:
            parts = [*self._servers, *parts, simulator]
        elif ended := [each for each in self._servers if not each.running]:
            raise _ended_by_itself(ended[0])
        for each in parts:
            if not each.running:
                self._restart(each)
        return simulator.running

    def _restart(self, server: Process | Server) -> None:
        """Restart something that was killed."""
        name = _process_of(server).name
        self._restarts[name] += 1
        if self._restarts[name] > _MAX_RESTARTS:
            raise _ended_by_itself(server)
        self._say(f"{name} has ended by itself; starting it again")
        server.kill()  # its child processes may have outlived it
        server.start()

    def _check(self, audit: Audit) -> int:
        """Wait until all messages are processed, print the summary; return the code."""
        self._simulator.stop()  # it has ended; this reaps it
        published = published_so_far(self._stack.stats_file)
        if not published.messages:
            raise _ended_by_itself(self._simulator)
        with self._steps.step("the queues run empty"):
            audit.flows.wait_over(
                [*self._queues["house"], *self._queues["alerts"]],
                published.messages_by_kind,
                _DRAIN_SECONDS,
                for_seconds=REST_SECONDS,
            )
        with self._steps.step("the workers finish what they hold"):
            stop_together(list(self._workers.values()))
            audit.flows.wait_over(self._consumed, {}, _DRAIN_SECONDS)
        balance = audit.balance(self._backlog.to_be_retried())
        end = self._settings.read(TOPOLOGY).dead_letter_queue
        print_summary(balance, self._console, end, self._no_triton)
        return _EXIT_FAILED if balance.faults() else _EXIT_OK

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)


def _complain(text: str) -> None:
    Console(stderr=True, highlight=False).print(
        f"\nmeshtasks: {text}", markup=False, soft_wrap=True
    )


def _process_of(server: Process | Server) -> Process:
    return server if isinstance(server, Process) else server.process


def _ended_by_itself(server: Process | Server) -> ProcessFailed:
    process = _process_of(server)
    log = f"the end of {process.log_path}:\n{process.tail()}"
    return ProcessFailed(f"{process.name} ended by itself; {log}")


def handled_queues(topology: Topology) -> list[str]:
    """Return the queues that workers here can consume, in the topology's order.

    The handlers are those that `celery --app=meshtasks` finds in this environment.
    """
    handlers = mesh_of(find_app("meshtasks")).handlers
    return [queue for queue in topology.domain_queues if queue in handlers]


def _simulator_options(options: Options, *, asks: bool) -> list[str]:
    chosen = [
        "--ask" if asks else "--no-ask",
        f"--rate={options.rate_per_second:g}",
        f"--bad-share={_BAD_SHARE:g}",
        f"--overheat={_HOT_ROOM}",
    ]
    if options.for_seconds is not None:
        chosen.append(f"--for={options.for_seconds:g}")
    return chosen
