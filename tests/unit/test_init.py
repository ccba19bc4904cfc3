"""``meshtasks init``: what it writes, keeps and refuses."""

from __future__ import annotations

import os
import pty
import select
import shutil
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from dotenv import dotenv_values

from meshtasks.cli import certificates
from meshtasks.cli.answers import host, own_address
from meshtasks.cli.secrets import secrets
from meshtasks.config.environment import SHIPPED_CONFIG
from meshtasks.demo import loopback
from tests.support.certificates import QUICK_KEY
from tests.support.command import Result, script

ROOT = Path(__file__).parents[2]
MESHTASKS = Path(sys.executable).with_name("meshtasks")
#: With Home Assistant; which, depends on the memory of this machine.
SIZES = {"full,homeassistant", "homeassistant,light"}

Init = Callable[..., Result]
#: What makes containers, and other accounts, unable to read, or all able to write.
#: Ctrl-C.
INTERRUPT = b"\x03"
UMASKS = {"nobody else": 0o077, "everybody": 0o000}


@pytest.fixture
def init(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """Runs ``meshtasks init`` in this process, without a terminal."""
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(certificates, "KEY", QUICK_KEY)

    return script(monkeypatch, capsys, "init")


def files(directory: Path) -> dict[str, str]:
    """The content of everything, by path."""
    return {
        str(path.relative_to(directory)): path.read_text(encoding="utf-8")
        for path in sorted(directory.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def values(directory: Path) -> dict[str, str | None]:
    return dotenv_values(directory / ".env")


def test_the_files_are_those_of_the_package(init: Init, tmp_path: Path) -> None:
    directory = tmp_path / "of my house, ä"
    assert init(directory, "--address", "fd00::5").exit_code == 0
    written = files(directory)

    shipped = {f"config/{name}": text for name, text in files(SHIPPED_CONFIG).items()}
    assert {name: written.get(name) for name in shipped} == shipped
    assert written["docker-compose.yml"] == (ROOT / "docker-compose.yml").read_text()
    assert set(written) - set(shipped) == {
        ".env",
        ".mesh/certificates/ca.key",
        ".mesh/compose/certificates/ca.pem",
        ".mesh/compose/certificates/server.pem",
        ".mesh/compose/rabbitmq.json",
        ".mesh/written.json",
        "docker-compose.yml",
    }
    assert values(directory)["MESH_HOST_ADDRESS"] == "[fd00::5]"


@pytest.mark.parametrize("umask", UMASKS.values(), ids=UMASKS)
def test_modes_do_not_depend_on_the_umask(
    init: Init, tmp_path: Path, umask: int
) -> None:
    directory = tmp_path / "mesh"
    before = os.umask(umask)
    try:
        assert init(directory, "--systemd").exit_code == 0
    finally:
        os.umask(before)

    private = {".env", ".mesh", ".mesh/compose", ".mesh/certificates"}
    private |= {".mesh/certificates/ca.key"}
    roles = {f"systemd/{role}.env" for role in ("worker", "producer", "gateway")}
    for path in directory.rglob("*"):
        name = str(path.relative_to(directory))
        mode = stat.S_IMODE(path.stat().st_mode)
        if name in private | roles:
            assert mode & 0o077 == 0, name
        elif name.startswith("config"):
            assert mode == (0o755 if path.is_dir() else 0o644), name
        assert mode & 0o022 == 0, name


def test_a_second_run_changes_nothing(init: Init, tmp_path: Path) -> None:
    init(tmp_path, "--systemd", "--home-assistant", "http://ha.local:8123")
    before = files(tmp_path)
    again = init(tmp_path, "--systemd")
    after = files(tmp_path)

    assert again.exit_code == 0
    assert again.stdout.startswith("0 files written")
    changed = {name for name in before if before[name] != after.get(name)}
    assert changed <= {".mesh/compose/rabbitmq.json"}  # new salts of the same passwords
    assert "meshtasks-homeassistant.service" in again.stdout


def test_what_somebody_changed_is_kept_and_named(init: Init, tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/kinds.yaml").write_text("default_units: {}\n")
    (tmp_path / ".env").write_text("# phone\nMESH_API_TOKENS='me:operate:a b'\nMINE=1")
    (tmp_path / "elsewhere.yaml").write_text("rules: []\n")
    (tmp_path / "config/rules.yaml").symlink_to(tmp_path / "elsewhere.yaml")

    kept = init(tmp_path)
    env = (tmp_path / ".env").read_text()
    forced = init(tmp_path, "--force")

    assert kept.exit_code == forced.exit_code == 0
    assert "config/kinds.yaml: kept" in kept.stdout
    assert "config/rules.yaml: kept" in kept.stdout
    assert env.startswith("# phone\nMESH_API_TOKENS='me:operate:a b'\nMINE=1\nMESH_")
    assert (tmp_path / ".env").read_text() == env
    assert "kept" not in forced.stdout
    shipped = (SHIPPED_CONFIG / "rules.yaml").read_text()
    assert (tmp_path / "elsewhere.yaml").read_text() == shipped
    assert (tmp_path / "config/rules.yaml").is_symlink()


def test_what_nobody_changed_becomes_that_of_the_new_version(
    init: Init, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = tmp_path / "older"
    shutil.copytree(SHIPPED_CONFIG, older / "config")
    for path in older.glob("config/*.yaml"):
        path.write_text(path.read_text() + "# of the older version\n")
    with monkeypatch.context() as before:
        before.setattr("meshtasks.cli.init.SHIPPED_CONFIG", older / "config")
        init(tmp_path / "mesh")
    mine = tmp_path / "mesh/config/rules.yaml"
    mine.write_text(mine.read_text() + "# mine\n")

    done = init(tmp_path / "mesh")

    assert "config/rules.yaml: kept" in done.stdout
    assert done.stdout.count(": kept") == 1
    assert mine.read_text().endswith("# mine\n")
    topology = (tmp_path / "mesh/config/topology.yaml").read_text()
    assert topology == (SHIPPED_CONFIG / "topology.yaml").read_text()


def test_an_option_that_env_contradicts_is_named(init: Init, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MESH_HOST_ADDRESS=mesh.lan\n")

    done = init(tmp_path, "--address", "10.0.0.5")

    assert ".env: MESH_HOST_ADDRESS is kept; change it there" in done.stdout
    assert values(tmp_path)["MESH_HOST_ADDRESS"] == "mesh.lan"


def test_profiles_are_those_of_the_compose_file(init: Init, tmp_path: Path) -> None:
    done = init(
        tmp_path,
        "--profile",
        "ai",
        "--profile",
        "full",
        "--home-assistant",
        "http://[fd00::9]:8123",
    )
    wrong = init(tmp_path / "other", "--profile", "nothing")

    assert done.exit_code == 0
    assert values(tmp_path)["COMPOSE_PROFILES"] == "ai,full,homeassistant"
    assert wrong.exit_code == 2
    assert "not 'nothing'" in wrong.stderr


@pytest.mark.parametrize(
    "options",
    [
        ("--address", "fe80::1%eth0"),
        ("--address", "a b"),
        ("--home-assistant", "homeassistant.local"),
        ("--systemd", "--influx-url", "http://me:8f3a@influx:8086"),
        ("--systemd", "--archive-url", "s3://"),
        ("--systemd", "--archive-url", "file://relative"),
        ("--systemd", "--archive-url", "file:///it's"),
        ("--systemd", "--triton", "grpc://127.0.0.1"),
        ("--systemd", "--profile", "ai"),
        ("--profile", "full", "--profile", "light"),
        ("--profile", "ai", "--profile", "light"),
    ],
    ids=" ".join,
)
def test_a_bad_answer_writes_nothing(
    init: Init, tmp_path: Path, options: tuple[str, ...]
) -> None:
    done = init(tmp_path / "mesh", *options)

    assert done.exit_code == 2, done.stdout + done.stderr
    assert not (tmp_path / "mesh").exists()


def test_what_cannot_be_written_is_named(init: Init, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "half").mkdir()
    (tmp_path / "half/docker-compose.yml").mkdir()

    assert init(tmp_path / "file").exit_code == os.EX_CANTCREAT
    done = init(tmp_path / "half")
    assert done.exit_code == os.EX_CANTCREAT
    assert "docker-compose.yml: cannot be written: Is a directory" in done.stderr
    assert init("/proc/mesh").exit_code == os.EX_CANTCREAT


def test_an_env_file_that_cannot_be_read_is_left_alone(
    init: Init, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("MESH_API_TOKENS='a\nB=c\n")

    done = init(tmp_path)

    assert done.exit_code == 78
    assert ".env:1: " in done.stderr
    assert list(files(tmp_path)) == [".env"]


def test_a_user_without_a_home_gets_units(
    init: Init, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "USER", "LOGNAME"):
        monkeypatch.delenv(name, raising=False)

    done = init(tmp_path, "--user")

    assert done.exit_code == 0
    assert "systemctl --user enable --now meshtasks.target" in done.stdout
    unit = (tmp_path / "systemd/meshtasks-worker@.service").read_text()
    assert "User=" not in unit
    assert "MESH_STATE_DIR" not in values(tmp_path)


def test_a_broker_that_exists_is_used_by_every_role(
    init: Init, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "amqps://me:8f3a%2F@rabbit.lan:5671/house"
    monkeypatch.setenv("MESH_BROKER_URL", url)

    done = init(tmp_path, "--systemd")

    assert done.exit_code == 0
    assert values(tmp_path)["MESH_BROKER_URL"] == url
    assert url in (tmp_path / "systemd/gateway.env").read_text()
    assert "rabbitmq" not in done.stdout
    assert "8f3a" not in done.stdout + done.stderr


def test_roles_follow_a_password_that_is_changed(
    init: Init, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init(tmp_path, "--systemd")
    env_file = tmp_path / ".env"
    lines = env_file.read_text().splitlines()
    kept = [each for each in lines if "PASSWORD_GATEWAY" not in each]
    env_file.write_text("\n".join([*kept, "MESH_BROKER_PASSWORD_GATEWAY=8f3a"]))

    monkeypatch.chdir(tmp_path)
    # This machine may have a broker of its own.
    secrets(management_url=f"http://127.0.0.1:{loopback.free_port()}")

    lines = (tmp_path / "systemd/gateway.env").read_text().splitlines()
    assert 'MESH_BROKER_URL="amqp://gateway:8f3a@127.0.0.1:5672/mesh"' in lines
    assert any(each.startswith('MESH_CONSOLE_BROKER_URL="amqp://op') for each in lines)


def on_a_terminal(directory: Path, *keys: bytes) -> tuple[str, int]:
    """What is shown when these keys are pressed, each at a question, and the exit
    code."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(MESHTASKS, ["meshtasks", "init", str(directory)])
    left, shown = list(keys), b""
    with suppress(OSError):  # Linux says so when the other end is closed
        while True:
            if not select.select([terminal], [], [], 1)[0]:
                # Python may miss one just before it begins to read.
                if not left and b"interrupted" not in shown:
                    os.write(terminal, keys[-1])
                continue
            shown += os.read(terminal, 1024)
            if shown.endswith(b": ") and left:
                os.write(terminal, left.pop(0))
    os.close(terminal)
    return shown.decode(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_on_a_terminal_it_asks_what_no_option_says(tmp_path: Path) -> None:
    keys = (b"nonsense\n", b"http://ha.lan:8123\n", b"\n")
    shown, code = on_a_terminal(tmp_path / "mesh", *keys)

    assert code == 0
    assert "expected a URL such as" in shown
    assert values(tmp_path / "mesh")["MESH_HASS_URL"] == "http://ha.lan:8123"
    assert values(tmp_path / "mesh")["COMPOSE_PROFILES"] in SIZES
    assert values(tmp_path / "mesh")["MESH_HOST_ADDRESS"] == own_address()


def test_an_interruption_leaves_nothing_behind(tmp_path: Path) -> None:
    _, code = on_a_terminal(tmp_path / "mesh", b"\n", INTERRUPT)

    assert code == 130
    assert not (tmp_path / "mesh").exists()


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("192.168.1.5", "192.168.1.5"),
        ("[fd00:0::5]", "[fd00::5]"),
        ("mesh", "mesh"),
        ("mesh.home.arpa", "mesh.home.arpa"),
    ],
)
def test_names_and_addresses(text: str, written: str) -> None:
    assert host(text) == written
