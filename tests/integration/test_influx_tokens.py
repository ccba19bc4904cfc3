"""``meshtasks influxdb``, against a stand-in for InfluxDB 2's owner's API."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from meshtasks.config.environment import Environment
from meshtasks.demo import loopback
from tests.support.command import Result, command
from tests.support.influx_owner import BUCKET, InfluxOwner

TOKEN = "the owner's own"


class Tokens:
    """The command, and the files that it writes."""

    def __init__(self, directory: Path) -> None:
        self.worker = directory / "worker/influx-token"
        self.reader = directory / "grafana/influx-token"

    def make(
        self,
        url: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        token: str = TOKEN,
    ) -> Result:
        """Run it."""
        env = Environment(influx_url=url, influx_admin_token=SecretStr(token))
        run = command(env, monkeypatch, capsys)
        files = ("--worker-file", self.worker, "--reader-file", self.reader)
        return run("influxdb", *files, "--wait", 0)


@pytest.fixture
def tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tokens:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    return Tokens(tmp_path)


def test_each_token_is_good_for_one_bucket_and_no_more(
    tokens: Tokens, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with InfluxOwner(TOKEN) as influx:
        done = tokens.make(influx.url, monkeypatch, capsys)
    by_token = {each["token"]: each for each in influx.authorizations.values()}
    rights = [
        {
            (each["action"], each["resource"]["type"], each["resource"]["id"])
            for each in by_token[file.read_text()]["permissions"]
        }
        for file in (tokens.worker, tokens.reader)
    ]

    assert done.exit_code == 0, done.stderr
    reads, writes = (("read", "buckets", BUCKET), ("write", "buckets", BUCKET))
    assert rights == [{reads, writes}, {reads}]
    assert all(token not in done.stdout + done.stderr for token in by_token)
    modes = {file.stat().st_mode & 0o777 for file in (tokens.worker, tokens.reader)}
    assert modes == {0o644}


@pytest.mark.parametrize("hashes", [False, True])
def test_a_token_that_works_is_kept_and_one_that_was_lost_is_replaced(
    tokens: Tokens,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    hashes: bool,
) -> None:
    with InfluxOwner(TOKEN) as influx:
        influx.hashes = hashes
        tokens.make(influx.url, monkeypatch, capsys)
        first = (tokens.worker.read_text(), tokens.reader.read_text())
        tokens.make(influx.url, monkeypatch, capsys)
        assert (tokens.worker.read_text(), tokens.reader.read_text()) == first

        tokens.worker.unlink()
        tokens.make(influx.url, monkeypatch, capsys)

    assert tokens.worker.read_text() != first[0]
    kept = {each["token"] for each in influx.authorizations.values()}
    assert kept == {TOKEN, tokens.worker.read_text(), first[1]}


@pytest.mark.parametrize(
    ("token", "bucket", "said"),
    [("wrong", "mesh", "answers with 401"), (TOKEN, "other", "bucket mesh")],
)
def test_a_refusal_says_what_is_wrong(
    tokens: Tokens,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    token: str,
    bucket: str,
    said: str,
) -> None:
    with InfluxOwner(TOKEN, bucket=bucket) as influx:
        done = tokens.make(influx.url, monkeypatch, capsys, token)

    assert done.exit_code == 78
    assert said in done.stderr
    assert not tokens.worker.exists()


def test_an_influxdb_that_does_not_answer_is_named(
    tokens: Tokens, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"http://{loopback.HOST}:{loopback.free_port()}"
    done = tokens.make(url, monkeypatch, capsys)
    assert done.exit_code == 69
    assert url in done.stderr
