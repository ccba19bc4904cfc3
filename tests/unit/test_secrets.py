"""Secrets are checked at the start, and are in nothing that the process says."""

from __future__ import annotations

import base64
import html
import json
import logging
import traceback
from pathlib import Path
from urllib.parse import quote

import pytest

from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.cli.doctor import examine
from meshtasks.cli.passwords import make_secrets
from meshtasks.config.environment import env_file_values
from meshtasks.config.settings import load_settings
from meshtasks.errors import ConfigError, SinkUnavailable
from meshtasks.flows.diagnosis import Check, Verdict
from meshtasks.outcome import Retry, outcome_of
from meshtasks.text import keep_secret, masked

VARIABLES = (
    "MESH_BROKER_URL",
    "MESH_INFLUX_TOKEN",
    "MESH_MINIO_ACCESS_KEY",
    "MESH_MINIO_SECRET_KEY",
    "MESH_HASS_TOKEN",
    "MESH_FLOWER_PASSWORD",
    "MESH_API_TOKENS",
    "MESH_SECRETS__N8N",
    "MESH_RECEIVERS__PHONE",
)
#: As text for a variable, and as the bytes of a file.
STRAY = {
    "a line break": "to\nken-8f3a",
    "NUL, as far as a variable can": "to\x01ken-8f3a",
    "a byte order mark": "to\ufeffken-8f3a",
    "half a character": "to\udcffken-8f3a",
}


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No .env is read."""
    monkeypatch.chdir(tmp_path)


def value_for(variable: str, secret: str) -> str:
    match variable:
        case "MESH_BROKER_URL":
            return f"amqp://mesh:{secret}@127.0.0.1:5672/mesh"
        case "MESH_RECEIVERS__PHONE":
            return f"ntfys://mesh:{secret}@push.example.org/topic"
        case "MESH_API_TOKENS":
            return f"n8n:publish:{secret}"
        case _:
            return secret


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("stray", STRAY.values(), ids=STRAY)
@pytest.mark.parametrize("suffix", ["", "_FILE"])
def test_a_secret_that_cannot_be_one_is_refused_by_its_variables_name(
    variable: str,
    stray: str,
    suffix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if variable == "MESH_API_TOKENS" and "\n" in stray:
        stray = stray.replace("\n", "\x00" if suffix else "\x01")  # a list has lines
    value = value_for(variable, stray)
    if suffix:
        file = tmp_path / "secret"
        file.write_bytes(value.encode("utf-8", "surrogateescape"))
        value = str(file)
    monkeypatch.setenv(variable + suffix, value)

    with pytest.raises(ConfigError) as refused:
        load_settings()

    assert refused.value.key == variable + suffix
    assert "8f3a" not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize(
    "around", ["{}\n", " {}\t\r\n", "\ufeff{}\n"], ids=["newline", "blanks", "BOM"]
)
def test_what_is_around_a_secret_is_no_part_of_it(
    variable: str, around: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = value_for(variable, "token-8f3a")
    file = tmp_path / "secret"
    file.write_text(around.format(value), encoding="utf-8")
    found = []
    for name, text in ((variable, around.format(value)), (f"{variable}_FILE", file)):
        with monkeypatch.context() as patched:
            patched.setenv(name, str(text))
            env = load_settings().env
        word = variable.removeprefix("MESH_").lower()
        group, _, member = word.partition("__")
        secret = getattr(env, group)[member] if member else getattr(env, word)
        found.append(secret.get_secret_value())
    assert found == [value, value]


def test_a_file_may_be_named_in_dotenv(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("token-8f3a\n")
    (tmp_path / ".env").write_text("MESH_INFLUX_TOKEN_FILE=token\n")
    assert load_settings().env.influx_token.get_secret_value() == "token-8f3a"


@pytest.mark.parametrize("variable", ["MESH_INFLUX_TOKEN", "MESH_SECRETS__N8N"])
def test_what_is_sent_in_a_header_is_ascii(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "gehügel-8f3a")
    with pytest.raises(ConfigError, match=variable) as refused:
        load_settings()
    assert "8f3a" not in str(refused.value)


def test_a_secret_mistaken_for_its_files_name_is_not_quoted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MESH_INFLUX_TOKEN_FILE", "token-8f3a")
    with pytest.raises(ConfigError, match="MESH_INFLUX_TOKEN_FILE") as refused:
        load_settings()
    assert "8f3a" not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MESH_INFLUX_URL", "http://127.0.0.1:99999"),
        ("MESH_INFLUX_URL", "http://127.0.0.1 :8086"),
        ("MESH_INFLUX_URL", "127.0.0.1:8086"),
        ("MESH_INFLUX_URL", "ftp://127.0.0.1"),
        ("MESH_INFLUX_URL", "http://user:token-8f3a@127.0.0.1"),
        ("MESH_INFLUX_URL", "http://[::1"),
        ("MESH_INFLUX_URL", ""),
        ("MESH_INFLUX_ORG", " "),
        ("MESH_INFLUX_BUCKET", ""),
        ("MESH_N8N_URL", "http://127.0.0.1:0"),
        ("MESH_TRITON_URL", "127.0.0.1:99999"),
        ("MESH_TRITON_URL", "grpc://127.0.0.1:8001"),
        ("MESH_HASS_URL", "http://homeassistant.local:812345"),
        ("MESH_BROKER_URL", "amqp://mesh:token-8f3a@127.0.0.1:99999/mesh"),
        ("MESH_BROKER_URL", "amqp://mesh:token#8f3a@127.0.0.1/mesh"),
        ("MESH_BROKER_URL", "http://127.0.0.1:5672"),
        ("MESH_BROKER_URL", "amqp://mesh:token-8f3a@127.0.0.1 /mesh"),
    ],
)
def test_a_place_that_cannot_be_one_is_refused_at_the_start(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError) as refused:
        load_settings()
    assert refused.value.key == variable
    assert "8f3a" not in "".join(traceback.format_exception(refused.value))


def test_blanks_around_a_place_are_no_part_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MESH_INFLUX_URL", " http://127.0.0.1:8086 ")
    assert load_settings().env.influx_url == "http://127.0.0.1:8086"


# What the process says

PASSWORD = "p/ss wörd@8f3a"
QUOTED = 'p"ss<wörd>8f3a'
SECRETS = {
    "token": ("Zq7token-8f3a", ["Zq7token-8f3a"]),
    "bearer": ("Bearer Zq7token-8f3a", ["Zq7token-8f3a"]),
    "password": (PASSWORD, [PASSWORD, quote(PASSWORD), quote(PASSWORD, safe="")]),
    "quoted": (QUOTED, [json.dumps(QUOTED)[1:-1], html.escape(QUOTED)]),
    "broker": (
        f"amqp://mesh:{quote(PASSWORD, safe='')}@rabbit.lan:5672/mesh",
        [PASSWORD, quote(PASSWORD, safe=""), repr(PASSWORD.encode())[2:-1]],
    ),
    "basic": (
        "http://mesh:Zq7token-8f3a@push.lan",
        ["Zq7token-8f3a", base64.b64encode(b"mesh:Zq7token-8f3a").decode()],
    ),
    "lines": ("n8n:publish:Zq7token-8f3a\no:operate:Yy8token-8f3a", ["Yy8token-8f3a"]),
    "gateway": ("n8n:publish+trigger:Zq7token-8f3a,o:operate:Yy8", ["Zq7token-8f3a"]),
    "telegram": ("tgram://123456:AAHtoken-8f3a/4711", ["AAHtoken-8f3a"]),
    "slack": (
        "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazk",
        ["A1BRTD4JD", "TIiajkdnlazk"],
    ),
    "discord": ("discord://4174216298/JHMHI8qBe7bk2ZwO5U71", ["JHMHI8qBe7bk2ZwO5U71"]),
    "pushover": ("pover://uZq7token8f3a@aAbBcC12345", ["uZq7token8f3a", "aAbBcC12345"]),
    "header": ("json://host.lan/a?+X-Token=geheim8f3a", ["geheim8f3a"]),
}


@pytest.mark.parametrize(("secret", "spelled"), SECRETS.values(), ids=SECRETS)
def test_no_spelling_of_a_secret_is_in_what_is_made_of_an_error(
    secret: str, spelled: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    keep_secret([secret])
    for text in (secret, *spelled):
        said = f"Invalid header value b'{text}'"
        error = ValueError(said)
        outcome = outcome_of(error)
        logging.getLogger("elsewhere").error("%s", error, exc_info=error)
        ours = SinkUnavailable("x", f"it says {error}")
        assert isinstance(outcome, Retry)
        for told in (outcome.reason, outcome.traceback, str(ours), caplog.text):
            assert text not in told
            assert "***" in told


def test_doctor_says_no_secret() -> None:
    keep_secret(["Zq7token-8f3a"])

    def fails() -> Verdict:
        message = "refused: Zq7token-8f3a"
        raise OSError(message)

    checks = [
        Check("raises", fails),
        Check("says", lambda: Verdict("ok", "Zq7token-8f3a", "Zq7token-8f3a")),
    ]
    assert "Zq7token-8f3a" not in str(examine(checks, 5))


def test_names_and_hosts_stay_readable() -> None:
    keep_secret(
        [
            "amqp://guest:guest@127.0.0.1:5672/mesh",
            "ntfy://push.example.org:8080/notifications",
        ]
    )
    text = "guest at 127.0.0.1:5672, alerts.notifications of push.example.org:8080"
    assert masked(text) == text


# The file .env


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"A=1\nMESH_INFLUX_TOKEN=\xff8f3a\n", ""),
        (b"A=1\nMESH_INFLUX_TOKEN='to'ken-8f3a\n", ":2"),
        (b'A="1\nMESH_INFLUX_TOKEN=token-8f3a\n', ":1"),
    ],
    ids=["another encoding", "text behind the quotes", "a stray quote"],
)
def test_a_line_of_dotenv_that_would_be_passed_over_stops_the_start(
    content: bytes, line: str
) -> None:
    Path(".env").write_bytes(content)

    with pytest.raises(ConfigError) as refused:
        load_settings()

    assert str(refused.value).startswith(f".env{line}: ")
    assert "8f3a" not in "".join(traceback.format_exception(refused.value))


def test_secrets_are_added_behind_what_a_person_wrote() -> None:
    env_file = Path(".env")
    written = "# my phone\nexport MINE='a b'\n\nMESH_API_TOKENS=me:operate:8f3a"
    env_file.write_text(written)
    env_file.chmod(0o644)

    made = make_secrets(load_settings().read(TOPOLOGY), ["OTHER"])
    again = make_secrets(load_settings().read(TOPOLOGY), ["OTHER", "NEW_IN_THIS"])

    assert env_file.read_text().startswith(f"{written}\n")
    values = env_file_values(env_file)
    assert values["MESH_API_TOKENS"] == "me:operate:8f3a"
    assert values.keys() > {"MINE", "OTHER", "NEW_IN_THIS", "MESH_BROKER_URL"}
    assert (made.kept, again.new) == (2, 1)
    assert env_file.stat().st_mode & 0o777 == 0o600
