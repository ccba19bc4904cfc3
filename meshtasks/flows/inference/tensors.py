"""Tensors in JSON, their validation against a model, and stacking of requests. Pure
functions.

The round trip of a request costs the same whatever the request contains, and models (on
a GPU above all) compute many rows in little more than the time of one. So requests
whose tensors have the same shapes apart from the batch axis are stacked along it and
sent as one, and the result is split into theirs.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Annotated, Any, NamedTuple, Required

from pydantic import (
    ConfigDict,
    FailFast,
    Field,
    TypeAdapter,
    ValidationError,
    with_config,
)
from typing_extensions import TypedDict, override

from meshtasks.errors import SchemaMismatch, SinkRejected, Transient
from meshtasks.flows.contract import describe_properties
from meshtasks.records.models import explain

Size = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
#: Maximum number of axes that model servers accept.
_AXES_LIMIT = 32
Shape = Annotated[list[Size], Field(max_length=_AXES_LIMIT, fail_fast=True)]


@with_config(ConfigDict(json_schema_extra=describe_properties))
class JsonTensor(TypedDict, total=False):
    """A tensor in a message.

    Attributes:
        name: name of the input or output.
        shape: size along each axis, that of the batch first if there is one.
        datatype: ``FP32``, ``INT64``, ``BYTES`` …
        data: values in row-major order, flat or nested like the shape; texts for
            ``BYTES``, true and false for ``BOOL``.
    """

    name: Required[Annotated[str, Field(min_length=1, max_length=255)]]
    shape: Required[Shape]
    datatype: Required[Annotated[str, Field(max_length=16)]]
    data: Required[list[Any]]


#: Tensors of a message; validation stops at the first error.
JsonTensors = Annotated[list[JsonTensor], Field(fail_fast=True)]


class Tensor(NamedTuple):
    """A tensor whose values fit its datatype and shape.

    Attributes:
        data: values in row-major order; ``bytes`` for ``BYTES``.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any]


def _integers(low: int, beyond: int) -> Any:
    value = Annotated[int, Field(strict=True, ge=low, lt=beyond)]
    return Annotated[list[value], FailFast()]


def _floats(largest: float) -> Any:
    """Return the type of finite floats up to this size; larger ones would overflow."""
    value = Annotated[
        float, Field(strict=True, allow_inf_nan=False, ge=-largest, le=largest)
    ]
    return Annotated[list[value], FailFast()]


_LISTS: dict[str, Any] = {
    "BOOL": Annotated[list[Annotated[bool, Field(strict=True)]], FailFast()],
    "UINT8": _integers(0, 2**8),
    "UINT16": _integers(0, 2**16),
    "UINT32": _integers(0, 2**32),
    "UINT64": _integers(0, 2**64),
    "INT8": _integers(-(2**7), 2**7),
    "INT16": _integers(-(2**15), 2**15),
    "INT32": _integers(-(2**31), 2**31),
    "INT64": _integers(-(2**63), 2**63),
    "FP16": _floats(65_504.0),
    "FP32": _floats((2 - 2**-23) * 2.0**127),
    "FP64": _floats(sys.float_info.max),
    "BYTES": Annotated[list[Annotated[str, Field(strict=True)]], FailFast()],
}
_VALUES: dict[str, TypeAdapter[list[Any]]] = {
    datatype: TypeAdapter(values) for datatype, values in _LISTS.items()
}

#: Datatypes whose values JSON can represent.
DATATYPES = frozenset(_VALUES)
_FLOATS = frozenset({"FP16", "FP32", "FP64"})


def tensor_of(given: JsonTensor) -> Tensor:
    """Validate a tensor of a message.

    Raises:
        SchemaMismatch: its values do not fit its shape or its datatype.
    """
    name, datatype, shape = given["name"], given["datatype"], tuple(given["shape"])
    values = _flat(given["data"], shape)
    if values is None:
        message = f"{name}: data is nested otherwise than the shape {list(shape)}"
        raise SchemaMismatch(message)
    if len(values) != math.prod(shape):
        message = (
            f"{name}: the shape {list(shape)} holds {math.prod(shape)} values, "
            f"got {len(values)}"
        )
        raise SchemaMismatch(message)
    if datatype not in _VALUES:
        known = ", ".join(_VALUES)
        message = f"{name}: expected one of the datatypes {known}, got {datatype}"
        raise SchemaMismatch(message)
    try:
        data = _VALUES[datatype].validate_python(values)
    except ValidationError as error:
        message = f"{name}: value {explain(error)}"
        raise SchemaMismatch(message) from error
    if datatype == "BYTES":
        data = [text.encode() for text in data]
    return Tensor(name, datatype, shape, data)


