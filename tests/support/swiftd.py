"""Runs in Swift's own environment: makes its rings, or runs one of its servers.

Usage: ``swiftd.py rings DIRECTORY ACCOUNT_PORT CONTAINER_PORT OBJECT_PORT`` or
``swiftd.py account|container|object|proxy DIRECTORY``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from swift.common.ring import RingBuilder  # type: ignore[import-not-found]
from swift.common.utils import set_swift_dir  # type: ignore[import-not-found]
from swift.common.wsgi import run_wsgi  # type: ignore[import-not-found]


def make_rings(directory: Path, ports: dict[str, int]) -> None:
    """Place every account, container and object on the one device there is."""
    for kind, port in ports.items():
        builder = RingBuilder(part_power=2, replicas=1, min_part_hours=0)
        address = {"ip": "127.0.0.1", "port": port}
        replication = {"replication_ip": "127.0.0.1", "replication_port": port}
        place = {"region": 1, "zone": 1, "device": "disk", "weight": 1.0}
        builder.add_dev({**place, **address, **replication})
        builder.rebalance()
        builder.get_ring().save(str(directory / f"{kind}.ring.gz"))


def serve(kind: str, directory: Path) -> int:
    """Run one server until it is told to end; its exit code."""
    # Swift reads /etc/swift/swift.conf unless told otherwise in time.
    set_swift_dir(str(directory))
    options = {}
    if kind == "object":
        # It loads Swift's settings, so it cannot be imported any earlier.
        from swift.obj.server import (  # type: ignore[import-not-found] # noqa: PLC0415
            global_conf_callback,
        )

        options["global_conf_callback"] = global_conf_callback
    conf = str(directory / f"{kind}-server.conf")
    return int(run_wsgi(conf, f"{kind}-server", **options) or 0)


def main(command: str, directory: Path, *ports: str) -> int:
    """Do what the module's docstring says."""
    if command == "rings":
        kinds = ("account", "container", "object")
        make_rings(directory, dict(zip(kinds, map(int, ports), strict=True)))
        return 0
    return serve(command, directory)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:]))
