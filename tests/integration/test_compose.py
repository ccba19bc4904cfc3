"""docker-compose.yml, as far as it can be tested without a Docker engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections import Counter
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.demo import loopback
from meshtasks.gateway.clients import Tokens
from tests.peers import n8n
from tests.support.compose import read_services
from tests.support.unpacked import COMPOSE
from tests.support.worker import MESHTASKS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
SIZES = ("full", "light")
PROFILES = ("full", "ai", "demo", "homeassistant", "s3", "tls")
#: What may be chosen together; .env, as it is made, chooses the first.
CHOICES = [
    ("full",),
    ("light",),
    PROFILES,
    *(("full", extra) for extra in PROFILES[1:]),
    *(("light", extra) for extra in ("demo", "homeassistant", "s3", "tls")),
]
#: What a user may set and need not.
OPTIONAL = {
    "MESH_STATE_URL",
    "MESH_ARCHIVE_URL",
    "MESH_HOST_ADDRESS",
    "MESH_HASS_TOKEN",
    "MESH_HASS_URL",
    "MESH_IMAGE",
    "MESH_LINKS__FLOWER",
    "MESH_LINKS__GRAFANA",
    "MESH_LINKS__RABBITMQ",
    "MESH_MINIO_ENDPOINT",
    "MESH_RECEIVERS__MAIL",
    "MESH_RECEIVERS__PHONE",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what compose reads, with its secrets made."""
    directory = tmp_path_factory.mktemp("compose")
    shutil.copy(ROOT / "docker-compose.yml", directory)
    shutil.copytree(ROOT / "config", directory / "config")
    subprocess.run(
        [MESHTASKS, "secrets"],
        cwd=directory,
        check=True,
        timeout=300,
    )
    return directory