def json_tensor(tensor: Tensor) -> JsonTensor:
    """Return a model's output as a tensor for a message.

    Raises:
        SinkRejected: it has values that JSON cannot represent.
    """
    name, datatype, shape, data = tensor
    if datatype == "BYTES":
        try:
            data = [value.decode() for value in data]
        except UnicodeDecodeError as error:
            message = f"the model's output {name} is not UTF-8 text: {error}"
            raise SinkRejected(message) from error
    elif datatype in _FLOATS and not all(map(math.isfinite, data)):
        message = f"the model's output {name} holds NaN or Infinity, which is not JSON"
        raise SinkRejected(message)
    return {"name": name, "shape": list(shape), "datatype": datatype, "data": data}


def _flat(data: list[Any], shape: tuple[int, ...]) -> list[Any] | None:
    """Return the values in row-major order; None if their nesting does not match."""
    if not data or not isinstance(data[0], list):
        return data
    level: list[Any] = [data]
    for size in shape:
        if any(not isinstance(part, list) or len(part) != size for part in level):
            return None
        level = [value for part in level for value in part]
    return level


class InputSpec(NamedTuple):
    """An input of a model.

    Attributes:
        shape: size along each axis, -1 for any; if the model takes batches, the first
            is the batch axis.
        optional: whether a request may omit it.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool

    @override
    def __str__(self) -> str:
        """Return a text for messages: ``window (FP32 [-1, 24])``."""
        return f"{self.name} ({self.datatype} {list(self.shape)})"


class ModelSpec(NamedTuple):
    """A model as the server describes it.

    Attributes:
        version: requested version; empty for the server's choice.
        inputs: inputs by name.
        max_batch_size: maximum number of rows in one request; 0 if the model does not
            take batches.
        read_at: time at which the description was read; monotonic seconds.
    """

    name: str
    version: str
    inputs: dict[str, InputSpec]
    max_batch_size: int
    read_at: float = 0.0


class ModelInput(NamedTuple):
    """Inputs of a request that fit the model.

    Attributes:
        tensors: inputs in the order of their names.
        rows: size of the batch axis; 1 if the model does not take batches.
        single: whether to send the request alone, not stacked with others.
    """

    tensors: tuple[Tensor, ...]
    rows: int
    single: bool = False


def model_input(
    given: Sequence[JsonTensor], spec: ModelSpec, *, single: bool = False
) -> ModelInput:
    """Return the inputs of a request to this model.

    Raises:
        SchemaMismatch: the model does not take a name, datatype, shape or value; the
            message says what it takes.
    """
    tensors = {tensor["name"]: _input(tensor, spec) for tensor in given}
    if len(tensors) < len(given):
        raise SchemaMismatch("inputs: the same name is given twice")
    for expected in spec.inputs.values():
        if expected.name not in tensors and not expected.optional:
            message = f"{spec.name} takes the input {expected}; it is missing"
            raise SchemaMismatch(message)
    rows = _rows(tensors, spec) if spec.max_batch_size else 1
    return ModelInput(tuple(tensors[name] for name in sorted(tensors)), rows, single)


def _input(given: JsonTensor, spec: ModelSpec) -> Tensor:
    name = given["name"]
    expected = spec.inputs.get(name)
    if expected is None:
        inputs = ", ".join(map(str, spec.inputs.values()))
        message = f"{spec.name} has no input {name}; expected {inputs}"
        raise SchemaMismatch(message)
    if given["datatype"] != expected.datatype:
        message = (
            f"{name}: expected the datatype {expected.datatype}, "
            f"got {given['datatype']}"
        )
        raise SchemaMismatch(message)
    shape = given["shape"]
    if len(shape) != len(expected.shape) or any(
        wanted not in (-1, size)
        for wanted, size in zip(expected.shape, shape, strict=True)
    ):
        message = f"{name}: expected the shape {list(expected.shape)}, got {shape}"
        raise SchemaMismatch(message)
    return tensor_of(given)


def _rows(tensors: dict[str, Tensor], spec: ModelSpec) -> int:
    """Return the batch size, which must be the same for all inputs."""
    sizes = {name: tensor.shape[0] for name, tensor in tensors.items()}
    rows = max(sizes.values(), default=0)
    if min(sizes.values(), default=0) != rows:
        message = f"expected all inputs to have the same batch size, got {sizes}"
        raise SchemaMismatch(message)
    if not 1 <= rows <= spec.max_batch_size:
        message = f"{spec.name} takes batches of 1 to {spec.max_batch_size}, got {rows}"
        raise SchemaMismatch(message)
    return rows


class Inference(NamedTuple):
    """Output of a model, and its latency; for a stack, the latency of the stack."""

    version: str
    outputs: tuple[Tensor, ...]
    latency_ms: float


class StackResults(NamedTuple):
    """Results of requests to one model.

    Attributes:
        results: inference or rejection, by index of the request.
        fault: failure that ended the run before all requests were sent.
        tried: indices of the requests that met this failure.
    """

    results: dict[int, Inference | SinkRejected]
    fault: Transient | None
    tried: frozenset[int]


class NoSuchModel(SinkRejected):
    """The server does not have the model, or not this version of it."""


class ModelNotReady(Transient):
    """The server has the model, but it is not loaded."""


class ModelCrashed(Transient):
    """The model's process died; the model does not run until it is loaded again."""


