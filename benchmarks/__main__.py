"""``python -m benchmarks``: exit code 1 if a reconciliation fails."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import (
    hostile,
    inference,
    latency,
    outage,
    publishing,
    report,
    sharing,
    store_away,
)
from benchmarks.contenders import CONTENDERS, MESHTASKS, Contender
from benchmarks.drain import Run, Say, run
from benchmarks.report import Findings
from benchmarks.services import Services
from meshtasks.demo.packages import InstallFailed
from meshtasks.demo.subreaper import under_subreaper
from meshtasks.errors import MeshError

_BACKLOG_FACTOR = 10

PARTS = {
    "throughput": "readings by one worker, compared with Celery and others",
    "metrics": "metrics by one worker",
    "archive": "archived records by one worker, MB/s and compression",
    "backlog": "the worker's memory with N and with 10 x N waiting messages",
    "publishing": "readings by one producer, with confirms",
    "inference": "requests to a model that only answers, stacked and single",
    "latency": "from publish to queryable (2 minutes)",
    "sharing": "a queue in four partitions, shared by 1, 2 and 4 workers",
    "store-away": "delay of alerts while the time-series store is stopped for a minute",
    "hostile": "good readings during messages with hostile bytes (2 minutes)",
    "outage": "readings while the broker is stopped for a minute and the producer is "
    "killed (2 minutes)",
}


def main(arguments: Sequence[str]) -> int:
    """Measure the chosen parts and print the figures.

    Returns:
        The process's exit code: 0 if every reconciliation succeeds, whether targets
        are met or not; otherwise 1.
    """
    options = _parser().parse_args(arguments)
    if options.only and not options.parts:
        options.parts = ["throughput", "metrics", "archive"]
    began_at = time.monotonic()

    def say(text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - began_at), 60)
        sys.stderr.write(f"{minutes:02d}:{seconds:02d} {text}\n")

    try:
        with (
            tempfile.TemporaryDirectory(prefix="meshtasks-bench-") as directory,
            Services(Path(directory)) as services,
        ):
            findings = _measure(services, Path(directory), options, say)
    except (InstallFailed, MeshError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    report.show(Console(), findings)
    if options.json is not None:
        text = json.dumps(report.as_json(findings), indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")
    return 1 if findings.faults else 0


def _measure(
    services: Services, directory: Path, options: argparse.Namespace, say: Say
) -> Findings:
    findings = Findings()
    parts = options.parts or PARTS
    chosen = [
        each
        for each in CONTENDERS
        if each.part in parts and (not options.only or each.name in options.only)
    ]
    messages, rounds = options.messages, options.rounds
    if chosen:
        findings.throughput.extend(_rounds(services, chosen, messages, rounds, say))
    if "backlog" in parts:
        for count in (messages, messages * _BACKLOG_FACTOR):
            findings.backlog.append(_run(services, MESHTASKS, count, say))
    each_part: dict[str, Callable[[], object]] = {
        "publishing": lambda: findings.rates.extend(
            publishing.measure(services, messages, rounds, say)
        ),
        "inference": lambda: findings.rates.extend(
            inference.measure(services, directory, rounds, say)
        ),
        "latency": lambda: findings.latency.extend(latency.measure(services, say)),
        "store-away": lambda: findings.latency.extend(
            store_away.measure(services, store_away.Plan(), say)
        ),
        "sharing": lambda: findings.sharing.extend(
            sharing.measure(services, messages, rounds, say)
        ),
        "outage": lambda: findings.outages.append(
            outage.measure(services, outage.Plan(), say)
        ),
        "hostile": lambda: findings.hostile.append(
            hostile.measure(services, hostile.Plan(), say)
        ),
    }
    for part, measure in each_part.items():
        if part in parts:
            measure()
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
        contender.prepared()
    for number in range(1, rounds + 1):
        say(f"round {number} of {rounds}")
        for contender in chosen:
            yield _run(services, contender, contender.share(messages), say)


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
            "Measure meshtasks on this machine, in comparison with other software. "
            "docs/benchmarks.md explains method and figures. All parts take about "
            "25 minutes."
        ),
        epilog="Parts: "
        + "; ".join(f"{name}: {what}" for name, what in PARTS.items())
        + ".",
    )
    parser.add_argument(
        "parts",
        nargs="*",
        type=_part,
        metavar="PART",
        help=f"parts to measure: {', '.join(PARTS)} (default: all)",
    )
    parser.add_argument(
        "--messages",
        type=_multiple_of(1_000),
        default=60_000,
        metavar="N",
        help="number of waiting messages, a multiple of 1000 (default: 60000)",
    )
    parser.add_argument(
        "--rounds",
        type=_multiple_of(1),
        default=3,
        metavar="N",
        help="number of rounds; figures are their median (default: 3)",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=names,
        metavar="NAME",
        help="only these rows of throughput, metrics and archive, and no other part: "
        + ", ".join(names),
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write all figures to this file, too"
    )
    return parser


def _part(text: str) -> str:
    if text not in PARTS:
        message = f"there is no part {text!r}; there are {', '.join(PARTS)}"
        raise argparse.ArgumentTypeError(message)
    return text


def _multiple_of(unit: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if value < unit or value % unit:
            message = f"{value} is not a multiple of {unit}"
            raise argparse.ArgumentTypeError(message)
        return value

    return number


if __name__ == "__main__":
    sys.exit(under_subreaper(lambda: main(sys.argv[1:])))
