"""``meshtasks worker``: a worker without the other commands of Celery."""

from __future__ import annotations

import typer

from meshtasks.errors import ConfigError

#: All other options are passed to Celery.
CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": True}


def worker(context: typer.Context) -> None:
    """Consume queues like `celery -A meshtasks worker`, with 10 MB less memory.

    Celery's own command loads all its subcommands, and those of Flower, into the
    worker. This one takes the same options (`celery -A meshtasks worker --help`),
    except -D.

    Exit codes: 0 stopped by a signal; 78 bad configuration.
    """
    if {"-D", "--detach"} & {*context.args}:
        expected = "is for `celery -A meshtasks worker`; let systemd run this one"
        raise ConfigError("meshtasks worker", "-D", expected)
    from meshtasks.celery import app  # noqa: PLC0415 - made from the environment
    from meshtasks.worker.program import run_worker  # noqa: PLC0415

    run_worker(app, context.args)
