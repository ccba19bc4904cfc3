"""Install missing servers for the demo and the tests.

``python -m meshtasks.demo.packages venv|demo|test|triton`` prints nothing and ends at
once if nothing is missing. As root, or with passwordless sudo, it installs the missing
packages, without starting or enabling their services. For other users it prints the
command for an administrator and exits with 69. System packages come from the archives
that the machine uses, Python packages from PyPI. Optional packages that a release does
not have are left out: the demo then runs without Triton, and tests that need Triton or
a browser are skipped.

Standard library only: it also runs as a file, before any virtual environment exists.
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
#: Directory for installed environments: in the clone, else in the current directory.
DATA = (ROOT if (ROOT / "pyproject.toml").exists() else Path.cwd()) / ".mesh"
TRITON_REQUIREMENTS = Path(__file__).with_name("requirements-triton.txt")
TRITON_VENV = DATA / "venvs" / "triton"
#: Oldest glibc of the wheel, and newest Python for which numpy 1 was built.
TRITON_GLIBC, TRITON_PYTHON = (2, 35), (3, 12)

#: Longest wait for another program that installs packages.
_LOCK_SECONDS = 600

POLICY = Path("/usr/sbin/policy-rc.d")
#: Script that forbids packages to start their services: exit code 101 means "action
#: forbidden by policy" to Debian's invoke-rc.d.
_POLICY_TEXT = "#!/bin/sh\n# meshtasks, while it installs packages\nexit 101\n"

_UNIT_DIRECTORIES = (Path("/lib/systemd/system"), Path("/usr/lib/systemd/system"))


class InstallFailed(Exception):
    """A package or environment could not be installed; the text gives the reason."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program or library, and the package that contains it.

    Attributes:
        package: its package in Debian and Ubuntu.
        path: path of the file, or name of a program on the PATH.
        units: systemd units that the package enables.
        optional: whether some releases lack the package; then tests are skipped.
        renamed: name of the package in releases without the first name.
    """

    package: str
    path: str
    units: tuple[str, ...] = ()
    optional: bool = False
    renamed: str | None = None

    def is_installed(self) -> bool:
        """Return whether the file or program exists."""
        if "/" in self.path:
            return Path(self.path).is_file()
        return shutil.which(self.path) is not None

    def candidate(self) -> str | None:
        """Return the package's name in this machine's archives, if they have it."""
        names = (self.package, self.renamed)
        return next((name for name in names if name and candidate(name)), None)


def python_libraries() -> list[Path]:
    """Return the directories that may contain this Python's shared library."""
    # LIBDIR is wrong in builds that were moved after compilation.
    own = Path(sys.base_prefix) / "lib"
    return [own, Path(sysconfig.get_config_var("LIBDIR") or own)]


def _python_library() -> Program:
    """Return the shared library of this Python, which Triton's models need. Debian's
    Python does not need it, and other builds have no package of it."""
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}"
    files = [directory / f"{name}.so.1.0" for directory in python_libraries()]
    found = next((file for file in files if file.is_file()), files[-1])
    # Ubuntu renamed packages when it changed times to 64 bits.
    return Program(name, str(found), optional=True, renamed=f"{name}t64")


def _venv_module() -> Program:
    """Return the module that venv needs, which Debian packages separately. Each version
    of Python has a package of its own."""
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
    """Return the directory of PostgreSQL's server programs, if there is one. Debian has
    one per version, not on the PATH."""
    found = shutil.which("initdb")
    directories = [Path(found).resolve().parent] if found else []
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    directories += sorted(debian, key=lambda path: -float(path.parent.name))
    return next((each for each in directories if (each / "postgres").is_file()), None)


def _postgresql() -> Program:
    programs = postgresql_programs() or Path("/usr/lib/postgresql/0/bin")
    return Program("postgresql", str(programs / "postgres"), ("postgresql.service",))


#: For tests of web pages. Ubuntu has Chromium only as a snap.
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
        Program("curl", "curl"),  # used in commands of the documentation
        _postgresql(),
    ),
    "triton": (_python_library(),),
}


