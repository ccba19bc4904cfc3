"""Serves a worker's metrics to Prometheus."""

from __future__ import annotations

import os
import threading

from celery.utils.log import get_logger
from prometheus_client import CollectorRegistry, start_http_server

from meshtasks.config.environment import Environment

logger = get_logger(__name__)

_AGAIN_SECONDS = 5.0


class Exposition:
    """An HTTP page with the metrics, on the first free of some ports.

    When none is free it is tried again every few seconds: a worker that is being
    replaced holds its port until it has finished what it has. Metrics are never a
    reason to consume nothing.

    Args:
        registry: the metrics.
        env: says where to listen; without a port there is no page.
    """

    def __init__(self, registry: CollectorRegistry, env: Environment) -> None:
        self._registry = registry
        self._host = env.metrics_host
        self._ports = env.metrics_ports
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="mesh-metrics", daemon=True
        )

    def start(self) -> None:
        """Start to serve, if it does not yet and there are ports."""
        if self._ports and not self._thread.is_alive():
            self._thread.start()

    def stop(self) -> None:
        """Free the port."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        said = False
        while (fault := self._serve()) is not None:
            if not said:
                logger.error(
                    "No metrics yet: no port of MESH_METRICS_PORT can be listened "
                    "on at %s: %s",
                    self._host,
                    fault,
                )
                said = True
            if self._stopping.wait(_AGAIN_SECONDS):
                return

    def _serve(self) -> OSError | None:
        """Serve until stopped; why not, if no port can be used."""
        fault: OSError | None = None
        for port in self._ports:
            try:
                server, thread = start_http_server(port, self._host, self._registry)
            except OSError as error:
                fault = error
                continue
            # a pool process that is forked later must not keep the port
            os.register_at_fork(after_in_child=server.socket.close)
            logger.info("Metrics at http://%s:%d/metrics", *server.server_address)
            self._stopping.wait()
            server.shutdown()
            server.server_close()
            thread.join()
            return None
        return fault
