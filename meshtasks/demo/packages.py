"""Install the servers that the demo and the tests run, where they are missing.

``python -m meshtasks.demo.packages venv|demo|test|triton`` says nothing and takes no
time when all is there. Otherwise root (or someone with passwordless sudo) gets
the missing packages installed, without a service of theirs being started now or
at boot; anyone else is told the command for an administrator, and the exit code
is 69. Packages come from the system's own archive, Python's from PyPI. What a
release does not have is left out: the demo does without Triton, and the tests that
need it, or a browser, are skipped. Standard library only: it runs before anything
else does, as a file, too.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).absolute().parents[2]
#: What demo and tests unpack: in the clone, or where an installed package runs.
DATA = (ROOT if (ROOT / "pyproject.toml").exists() else Path.cwd()) / ".mesh"
TRITON_REQUIREMENTS = Path(__file__).with_name("requirements-triton.txt")
TRITON_VENV = DATA / "venvs" / "triton"
#: The wheel's own needs, and the newest Python that numpy 1 was built for.
TRITON_GLIBC, TRITON_PYTHON = (2, 35), (3, 12)

#: How long to wait for somebody else who installs packages.
_LOCK_SECONDS = 600

POLICY = Path("/usr/sbin/policy-rc.d")
#: The answer that forbids a package to start its service: exit code 101 is
#: "action forbidden by policy" to Debian's invoke-rc.d.
_POLICY_TEXT = "#!/bin/sh\n# meshtasks, while it installs packages\nexit 101\n"

_UNIT_DIRECTORIES = (Path("/lib/systemd/system"), Path("/usr/lib/systemd/system"))


class InstallFailed(Exception):
    """A package or environment could not be installed; the text says why."""


@dataclass(frozen=True, slots=True)
class Program:
    """A server program, or what one needs, and where it comes from.

    Attributes:
        package: Debian's and Ubuntu's package.
        path: the file, or the name of a program to be looked up on the PATH.
        units: systemd units that its installation enables.
        optional: not every release has the package, and tests are skipped without.
        renamed: what the package is called where the first name is gone.
    """

    package: str
    path: str
    units: tuple[str, ...] = ()
    optional: bool = False
    renamed: str | None = None

    def is_installed(self) -> bool:
        """Whether it is there."""
        if "/" in self.path:
            return Path(self.path).is_file()
        return shutil.which(self.path) is not None

    def candidate(self) -> str | None:
        """Name of the package that this machine's archive has; None if it has none."""
        names = (self.package, self.renamed)
        return next((name for name in names if name and candidate(name)), None)


def python_libraries() -> list[Path]:
    """Directories in which this Python's shared library may be."""
    # Builds that were moved after they were made name a place that is not there.
    own = Path(sys.base_prefix) / "lib"
    return [own, Path(sysconfig.get_config_var("LIBDIR") or own)]


def _python_library() -> Program:
    """The shared library of this Python, in which Triton runs its models; Debian's
    own Python does without, and other builds have no package of it."""
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}"
    files = [directory / f"{name}.so.1.0" for directory in python_libraries()]
    found = next((file for file in files if file.is_file()), files[-1])
    # Ubuntu gave packages another name when times became 64 bits long.
    return Program(name, str(found), optional=True, renamed=f"{name}t64")


def _venv_module() -> Program:
    """What venv needs; Debian's Python comes without. Python of another version than
    the system's, from another archive, has a package of its own."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
    file = Path(sysconfig.get_path("stdlib"), "ensurepip", "__init__.py")
    return Program(name, str(file))


_RABBITMQ = Program(
    "rabbitmq-server",
    "/usr/lib/rabbitmq/bin/rabbitmq-server",
    ("rabbitmq-server.service", "epmd.service", "epmd.socket"),
)
_EXPORTER = "prometheus-node-exporter"
_VICTORIA_METRICS = Program(
    "victoria-metrics", "victoria-metrics", ("victoria-metrics.service",)
)


def postgresql_programs() -> Path | None:
    """Where PostgreSQL's server programs are; None if there are none. Debian has them
    by version and not on the PATH."""
    found = shutil.which("initdb")
    directories = [Path(found).resolve().parent] if found else []
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    directories += sorted(debian, key=lambda path: -float(path.parent.name))
    return next((each for each in directories if (each / "postgres").is_file()), None)


def _postgresql() -> Program:
    programs = postgresql_programs() or Path("/usr/lib/postgresql/0/bin")
    return Program("postgresql", str(programs / "postgres"), ("postgresql.service",))


#: Looks at pages. Ubuntu has it as a snap only.
CHROMIUM = Program("chromium", "chromium", optional=True)

PROGRAMS = {
    "venv": (_venv_module(),),
    "demo": (_RABBITMQ, _VICTORIA_METRICS),
    "test": (
        _RABBITMQ,
        _VICTORIA_METRICS,
        Program("influxdb", "influxd", ("influxdb.service",)),
        Program(_EXPORTER, _EXPORTER, (f"{_EXPORTER}.service",)),
        CHROMIUM,
        Program("curl", "curl"),  # the commands of the documentation, which are run
        _postgresql(),
    ),
    "triton": (_python_library(),),
}


def missing(purpose: str) -> list[Program]:
    """The programs for a purpose of :data:`PROGRAMS` that this machine lacks."""
    return [program for program in PROGRAMS[purpose] if not program.is_installed()]


def candidate(package: str) -> str | None:
    """The version of a package that apt-get would install, of the archive that this
    machine uses; None if it has none, or has not been asked yet."""
    if shutil.which("apt-cache") is None:
        return None
    question = ["apt-cache", "policy", package]
    environment = {**os.environ, "LC_ALL": "C"}
    answer = subprocess.run(  # noqa: S603 - our own command
        question, capture_output=True, check=False, text=True, env=environment
    )
    found = re.search(r"^ *Candidate: (?!\(none\))(\S+)$", answer.stdout, re.MULTILINE)
    return found[1] if found else None


def can_be_had(programs: Sequence[Program]) -> list[Program]:
    """Those that this machine's archive has, and those that it has to have."""
    return [each for each in programs if not each.optional or each.candidate()]