def compose(
    project: Path, *profiles: str, command: tuple[str, ...] = ("config", "-q")
) -> subprocess.CompletedProcess[str]:
    chosen = [part for profile in profiles for part in ("--profile", profile)]
    return subprocess.run(
        [COMPOSE.program, *chosen, *command],
        cwd=project,
        env={"PATH": os.environ["PATH"], "HOME": str(project)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture(scope="module")
def services(project: Path) -> dict[str, Any]:
    """All services, as we read the file."""
    return read_services(project)


@pytest.mark.usefixtures("docker_compose")
def test_docker_compose_reads_the_file_as_we_do(
    project: Path, services: dict[str, Any]
) -> None:
    answer = compose(
        project, "light", "tools", *PROFILES, command=("config", "--format", "json")
    )
    assert answer.returncode == 0, answer.stderr
    # What it shows could be read once more: each $ is $$.
    text = answer.stdout.replace("$$", "$")
    theirs: dict[str, Any] = json.loads(text)["services"]

    assert services.keys() == theirs.keys()
    for name, ours in services.items():
        for key in ("ports", "volumes"):
            seen = theirs[name].get(key, [])
            for mine, other in zip(ours.get(key, []), seen, strict=True):
                # Compose shows what is so by default in one version and not in another.
                shown = {each: mine[each] for each in mine if each != "bind"}
                assert shown.items() <= other.items(), name
        for key in ("command", "image", "restart", "environment"):
            assert ours.get(key) == theirs[name].get(key), name


@pytest.mark.usefixtures("docker_compose")
@pytest.mark.parametrize("profiles", [(), *CHOICES])
def test_docker_compose_starts_what_we_say_with_every_choice(
    project: Path, services: dict[str, Any], profiles: tuple[str, ...]
) -> None:
    answer = compose(project, *profiles, command=("config", "--services"))
    assert answer.returncode == 0, answer.stderr
    expected = chosen(services, *(profiles or ("full",)))
    assert set(answer.stdout.split()) == set(expected)


@pytest.mark.usefixtures("docker_compose")
@pytest.mark.parametrize("profiles", [("demo",), ("ai",), ("light", "ai")])
def test_what_has_no_size_that_fits_is_refused(
    project: Path, profiles: tuple[str, ...]
) -> None:
    # Compose 2.24 lets `config` alone pass, and refuses at `up`, as here.
    assert compose(project, *profiles, command=("config", "--services")).returncode != 0


@pytest.mark.parametrize(
    "profiles", ["full,light", "light,demo,full", "tls,light,full"]
)
def test_both_sizes_are_refused_in_a_sentence(
    services: dict[str, Any], profiles: str
) -> None:
    done = subprocess.run(
        services["check"]["command"],
        env={"PATH": os.environ["PATH"], "COMPOSE_PROFILES": profiles},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 78
    assert done.stderr.count("\n") == 1
    assert "full and light" in done.stderr


def chosen(services: dict[str, Any], *profiles: str) -> dict[str, Any]:
    """The services of these profiles."""
    return {
        name: service
        for name, service in services.items()
        if not (of := service.get("profiles")) or {*of} & {*profiles}
    }


@pytest.mark.usefixtures("docker_compose")
def test_without_secrets_it_says_how_to_make_them(tmp_path: Path) -> None:
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)

    answer = compose(tmp_path)

    assert answer.returncode != 0
    assert "run make secrets" in answer.stderr


def test_every_variable_is_made_by_make_secrets_or_optional(project: Path) -> None:
    made = {
        line.partition("=")[0] for line in (project / ".env").read_text().splitlines()
    }
    assert set(re.findall(r"\$\{(\w+)", TEXT)) <= made | OPTIONAL


def test_the_file_holds_no_password() -> None:
    secret = re.compile(r"(PASSWORD|TOKEN|KEY|AUTH)\w*(?<!_FILE): (?!\$\{)\S")
    assert not [line for line in TEXT.splitlines() if secret.search(line)]


def test_every_file_that_is_mounted_exists(services: dict[str, Any]) -> None:
    missing = [
        volume["source"]
        for service in services.values()
        for volume in service.get("volumes", ())
        if volume["type"] == "bind" and not Path(volume["source"]).exists()
    ]
    assert not missing


def test_a_mount_that_is_missing_is_an_error_and_no_directory_of_roots(
    services: dict[str, Any],
) -> None:
    made = [
        volume["source"]
        for service in services.values()
        for volume in service.get("volumes", ())
        if volume["type"] == "bind"
        and volume["source"] != "/"
        and volume.get("bind", {}).get("create_host_path") is not False
    ]
    assert not made


def test_nothing_is_scraped_that_does_not_run(services: dict[str, Any]) -> None:
    text = (ROOT / "config/prometheus/scrape.yaml").read_text(encoding="utf-8")
    jobs = {job["job_name"]: job for job in yaml.safe_load(text)["scrape_configs"]}
    (found,) = jobs["meshtasks"]["dns_sd_configs"]
    shown = {
        name
        for name, service in services.items()
        if "worker" in (service.get("command") or ())
    }
    assert set(found["names"]) == shown
    assert found["port"] == 9151
    token = jobs["gateway"]["authorization"]["credentials"]
    assert token == "%{MESH_METRICS_TOKEN}"
    assert "MESH_METRICS_TOKEN" in services["victoriametrics"]["environment"]
    Tokens(services["gateway"]["environment"]["MESH_API_TOKENS"])


def test_no_two_services_want_the_same_port(services: dict[str, Any]) -> None:
    ports = Counter(
        port["published"]
        for service in services.values()
        for port in service.get("ports", ())
    )
    assert [port for port, count in ports.items() if count > 1] == []


def test_only_tls_and_ntfy_are_open_to_other_machines(services: dict[str, Any]) -> None:
    always = {"5671", "8883", "8090"}
    assert opened(chosen(services, *PROFILES)) == always | {
        "3443",
        "5443",
        "8443",
        "8490",
    }
    assert opened(chosen(services, *(set(PROFILES) - {"tls"}))) == always


def test_mqtt_in_clear_is_open_if_that_is_chosen_or_was_so(tmp_path: Path) -> None:
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)
    run = partial(subprocess.run, cwd=tmp_path, check=True, timeout=300)
    # This machine may have a broker of its own.
    nobody = f"http://127.0.0.1:{loopback.free_port()}"
    secrets = (MESHTASKS, "secrets", "--management-url", nobody)
    shutil.copytree(ROOT / "config", tmp_path / "config")
    env_file = tmp_path / ".env"

    run(secrets)
    assert "1883" not in opened(read_services(tmp_path))
    made = env_file.read_text()
    assert "MESH_MQTT_ADDRESS=127.0.0.1\n" in made
    env_file.write_text(made.replace("MESH_MQTT_ADDRESS=127.0.0.1\n", ""))
    run(secrets)  # as made before there was TLS
    assert "1883" in opened(read_services(tmp_path))


def test_the_proxy_listens_where_it_is_published(services: dict[str, Any]) -> None:
    caddyfile = (ROOT / "config/caddy/Caddyfile").read_text(encoding="utf-8")
    sites = re.findall(
        r"^:(\d+) \{\s+tls \S+ \S+\s+reverse_proxy (\w+):(\d+)", caddyfile, re.MULTILINE
    )
    assert {port for port, _, _ in sites} == opened({"proxy": services["proxy"]})
    for _, service, port in sites:
        assert port in {str(each["target"]) for each in services[service]["ports"]}


def opened(services: dict[str, Any]) -> set[str]:
    """The ports that services open to other machines."""
    return {
        port["published"]
        for service in services.values()
        for port in service.get("ports", ())
        if port.get("host_ip") != "127.0.0.1"
    }


@pytest.mark.parametrize("profiles", CHOICES)
def test_every_queue_has_one_worker_and_no_model_is_asked_in_vain(
    services: dict[str, Any], profiles: tuple[str, ...]
) -> None:
    settings = Settings(Environment(config_dir=ROOT / "config"))
    queues = {queue.name for queue in settings.read(TOPOLOGY).queues}
    queues -= {"dead.letter.queue", "devices"}
    commands = [
        service.get("command") or [] for service in chosen(services, *profiles).values()
    ]
    consumed = Counter(
        queue
        for command in commands
        if "worker" in command
        for queue in (
            command[command.index("-Q") + 1].split(",") if "-Q" in command else queues
        )
    )
    of_models = {queue for queue in queues if queue.startswith("ai.")}
    has_models = "ai" in profiles or "light" in profiles
    assert consumed == Counter(queues if has_models else queues - of_models)
    for command in commands:
        if "simulator" in command:
            sent = {
                domain for option, domain in pairwise(command) if option == "--domain"
            }
            assert sent == {"sensors", "home", "metrics"}


def test_one_service_makes_the_image_and_no_other_pulls_it(
    services: dict[str, Any],
) -> None:
    mine = {
        name: service
        for name, service in services.items()
        if service["image"].startswith("meshtasks:")
    }
    makers = [name for name, service in mine.items() if "build" in service]
    assert makers == ["check"]
    assert {mine.pop("check")["pull_policy"]} == {"missing"}  # no clone is here
    assert {service["pull_policy"] for service in mine.values()} == {"never"}
    mine.pop("tools")  # for whoever runs it, while the others run
    for name, service in mine.items():
        needed = service["depends_on"]["check"]["condition"]
        assert needed == "service_completed_successfully", name


def test_a_clone_makes_its_image_anew(project: Path, tmp_path: Path) -> None:
    shutil.copy(project / "docker-compose.yml", tmp_path)
    lines = (project / ".env").read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith("MESH_PULL_POLICY=")]
    (tmp_path / ".env").write_text("".join(kept))
    assert read_services(tmp_path)["check"]["pull_policy"] == "build"


