"""One engine, an image of the mesh built once, and a stack for each module."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.compose import engine, page
from tests.compose.stack import Stack

_EX_UNAVAILABLE = 69
#: What docker-compose.yml publishes on this machine.
_PORTS = (1883, 3000, 5555, 5671, 5672, 5678, 8086, 8090, 8428, 8780, 8883, 15672)
_FIGURES = pytest.StashKey[list[str]]()

#: Makes a stack of some profiles, which is gone when its context is left.
NewStack = Callable[..., AbstractContextManager[Stack]]


def pytest_sessionstart(session: pytest.Session) -> None:
    """No test here can run, and none may be left out, without an engine."""
    try:
        line = engine.usable(_PORTS)
    except engine.Unusable as reason:
        pytest.exit(f"the stack cannot be tested: {reason}", _EX_UNAVAILABLE)
    session.config.stash[_FIGURES] = [line]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Tell what the stack was made of, and what was measured."""
    terminalreporter.section("the stack")
    for line in config.stash.get(_FIGURES, []):
        terminalreporter.line(line)


@pytest.fixture(scope="session")
def note(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Adds a line to the summary."""

    def note(line: str) -> None:
        if line not in pytestconfig.stash[_FIGURES]:
            pytestconfig.stash[_FIGURES].append(line)

    return note


@pytest.fixture(scope="session")
def image() -> Iterator[str]:
    """Name of the mesh's own image in this run; the first stack builds it."""
    name = f"meshtasks:test-{os.getpid()}"
    yield name
    subprocess.run(["docker", "image", "rm", "--force", name], check=False)


@pytest.fixture(scope="session")
def new_stack(
    image: str, note: Callable[[str], None], tmp_path_factory: pytest.TempPathFactory
) -> NewStack:
    """See :data:`NewStack`."""

    @contextmanager
    def new_stack(*profiles: str) -> Iterator[Stack]:
        directory = tmp_path_factory.mktemp("compose") / "a mesh"
        name = f"meshtest-{directory.parent.name}-{os.getpid()}"
        stack = Stack(directory, name, image, profiles)
        try:
            yield stack
        finally:
            left = stack.remove()
        assert left == []

    return new_stack


def walk(stack: Stack, heading: str) -> str:
    """What the commands of a section of the page write, run as they stand there."""
    return "".join(stack.run(block) for block in page.sections()[heading])


def started(
    stack: Stack, note: Callable[[str], None], label: str, heading: str = "Start"
) -> None:
    """Start a stack as a section of the page says, with the images that the engine has
    or pulls; note what they are, how long it took and how much memory it needs."""
    make_secrets, up = page.sections()["Start"]
    stack.run(make_secrets)
    own = stack.environment["MESH_IMAGE"]
    every = set(stack.compose("--profile", "*", "config", "--images").split())
    assert engine.provide(every - {own}) == [], "neither on the engine nor to be pulled"
    if heading != "Start":
        (up,) = page.sections()[heading]
    begun = time.monotonic()
    stack.run(up)
    seconds = time.monotonic() - begun, stack.wait_until_healthy()
    for name in sorted({each["image"] for each in stack.services().values()} - {own}):
        made_of = engine.stand_in(name)
        note(f"{name}: {f'STAND-IN, {made_of}' if made_of else 'as it was pulled'}")
    memory = stack.memory_mib()
    note(
        f"{label}: up took {seconds[0]:.0f} s, healthy {seconds[1]:.0f} s later; "
        f"{sum(memory.values()):.0f} MiB: "
        + ", ".join(f"{name} {size:.0f}" for name, size in sorted(memory.items()))
    )