class UnsplittableError(SinkRejected):
    """The model did not return one row for each row of its input."""


def infer_stacked(
    requests: Sequence[ModelInput],
    max_batch_size: int,
    infer: Callable[[Sequence[Tensor]], Inference],
    go_on: Callable[[], bool],
) -> StackResults:
    """Run a model on requests, in as few stacks as possible, until ``go_on`` is false.

    A rejected stack is halved until the bad requests are alone, so one bad request does
    not fail the others. Models have no memory, so a repeated run is harmless.

    Args:
        max_batch_size: maximum number of rows of a stack; 0 to stack nothing.
        infer: runs the model on one request or stack.
        go_on: whether to send another request.
    """
    results: dict[int, Inference | SinkRejected] = {}
    ahead = list(stacks(requests, max_batch_size))[::-1]
    while ahead and go_on():
        stack = ahead.pop()
        try:
            whole = infer(stacked([requests[index] for index in stack]))
            parts = split(whole, [requests[index].rows for index in stack])
        except SinkRejected as refusal:
            if len(stack) == 1:
                results[stack[0]] = refusal
            else:
                middle = len(stack) // 2
                ahead += [stack[middle:], stack[:middle]]
        except Transient as fault:
            return StackResults(results, fault, frozenset(stack))
        else:
            results.update(zip(stack, parts, strict=True))
    return StackResults(results, None, frozenset())


def stacks(requests: Sequence[ModelInput], max_batch_size: int) -> Iterator[list[int]]:
    """Yield the indices of requests that are sent together, in order of arrival; single
    requests are last.

    Args:
        max_batch_size: maximum number of rows of a stack; 0 to stack nothing.
    """
    alike: dict[tuple[object, ...], list[int]] = {}
    single: list[int] = []
    for index, request in enumerate(requests):
        if max_batch_size and not request.single:
            form = tuple((tensor.name, tensor.shape[1:]) for tensor in request.tensors)
            alike.setdefault(form, []).append(index)
        else:
            single.append(index)
    for indices in alike.values():
        stack: list[int] = []
        rows = 0
        for index in indices:
            if rows + requests[index].rows > max_batch_size:
                yield stack
                stack, rows = [], 0
            stack.append(index)
            rows += requests[index].rows
        yield stack
    yield from ([index] for index in single)


def stacked(requests: Sequence[ModelInput]) -> Sequence[Tensor]:
    """Return the inputs of one or more requests of the same form as one request."""
    first = requests[0]
    if len(requests) == 1:
        return first.tensors
    rows = sum(request.rows for request in requests)
    return [
        tensor._replace(
            shape=(rows, *tensor.shape[1:]),
            data=[
                value for request in requests for value in request.tensors[index].data
            ],
        )
        for index, tensor in enumerate(first.tensors)
    ]


def split(whole: Inference, rows: Sequence[int]) -> list[Inference]:
    """Split the result of a stack into the results of its requests.

    Args:
        rows: number of rows of each request.

    Raises:
        UnsplittableError: an output does not have one row per row of the input.
    """
    if len(rows) == 1:
        return [whole]
    ends = list(accumulate(rows))
    for output in whole.outputs:
        if output.shape[:1] != (ends[-1],):
            message = (
                f"the model's output {output.name} has the shape {list(output.shape)} "
                f"for a batch of {ends[-1]}"
            )
            raise UnsplittableError(message)
    return [
        Inference(
            whole.version,
            tuple(_part(output, end - count, end) for output in whole.outputs),
            whole.latency_ms,
        )
        for count, end in zip(rows, ends, strict=True)
    ]


def _part(tensor: Tensor, start: int, end: int) -> Tensor:
    size = math.prod(tensor.shape[1:])
    data = tensor.data[start * size : end * size]
    return tensor._replace(shape=(end - start, *tensor.shape[1:]), data=data)
