"""Three RabbitMQ nodes on loopback that form a cluster."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from typing_extensions import override

from meshtasks.demo.loopback import HTTPFailed
from meshtasks.demo.process import Process
from meshtasks.demo.rabbitmq import MANAGEMENT, SERVER, Ports, RabbitMQ

_NAMES = ("mesh@localhost", "mesh2@localhost", "mesh3@localhost")


class _CommonPortMapper(Process):
    """The port mapper of another node, which starts and ends it."""

    @override
    def start(self) -> None:
        pass

    @override
    def stop(self, within_seconds: float | None = None) -> int | None:
        return None

    @override
    def kill(self) -> None:
        pass

    @override
    def wait_ready(self, *_: Any) -> None:
        pass


class Node(RabbitMQ):
    """A node of the cluster.

    Args:
        name: Erlang's.
        directory: of its own.
        ports: its own, but for the port mapper's.
    """

    def __init__(self, name: str, directory: Path, ports: Ports) -> None:
        self.name = name
        super().__init__(directory, plugins=(MANAGEMENT,), ports=ports)
        self._epmd = _CommonPortMapper("epmd", ["epmd"], log_path=directory / "epmd")

    @property
    @override
    def environment(self) -> dict[str, str]:
        return {**super().environment, "RABBITMQ_NODENAME": self.name}

    def run(self, script: str, *arguments: str) -> None:
        """Run one of RabbitMQ's scripts (``rabbitmq-queues``, …) on this node."""
        command = [str(SERVER.with_name(script)), *arguments]
        subprocess.run(
            command, env=self.environment, check=True, capture_output=True, timeout=300
        )

    def cut_off(self) -> None:
        """Part it from the others, as a broken network would; clients reach it."""
        self._for_the_others("erlang:set_cookie(N, parted), erlang:disconnect_node(N)")

    def join_again(self) -> None:
        """Let the others reach it again."""
        self._for_the_others("erlang:set_cookie(N, erlang:get_cookie())")

    def _for_the_others(self, expression: str) -> None:
        names = ", ".join(f"'{name}'" for name in _NAMES if name != self.name)
        loop = f"lists:foreach(fun(N) -> {expression} end, [{names}])."
        self.run("rabbitmqctl", "eval", loop)

    @override
    def _write_files(self) -> None:
        super()._write_files()
        conf = self.directory / "conf.d" / "cluster.conf"
        lines = ["peer_discovery_backend = classic_config"]
        # Not the others, for which RabbitMQ 4 would wait.
        for number, name in enumerate(sorted({_NAMES[0], self.name})):
            lines.append(f"classic_config.nodes.{number} = {name}")
        text = "".join(f"cluster_formation.{line}\n" for line in lines)
        text += "cluster_partition_handling = pause_minority\n"
        conf.write_text(text, encoding="ascii")


class Cluster:
    """The nodes, of which the first is there before the others join it.

    Args:
        directory: of all that they keep.
    """

    def __init__(self, directory: Path) -> None:
        common = Ports.free().epmd
        self.nodes = [
            Node(name, directory / name, replace(Ports.free(), epmd=common))
            for name in _NAMES
        ]
        first = self.nodes[0]
        self._epmd = Process(
            "epmd",
            ["epmd"],
            log_path=directory / "epmd.log",
            env={**first.environment, "HOME": str(directory)},
        )
        for name in ("home/.erlang.cookie", "admin.password"):
            secret = first._secret(name)  # noqa: SLF001 - all have the same
            for node in self.nodes[1:]:
                path = node.directory / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(secret, encoding="ascii")
                path.chmod(0o400)

    def urls(self, vhost: str = "/") -> str:
        """``MESH_BROKER_URL``."""
        return ";".join(node.amqp_url(vhost) for node in self.nodes)

    @property
    def management_urls(self) -> str:
        """``MESH_MANAGEMENT_URL``."""
        return ";".join(node.management_url for node in self.nodes)

    def leader_of(self, vhost: str, queue: str) -> Node:
        """The node whose copy of a quorum queue leads, as a node that runs sees it."""
        asked = next(node for node in self.nodes if node.process.running)
        where = f"/queues/{quote(vhost, safe='')}/{quote(queue, safe='')}"
        leader = asked.api("GET", where)["leader"]
        return next(node for node in self.nodes if node.name == leader)

    def all_run(self) -> bool:
        """Whether each node sees each other."""
        try:
            seen = [node.api("GET", "/nodes") for node in self.nodes]
        except (OSError, HTTPFailed):  # one that is parted from most pauses
            return False
        return all(each["running"] for nodes in seen for each in nodes)

    def __enter__(self) -> Self:
        self._epmd.start()
        first, *others = self.nodes
        try:
            first.start()
            _start_together(others)
        except BaseException:
            self.__exit__()
            raise
        return self

    def come_back(self) -> None:
        """Start all that are away, together: each waits for those that went last."""
        _start_together([node for node in self.nodes if not node.process.running])

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.kill()
        self._epmd.kill()


def _start_together(nodes: Iterable[Node]) -> None:
    with ThreadPoolExecutor() as pool:
        list(pool.map(Node.start, nodes))