def missing(purpose: str) -> list[Program]:
    """Return the programs of a purpose in :data:`PROGRAMS` that are not installed."""
    return [program for program in PROGRAMS[purpose] if not program.is_installed()]


def candidate(package: str) -> str | None:
    """Return the version of a package that apt-get would install. None means that the
    archives do not have it, or that their lists were never loaded."""
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
    """Return the programs that the archives have, and all that are not optional."""
    return [each for each in programs if not each.optional or each.candidate()]


def names_of(programs: Sequence[Program]) -> list[str]:
    """Return the names of their packages on this machine."""
    return [each.candidate() or each.package for each in programs]


def administrator_command(programs: Sequence[Program]) -> str:
    """Return the command with which an administrator installs these programs."""
    packages = " ".join(names_of(programs))
    install = f"apt-get install -y --no-install-recommends {packages}"
    return f"sudo sh -c 'apt-get update && {install}'"


def ensure_programs(purpose: str) -> None:
    """Install the missing programs of a purpose, as root or with sudo.

    Raises:
        InstallFailed: they could not be installed; the text says what to do.
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
        # -I: no module in this directory may shadow one of the standard library.
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
    """Install programs with apt-get, as root, without starting their services.

    Args:
        programs: to install; optional ones only if there are packages.
        policy: see :func:`services_held_back`.

    Raises:
        InstallFailed: apt-get failed; the text has the end of its output.
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
    """Run apt-get update and return its warnings.

    apt-get waits for the lock of dpkg, but not for the lock of its package lists, so
    this function waits for the latter.

    Raises:
        InstallFailed: it failed, or the lists stayed locked.
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
    """Prevent packages from starting services when they are installed.

    Only one process can do this at a time; others wait.

    Args:
        policy: script that Debian's invoke-rc.d asks for permission. An existing one
            of the machine is not changed.
    """
    directory = os.open(policy.parent, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        # A run that was killed may have left this program's own script.
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
    """Return why this machine cannot run Triton Inference Server; None if it can."""
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
    """Create the virtual environment of Triton Inference Server, if necessary.

    Raises:
        InstallFailed: venv or pip failed; the text has the end of the output.
    """
    what = "Triton Inference Server (55 MB)"
    # Triton's other dependencies are for an interface that is not used.
    ensure_venv(TRITON_VENV, TRITON_REQUIREMENTS, what, "--no-deps")


def ensure_venv(
    venv: Path, requirements: Path, what: str, *options: str, hashed: bool = True
) -> None:
    """Create a virtual environment, unless it exists and is up to date.

    Args:
        venv: its directory; replaced if requirements or interpreter have changed.
        requirements: a requirements file of pip.
        what: name of the content, for the user.
        options: further options of ``pip install``.
        hashed: whether all requirements have hashes, which pip then checks.

    Raises:
        InstallFailed: venv or pip failed; the text has the end of the output.
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
    """Install everything for a purpose.

    Args:
        arguments: of the command line.

    Returns:
        The exit code of the process, from sysexits.h.
    """
    purpose, *rest = arguments or [""]
    if purpose not in PROGRAMS or rest not in ([], ["--as-root"]):
        _say("usage: python -m meshtasks.demo.packages venv|demo|test|triton")
        return os.EX_USAGE
    try:
        ensure_programs(purpose)
        # Root must not create the environment of an ordinary user.
        if not rest:
            _ensure_environments(purpose)
    except InstallFailed as error:
        _say(str(error))
        return os.EX_UNAVAILABLE
    return os.EX_OK


def _ensure_environments(purpose: str) -> None:
    is_asked_for = purpose == "triton"
    if purpose == "venv" or not (is_asked_for or triton_unavailable() is None):
        return  # the demo reports that Triton is unavailable
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
    """Run a command of an installation and return its output.

    Args:
        command: program and arguments.
        environment: environment variables; None for those of this process.
        directory: working directory; None for the current one.

    Raises:
        InstallFailed: it failed; the text has the end of the output.
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