def test_workers_and_producers_keep_their_names(services: dict[str, Any]) -> None:
    for name, service in services.items():
        command = service.get("command") or []
        if "worker" in command or "meshtasks.producers" in command:
            assert service.get("hostname") or service["network_mode"] == "host", name


#: The oldest version that may be pinned: what is supported, has no known critical
#: advisory, and does what the mesh needs.
OLDEST = {
    "dxflrs/garage": (2, 3),
    "binwiederhier/ntfy": (2, 16),  # replaces a notification
    "grafana/grafana": (13, 2),
    "caddy": (2, 11),
    "influxdb": (2, 9),
    "n8nio/n8n": (2, 0),
    "nvcr.io/nvidia/tritonserver": (26, 7),
    "rabbitmq": (4, 2),
    "victoriametrics/victoria-metrics": (1, 150),
}


def test_images_of_others_are_as_new_as_they_have_to_be(
    services: dict[str, Any],
) -> None:
    pinned = {}
    for service in services.values():
        name, _, tag = service["image"].rpartition(":")
        if name != "meshtasks":
            pinned[name] = tuple(map(int, re.findall(r"\d+", tag)))
    assert pinned.keys() == OLDEST.keys()
    assert not [name for name, oldest in OLDEST.items() if pinned[name] < oldest]


def test_n8n_is_the_one_that_the_peers_tests_run(services: dict[str, Any]) -> None:
    assert services["n8n"]["image"].split(":")[1] == n8n.VERSION.split("@")[1]


def test_images_are_pinned_and_memory_is_limited(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert re.fullmatch(r".+:(?!latest).+", service["image"]), name
        assert service["deploy"]["resources"]["limits"]["memory"], name


def test_what_stays_up_is_watched_and_started_again(services: dict[str, Any]) -> None:
    once = {name for name, each in services.items() if each["restart"] == "no"}
    producers = {
        name
        for name, each in services.items()
        if "meshtasks.producers" in (each.get("command") or [])
    }
    watched = {
        name for name, each in services.items() if "test" in each.get("healthcheck", ())
    }
    assert once == {"bucket", "check", "influxdb-tokens", "tools"}
    assert watched == set(services) - once - producers
