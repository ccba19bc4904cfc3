"""config/models.yaml: metrics and alerts made from the results of each model."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Self

from pydantic import (
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails

from meshtasks.config.loader import ConfigModel, fault, refuse_all
from meshtasks.config.settings import ConfigFile, Settings
from meshtasks.errors import ConfigError, SchemaMismatch
from meshtasks.flows.inference.messages import InferenceResult, ModelName
from meshtasks.flows.inference.tensors import JsonTensor
from meshtasks.records.models import Number, explain
from meshtasks.rules.config import RuleBook, ThresholdRule

#: Measurement of the points.
MEASUREMENT = "inference"
#: Fields of every point: whether the model succeeded, and its latency.
OK, LATENCY = "ok", "latency_ms"

_Name = Annotated[str, Field(pattern=r"^[^\s_\\][^\\\x00-\x1f\x7f]*$", max_length=100)]
_NUMBERS: TypeAdapter[list[float]] = TypeAdapter(list[Number])


class Score(ConfigModel):
    """Numbers of one output that become fields.

    Attributes:
        output: name of the output.
        field: name of the field, if each row is one number; default: the output's
            name.
        labels: names of the numbers of a row, in order, if there are several. Each
            becomes a field of that name.
        top_k: how many of the fields to keep, the largest; default: all.
    """

    output: Annotated[str, Field(min_length=1)]
    field: _Name | None = None
    labels: tuple[_Name, ...] = ()
    top_k: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _is_one_or_labelled(self) -> Self:
        if self.labels and self.field is not None:
            raise ValueError("expected field or labels, not both")
        if self.top_k is not None and self.top_k > len(self.labels):
            message = f"top_k is {self.top_k}, but there are {len(self.labels)} labels"
            raise ValueError(message)
        return self

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields that it may have."""
        return self.labels or (self.field or self.output,)

    def rows(self, output: JsonTensor) -> Iterator[dict[str, float]]:
        """Yield the fields of each row of the output.

        Raises:
            SchemaMismatch: the output does not match models.yaml.
        """
        names = self.fields
        try:
            values = _NUMBERS.validate_python(output["data"])
        except ValidationError as error:
            message = f"output {self.output}: value {explain(error)}"
            raise SchemaMismatch(message) from error
        shape, width = output["shape"], len(names)
        rows = shape[0] if len(shape) > 1 or (shape and width == 1) else 1
        if len(values) != rows * width:
            message = (
                f"output {self.output}: expected rows of {width} (models.yaml), "
                f"got the shape {shape}"
            )
            raise SchemaMismatch(message)
        for start in range(0, len(values), width):
            scores = list(zip(names, values[start : start + width], strict=True))
            if self.top_k is not None:
                scores.sort(key=lambda score: score[1], reverse=True)
            yield dict(scores[: self.top_k])


def _of_results(rule: object) -> object:
    """Add the type, routing key and metric that all rules of models.yaml have."""
    if not isinstance(rule, dict):
        return rule
    if given := {"type", "routing_key", "metric", "sensors"} & rule.keys():
        message = f"{min(map(str, given))} has no place here"
        raise ValueError(message)
    whole = {"type": "threshold", "routing_key": "#", "metric": MEASUREMENT}
    return {**whole, **rule}


class ModelSteps(ConfigModel):
    """How the results of one model are processed.

    Attributes:
        tags: fields of the result that become tags, beside ``model``.
        scores: outputs whose numbers become fields.
        alerts: threshold rules on these fields, as in rules.yaml.
    """

    tags: tuple[_Name, ...] = ()
    scores: tuple[Score, ...] = ()
    alerts: tuple[Annotated[ThresholdRule, BeforeValidator(_of_results)], ...] = ()

    @model_validator(mode="after")
    def _has_fields_of_its_own(self) -> Self:
        fields = [field for score in self.scores for field in score.fields]
        taken = [*fields, OK, LATENCY]
        if twice := {name for name in fields if taken.count(name) > 1}:
            message = f"a field must be given once; twice: {', '.join(sorted(twice))}"
            raise ValueError(message)
        for rule in self.alerts:
            if rule.field not in taken:
                message = (
                    f"the alert {rule.name} watches the field {rule.field}; "
                    f"expected one of {', '.join(taken)}"
                )
                raise ValueError(message)
        return self

    def rows(self, result: InferenceResult) -> list[dict[str, float]]:
        """Return the fields of each row of a result; at least one row.

        Raises:
            SchemaMismatch: the outputs do not match models.yaml.
        """
        outputs = {output["name"]: output for output in result.get("outputs") or ()}
        rows: list[dict[str, float]] = []
        for score in self.scores:
            if score.output not in outputs:
                message = f"outputs: models.yaml names {score.output}; it is missing"
                raise SchemaMismatch(message)
            found = list(score.rows(outputs[score.output]))
            if rows and len(rows) != len(found):
                message = (
                    f"outputs: {len(rows)} and {len(found)} rows; expected as many"
                )
                raise SchemaMismatch(message)
            rows = [
                {**row, **more}
                for row, more in zip(rows or [{}] * len(found), found, strict=True)
            ]
        return rows or [{}]


class ModelBook(ConfigModel):
    """config/models.yaml.

    Attributes:
        answer_timeout_seconds: maximum time that a model may take, in seconds.
        models: steps by name of the model. Results of other models become points of
            ``ok`` and ``latency_ms``.
    """

    answer_timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 30.0
    models: dict[ModelName, ModelSteps] = Field(default={})

    @cached_property
    def rules(self) -> RuleBook:
        """The alerts of all models; each applies to the results of its model only."""
        rules = (
            rule.model_copy(update={"tags": {**rule.tags, "model": name}})
            for name, steps in self.models.items()
            for rule in steps.alerts
        )
        return RuleBook(rules=tuple(rules))

    @model_validator(mode="after")
    def _has_unique_alerts(self) -> Self:
        refuse_all(type(self).__name__, self._repeated_alerts())
        return self

    def _repeated_alerts(self) -> Iterator[InitErrorDetails]:
        seen: set[str] = set()
        for model, steps in self.models.items():
            for index, rule in enumerate(steps.alerts):
                if rule.name in seen:
                    reason = f"rule names must be unique; twice: {rule.name}"
                    yield fault(reason, "models", model, "alerts", index, "name")
                seen.add(rule.name)


def _check(_book: ModelBook, settings: Settings) -> Iterator[ConfigError]:
    _ = settings.env.triton_base_url
    yield from ()


MODELS = ConfigFile("models.yaml", ModelBook, _check)
