"""Work of the console that goes on without a page."""

from __future__ import annotations

import threading

from meshtasks.errors import Transient
from meshtasks.gateway.console.archive_jobs import Job, Jobs


def ended(job: Job) -> Job:
    job.wait(60)
    assert not job.runs
    return job


def test_progress_and_what_has_come_of_it_are_told() -> None:
    seen: list[str] = []

    def work(job: Job) -> None:
        job.report(3, 10, "7 records")
        seen.append(job.state())
        job.summary = "All sound."

    job = Job("Verifying", "operator", work)
    assert Jobs().start(job) is None

    assert ended(job).state() == "Verifying is done. All sound."
    assert seen == [
        "Verifying: under way, 3 of 10 objects, 7 records (started by operator)"
    ]


def test_one_goes_on_at_a_time() -> None:
    jobs, release = Jobs(), threading.Event()

    def waits(_: Job) -> None:
        release.wait(60)

    first = Job("Verifying", "a", waits)
    second = Job("Replaying", "b", lambda _: None)
    jobs.start(first)

    assert jobs.start(second) is first

    release.set()
    ended(first)
    assert jobs.start(second) is None
    assert jobs.last is second


def test_it_is_ended_from_outside() -> None:
    def work(job: Job) -> None:
        job.stopping.wait(60)

    jobs = Jobs()
    jobs.start(Job("Replaying", "a", work))

    jobs.stop()

    assert jobs.last is not None
    assert "was ended" in ended(jobs.last).state()


def test_a_fault_is_told_without_secrets_and_without_those_of_programs() -> None:
    def fails(_: Job) -> None:
        message = "the broker is away"
        raise Transient(message)

    def is_wrong(_: Job) -> None:
        message = "inner detail"
        raise KeyError(message)

    jobs = Jobs()
    for work, text in ((fails, "the broker is away"), (is_wrong, "its log says more")):
        job = Job("Verifying", "a", work)
        jobs.start(job)
        assert ended(job).state().startswith("Verifying failed: ")
        assert text in job.state()


def test_of_many_lines_the_first_are_kept() -> None:
    def work(job: Job) -> None:
        for number in range(1_000):
            job.say(f"{number}")

    job = Job("Verifying", "a", work)
    Jobs().start(job)

    assert ended(job).lines[-1] == "199"
    assert job.more_lines == 800