def names_of(programs: Sequence[Program]) -> list[str]:
    """Names of their packages here."""
    return [each.candidate() or each.package for each in programs]


def administrator_command(programs: Sequence[Program]) -> str:
    """The command with which an administrator installs these programs."""
    packages = " ".join(names_of(programs))
    install = f"apt-get install -y --no-install-recommends {packages}"
    return f"sudo sh -c 'apt-get update && {install}'"


def ensure_programs(purpose: str) -> None:
    """Install what is missing for a purpose and can be had, given the right to.

    Raises:
        InstallFailed: it could not be installed; the text says what to do.
    """
    programs = can_be_had(missing(purpose))
    if not programs:
        return
    names = ", ".join(program.package for program in programs)
    if shutil.which("apt-get") is None:
        message = (
            f"this machine lacks {names}, and apt-get to install them with. Install "
            "them in its own way, or use Debian 12, Ubuntu 24.04 or newer"
        )
        raise InstallFailed(message)
    if os.geteuid() == 0:
        install(missing(purpose))
    elif _may_sudo():
        # -I: no module in this directory may stand in for one of Python's own.
        again = ["sudo", "-n", sys.executable, "-I", __file__, purpose, "--as-root"]
        if subprocess.run(again, check=False).returncode != os.EX_OK:  # noqa: S603 - our own command
            message = f"{names} could not be installed"
            raise InstallFailed(message)
    else:
        message = (
            f"this machine lacks {names}. Ask an administrator to run:\n"
            f"{administrator_command(programs)}"
        )
        raise InstallFailed(message)


