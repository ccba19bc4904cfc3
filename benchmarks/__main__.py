"""``python -m benchmarks``: exit code 1 when a ledger does not balance."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import latency, report
from benchmarks.contenders import CONTENDERS, MESHTASKS, Contender
from benchmarks.drain import Run, Say, run
from benchmarks.environments import InstallFailedError
from benchmarks.report import Findings
from benchmarks.services import Services
from meshtasks.domain.errors import MeshError
from meshtasks.embedded.custody import in_custody

_BACKLOG_FACTOR = 10


def main(arguments: Sequence[str]) -> int:
    """Measure what was asked for and print it.

    Returns:
        The process's exit code: 0 when every ledger balances, whether targets
        are met or not; otherwise 1.
    """
    options = _parser().parse_args(arguments)
    began_at = time.monotonic()

    def say(text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - began_at), 60)
        sys.stderr.write(f"{minutes:02d}:{seconds:02d} {text}\n")

    try:
        with (
            tempfile.TemporaryDirectory(prefix="meshtasks-bench-") as directory,
            Services(Path(directory)) as services,
        ):
            findings = _measure(services, options, say)
    except (InstallFailedError, MeshError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    report.show(Console(), findings)
    if options.json is not None:
        text = json.dumps(report.as_json(findings), indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")
    return 1 if findings.faults else 0


def _measure(services: Services, options: argparse.Namespace, say: Say) -> Findings:
    findings = Findings()
    if options.what == "latency":
        findings.latency.extend(latency.measure(services, say))
        return findings
    if not options.backlog:
        chosen = [
            each
            for each in CONTENDERS
            if options.only is None or each.name in options.only
        ]
        rounds = _rounds(services, chosen, options.messages, options.rounds, say)
        findings.throughput.extend(rounds)
    if options.backlog or options.only is None:
        for messages in (options.messages, options.messages * _BACKLOG_FACTOR):
            findings.backlog.append(_run(services, MESHTASKS, messages, say))
    return findings


def _rounds(
    services: Services,
    chosen: Sequence[Contender],
    messages: int,
    rounds: int,
    say: Say,
) -> Iterator[Run]:
    """Every contender once, then every contender again: when the machine gets
    slower or faster meanwhile, it does so for all."""
    for contender in chosen:
        contender.prepared(say)
    for number in range(1, rounds + 1):
        say(f"round {number} of {rounds}")
        for contender in chosen:
            count = int(messages * contender.messages_scale)
            yield _run(services, contender, count, say)


def _run(services: Services, contender: Contender, messages: int, say: Say) -> Run:
    done = run(services, contender, messages, say)
    rate = f"{done.readings_per_second:,.0f} readings/s"
    verdict = f", INVALID: {'; '.join(done.faults)}" if done.faults else ""
    say(f"  {contender.name}: {messages:,} messages, {rate}{verdict}")
    return done


def _parser() -> argparse.ArgumentParser:
    names = [contender.name for contender in CONTENDERS]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=(
            "Compare the worker with its ceiling and its peers on this machine "
            "(15 minutes or so), or measure its latency (2 minutes). "
            "docs/benchmarks.md says how, and what the figures mean."
        ),
    )
    parser.add_argument(
        "what",
        nargs="?",
        choices=("throughput", "latency"),
        default="throughput",
        help="what to measure (default: throughput, and memory with a backlog)",
    )
    parser.add_argument(
        "--messages",
        type=_multiple_of(1_000),
        default=60_000,
        metavar="N",
        help="messages waiting, a multiple of 1000 (default: 60000)",
    )
    parser.add_argument(
        "--rounds",
        type=_multiple_of(1),
        default=3,
        metavar="N",
        help="rounds to take the median of (default: 3)",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=names,
        metavar="NAME",
        help=f"measure the throughput of some only: {', '.join(names)}",
    )
    parser.add_argument(
        "--backlog",
        action="store_true",
        help="measure only the worker's memory, with N and 10 x N messages waiting",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write all figures to a file, too"
    )
    return parser


def _multiple_of(unit: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if value < unit or value % unit:
            message = f"{value} is not a multiple of {unit}"
            raise argparse.ArgumentTypeError(message)
        return value

    return number


if __name__ == "__main__":
    sys.exit(in_custody(lambda: main(sys.argv[1:])))
