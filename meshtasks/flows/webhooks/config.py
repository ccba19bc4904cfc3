"""config/workflows.yaml: the records that start each webhook."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_validator,
)

from meshtasks.amqp.entities import topic_matches
from meshtasks.config.environment import auth_headers
from meshtasks.config.loader import ConfigModel, refuse_all, twice
from meshtasks.config.settings import ConfigFile, Settings
from meshtasks.config.urls import Auth, http_url, is_base_url, is_url_text
from meshtasks.errors import ConfigError

#: Half the default time limit of a batch, so that one call cannot use up all of it.
LONGEST_TIMEOUT_SECONDS = 60.0

#: Statuses that mean moved, not allowed, or not registered (in n8n also while a
#: workflow is being saved).
_OF_THE_SET_UP = frozenset({301, 302, 303, 307, 308, 401, 403, 404, 405, 407})

Scalar = StrictBool | StrictInt | StrictFloat | StrictStr | None
Limit = Annotated[float, Field(allow_inf_nan=False)]
FieldPath = Annotated[str, Field(pattern=r"^[^.\s]+(\.[^.\s]+)*$")]

_NEW, _OLD = "new_state", "old_state"


class Condition(ConfigModel):
    """A condition on one value of a record; all tests that are given must hold.

    A missing value counts as null.

    Attributes:
        field: path to the value: ``motion``, ``new_state.attributes.battery``.
        equals: the value is equal to this; numbers, texts and ``true`` never are
            equal to each other.
        any_of: the value is one of these (``in`` in the file).
        above: the value is a number above this. A text that is a number counts as
            one, because all of Home Assistant's states are texts.
        below: the value is a number below this.
        changed: whether the value differs from the same value of the old state; only
            for paths in the new state.
    """

    field: FieldPath
    equals: Scalar = None
    any_of: Annotated[tuple[Scalar, ...], Field(min_length=1)] | None = Field(
        default=None, alias="in"
    )
    above: Limit | None = None
    below: Limit | None = None
    changed: bool | None = None

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if self.model_fields_set == {"field"}:
            raise ValueError("expected equals, in, above, below or changed")
        if self.changed is not None and self.field.partition(".")[0] != _NEW:
            message = f"changed is for fields of {_NEW}"
            raise ValueError(message)
        return self

    def holds(self, record: Mapping[str, Any]) -> bool:
        """Whether the condition holds for this record."""
        value = _value(record, self.field)
        if "equals" in self.model_fields_set and not _same(value, self.equals):
            return False
        if self.any_of is not None and not any(
            _same(value, allowed) for allowed in self.any_of
        ):
            return False
        if not (self.above is None and self.below is None):
            number = _number(value)
            low = -math.inf if self.above is None else self.above
            high = math.inf if self.below is None else self.below
            if number is None or not low < number < high:
                return False
        if self.changed is None:
            return True
        before = _value(record, self.field.replace(_NEW, _OLD, 1))
        return self.changed != _same(value, before)


def _value(record: Mapping[str, Any], path: str) -> Any:
    value: Any = record
    for name in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def _same(one: Any, other: Any) -> bool:
    """Whether two values are equal as in JSON, where ``true`` is not ``1``."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _url(text: str) -> str:
    if text.startswith("/") and is_url_text(text):
        return text
    return http_url(
        text, expected="a path such as /webhook/name, or an http or https URL"
    )


class Webhook(ConfigModel):
    """An HTTP endpoint to call.

    Attributes:
        url: path on n8n (``MESH_N8N_URL``), or a whole URL.
        method: HTTP method.
        auth: header with a secret.
        timeout_seconds: maximum time to wait for the response.
        send: one request per record with the record as its body, or one per batch
            with an array of ``{"id", "exchange", "routing_key", "time", "record"}``.
        held_statuses: statuses caused by the configuration of the webhook, not by the
            event. Its events wait until the status changes.
        accepts_pages: whether an HTML page with a 2xx is success. If not, it is taken
            for a login page or a proxy's page, and the events wait.
    """

    url: Annotated[str, AfterValidator(_url)]
    method: Literal["POST", "PUT", "PATCH"] = "POST"
    auth: Auth | None = None
    timeout_seconds: Annotated[float, Field(gt=0, le=LONGEST_TIMEOUT_SECONDS)] = 10.0
    send: Literal["record", "batch"] = "record"
    held_statuses: frozenset[Annotated[int, Field(ge=300, le=499)]] = _OF_THE_SET_UP
    accepts_pages: bool = False

    @property
    def is_path(self) -> bool:
        """Whether the URL is a path on n8n."""
        return self.url.startswith("/")


class Workflow(ConfigModel):
    """A webhook and the records that start it.

    Attributes:
        name: name in idempotency keys and in the reasons of dead letters.
        routing_key: topic pattern of the records.
        when: conditions; all must hold.
        webhook: the endpoint to call.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)]
    routing_key: Annotated[str, Field(min_length=1)]
    when: tuple[Condition, ...] = ()
    webhook: Webhook


class WorkflowBook(ConfigModel):
    """config/workflows.yaml. Workflows are called in the order of the file."""

    workflows: tuple[Workflow, ...] = ()

    @model_validator(mode="after")
    def _has_unique_names(self) -> Self:
        names = (workflow.name for workflow in self.workflows)
        refuse_all(type(self).__name__, twice(names, "workflow", "workflows"))
        return self

    @cached_property
    def _listening(self) -> Callable[[str], tuple[Workflow, ...]]:
        return lru_cache(maxsize=16_384)(self._matching)

    def listens_to(self, routing_key: str) -> bool:
        """Whether records with this routing key may start a workflow."""
        return bool(self._listening(routing_key))

    def started_by(
        self, routing_key: str, record: Mapping[str, Any]
    ) -> tuple[Workflow, ...]:
        """Return the workflows that a record starts, in order."""
        return tuple(
            workflow
            for workflow in self._listening(routing_key)
            if all(condition.holds(record) for condition in workflow.when)
        )

    def _matching(self, routing_key: str) -> tuple[Workflow, ...]:
        return tuple(
            workflow
            for workflow in self.workflows
            if topic_matches(workflow.routing_key, routing_key)
        )


def _check(book: WorkflowBook, settings: Settings) -> Iterator[ConfigError]:
    env, path = settings.env, settings.path(WORKFLOWS)
    calls_n8n = any(workflow.webhook.is_path for workflow in book.workflows)
    if calls_n8n and not is_base_url(env.n8n_url):
        expected = "a URL such as http://127.0.0.1:5678"
        yield ConfigError("environment", "MESH_N8N_URL", expected)
    for index, workflow in enumerate(book.workflows):
        auth, key = workflow.webhook.auth, f"workflows.{index}.webhook.auth"
        try:
            auth_headers(auth, env, path, key)
        except ConfigError as error:
            yield error


WORKFLOWS = ConfigFile("workflows.yaml", WorkflowBook, _check)