def install(programs: Sequence[Program], policy: Path = POLICY) -> None:
    """Install programs with apt-get, as root; start none of their services.

    Args:
        programs: what to install; optional ones as far as there are packages.
        policy: see :func:`services_held_back`.

    Raises:
        InstallFailed: apt-get failed; the text carries the end of its output.
    """
    _say(f"installing {', '.join(p.package for p in programs)} (a minute or two)")
    units = [unit for program in programs for unit in program.units]
    units = [unit for unit in units if not _has_unit(unit)]
    apt_get = ["apt-get", "-q", "-y", "-o", f"DPkg::Lock::Timeout={_LOCK_SECONDS}"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    with services_held_back(policy):
        warnings = _update([*apt_get, "update"], environment)
        packages = names_of(can_be_had(programs))
        command = [*apt_get, "install", "--no-install-recommends", *packages]
        try:
            run(command, environment)
        except InstallFailed as error:
            if not warnings:
                raise
            message = f"{error}\napt-get update had said:\n{warnings}"
            raise InstallFailed(message) from error
        new_units = [unit for unit in units if _has_unit(unit)]
        if new_units and shutil.which("systemctl"):
            run(["systemctl", "disable", "--quiet", *new_units], environment)
    _say("installed; the packages' own services stay switched off")


def _update(command: Sequence[str], environment: dict[str, str]) -> str:
    """Run apt-get update; its warnings. It waits for the lock of dpkg, but not for that
    of its lists, which whoever updates them at this time has.

    Raises:
        InstallFailed: it failed, or somebody updates them all the time.
    """
    deadline = time.monotonic() + _LOCK_SECONDS
    for attempt in itertools.count():
        try:
            output = run(command, environment)
        except InstallFailed as error:
            if "/lock" not in str(error) or time.monotonic() > deadline:
                raise
            if not attempt:
                _say("another program is updating or installing packages: waiting")
            time.sleep(1)
        else:
            break
    return "\n".join(line for line in output.splitlines() if line[:2] in {"W:", "E:"})


@contextmanager
def services_held_back(policy: Path) -> Iterator[None]:
    """No package starts a service on installation, as long as this lasts; whoever else
    wants the same waits.

    Args:
        policy: the program that Debian's invoke-rc.d asks for permission. One
            that the machine has already is left alone.
    """
    directory = os.open(policy.parent, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        # Ours may have been left behind by a run that was killed.
        has = policy.read_text(errors="replace") if policy.exists() else _POLICY_TEXT
        if has != _POLICY_TEXT:
            yield
            return
        try:
            policy.write_text(_POLICY_TEXT)
            policy.chmod(0o755)
            yield
        finally:
            policy.unlink(missing_ok=True)
    finally:
        os.close(directory)


def triton_unavailable() -> str | None:
    """Why Triton Inference Server does not run on a machine such as this; None if it
    does."""
    machine = f"{platform.system()} on {platform.machine()}"
    library, version = platform.libc_ver()
    glibc = tuple(int(part) for part in version.split(".")) if version else ()
    if machine != "Linux on x86_64":
        return f"it needs Linux on x86_64, and this is {machine}"
    if library != "glibc" or glibc < TRITON_GLIBC:
        needed = ".".join(map(str, TRITON_GLIBC))
        return f"it needs glibc {needed}, and this is {library} {version}"
    if sys.version_info[:2] > TRITON_PYTHON:
        newest = ".".join(map(str, TRITON_PYTHON))
        return f"its models need Python {newest} or older"
    return None


def ensure_triton() -> None:
    """Make the virtual environment of Triton Inference Server, if need be.

    Raises:
        InstallFailed: venv or pip failed; the text carries the end of its output.
    """
    what = "Triton Inference Server (55 MB)"
    # Its other dependencies are for an interface that is not used here.
    ensure_venv(TRITON_VENV, TRITON_REQUIREMENTS, what, "--no-deps")


def ensure_venv(
    venv: Path, requirements: Path, what: str, *options: str, hashed: bool = True
) -> None:
    """Make a virtual environment, unless it is there and still what is wanted.

    Args:
        venv: its directory; replaced when the requirements or the interpreter that
            it was made for are others now.
        requirements: of pip.
        what: is installed, for people who wait for it.
        options: further ones of ``pip install``.
        hashed: the requirements have hashes, and nothing without one is installed.

    Raises:
        InstallFailed: venv or pip failed; the text carries the end of its output.
    """
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    wanted = f"{digest} {sys.base_prefix} {sys.version_info[:2]}\n"
    ready = venv / ".ready"
    if ready.exists() and ready.read_text() == wanted:
        return
    _say(f"installing {what}")
    run([sys.executable, "-m", "venv", "--clear", str(venv)])
    pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    pip += ["--disable-pip-version-check", *options]
    pip += ["--require-hashes"] if hashed else []
    run([*pip, "-r", str(requirements)])
    ready.write_text(wanted)


def main(arguments: Sequence[str]) -> int:
    """Make sure that everything for a purpose is there.

    Returns:
        The process's exit code, of sysexits.h.
    """
    purpose, *rest = arguments or [""]
    if purpose not in PROGRAMS or rest not in ([], ["--as-root"]):
        _say("usage: python -m meshtasks.demo.packages venv|demo|test|triton")
        return os.EX_USAGE
    try:
        ensure_programs(purpose)
        # An ordinary user's environment is not made by root.
        if not rest:
            _ensure_environments(purpose)
    except InstallFailed as error:
        _say(str(error))
        return os.EX_UNAVAILABLE
    return os.EX_OK


def _ensure_environments(purpose: str) -> None:
    """What is not a package of the system's."""
    is_asked_for = purpose == "triton"
    if purpose == "venv" or not (is_asked_for or triton_unavailable() is None):
        return  # the demo says so itself
    try:
        if not is_asked_for:
            ensure_programs("triton")
        ensure_triton()
    except InstallFailed as error:
        if purpose != "demo":
            raise
        _say(f"{error}\nThe demo runs without Triton Inference Server")


def _may_sudo() -> bool:
    question = ["sudo", "-n", "true"]
    return shutil.which("sudo") is not None and (
        subprocess.run(question, capture_output=True, check=False).returncode == 0  # noqa: S603 - our own command
    )


def run(
    command: Sequence[str],
    environment: dict[str, str] | None = None,
    directory: Path | None = None,
) -> str:
    """Run a command of an installation; its output.

    Args:
        environment: its variables; None for those of this process.
        directory: where; None for here.

    Raises:
        InstallFailed: it failed; the text carries the end of its output.
    """
    done = subprocess.run(  # noqa: S603 - our own command
        command,
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        end = "\n".join(done.stdout.splitlines()[-20:])
        message = f"{' '.join(command)}: exit code {done.returncode}\n{end}"
        raise InstallFailed(message)
    return done.stdout


def _has_unit(name: str) -> bool:
    return any((directory / name).exists() for directory in _UNIT_DIRECTORIES)


def _say(text: str) -> None:
    sys.stderr.write(f"meshtasks: {text}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
