"""What commands print steers no terminal, and no spreadsheet."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import textwrap
import threading

import duckdb
import pytest

from meshtasks.cli import main
from meshtasks.cli.query import _interruptible
from meshtasks.cli.terminal import say
from meshtasks.observation.query_result import Result, write_csv, write_json
from meshtasks.text import printable

#: Clears the screen, moves the cursor, sets a title, rings, runs text backwards.
HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b31m\r\u202e\x00\u2028"


def test_what_steers_a_terminal_is_spelled(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"before {HOSTILE} after\tand\nbelow")
    out = capsys.readouterr().out
    assert out == (
        "before \\u001b[2J\\u001b]0;owned\\u0007\\u009b31m\\u000d\\u202e\\u0000"
        "\\u2028 after\tand\nbelow\n"
    )


def test_languages_and_pictures_are_left_alone() -> None:
    text = "21.5 °C süd 居間 🌡 👨‍👩‍👧"
    assert printable(text) == text


def test_json_that_was_made_printable_means_the_same() -> None:
    assert json.loads(printable(json.dumps(HOSTILE, ensure_ascii=False))) == HOSTILE


def test_a_terminal_of_few_characters_ends_no_command() -> None:
    code = (
        "import typer\n"
        "from meshtasks.cli.terminal import run, say\n"
        "app = typer.Typer()\n"
        "app.command()(lambda: say('→ 21 °C'))\n"
        "run(app)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONIOENCODING": "iso-8859-1"},
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"\\u2192 21 \xb0C\n"


def test_help_is_as_wide_as_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    monkeypatch.setattr(sys, "argv", ["meshtasks", "query", "--help"])
    with pytest.raises(SystemExit):
        main()
    page = capsys.readouterr().out
    prose = [line.strip() for line in page[: page.index("─")].splitlines()]
    for paragraph in "\n".join(prose).split("\n\n"):
        assert len(textwrap.wrap(paragraph, 48)) == len(paragraph.strip().splitlines())
    assert "<bool>" not in page


def test_the_version_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["meshtasks", "--version"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("meshtasks 0.")


def result(sql: str) -> Result:
    return Result(duckdb.sql(sql))


def test_csv_holds_no_formulas_and_leaves_numbers_alone() -> None:
    out = io.StringIO()
    write_csv(
        result("""SELECT '=HYPERLINK("http://x")' AS a, '@x' b, '-5' c, -5 d"""), out
    )
    assert out.getvalue().splitlines()[1] == (
        """"'=HYPERLINK(""http://x"")",'@x,-5,-5"""
    )


def test_json_of_a_query_has_no_bare_control_characters() -> None:
    out = io.StringIO()
    write_json(result("SELECT chr(155) || chr(27) AS a"), out)
    assert json.loads(out.getvalue()) == [{"a": "\x9b\x1b"}]
    assert printable(out.getvalue()) == out.getvalue()


def test_ctrl_c_stops_a_query_that_computes() -> None:
    database = duckdb.connect()
    begun = threading.Event()

    def compute() -> None:
        begun.set()
        database.sql(
            "SELECT count(*) FROM range(10000000) a, range(10000000) b "
            "WHERE a.range % 7 = b.range % 11"
        ).fetchall()

    def press() -> None:
        begun.wait()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    pressing = threading.Thread(target=press)
    pressing.start()
    with pytest.raises(KeyboardInterrupt):
        _interruptible(compute, database.interrupt)
    pressing.join()


@pytest.mark.parametrize(
    ("redirection", "exit_code", "said"),
    [
        (">/dev/full", 74, "the output cannot be written: No space left on device"),
        (">&-", 0, ""),
    ],
)
def test_output_that_goes_nowhere_ends_a_command_without_a_traceback(
    redirection: str, exit_code: int, said: str
) -> None:
    command = f'exec "$0" -I -m meshtasks topology show {redirection}'

    done = subprocess.run(
        ["/bin/sh", "-c", command, sys.executable],
        capture_output=True,
        check=False,
        text=True,
    )

    assert done.returncode == exit_code
    assert done.stderr.removeprefix("meshtasks: ").strip() == said
