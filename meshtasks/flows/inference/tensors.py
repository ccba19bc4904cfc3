"""Tensors in JSON, and which of them a model takes; pure."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, Required

from pydantic import FailFast, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict, override

from meshtasks.errors import SchemaMismatch, SinkRejected
from meshtasks.records.models import explain

Size = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
#: As many axes as servers of models know.
_AXES_LIMIT = 32
Shape = Annotated[list[Size], Field(max_length=_AXES_LIMIT, fail_fast=True)]


class JsonTensor(TypedDict, total=False):
    """A tensor in a message.

    Attributes:
        name: of the input or output.
        shape: its size along each axis, of the batch first where there is one.
        datatype: ``FP32``, ``INT64``, ``BYTES`` …
        data: its values in row-major order, in one array or nested as the shape;
            of ``BYTES`` texts, of ``BOOL`` true and false.
    """

    name: Required[Annotated[str, Field(min_length=1, max_length=255)]]
    shape: Required[Shape]
    datatype: Required[Annotated[str, Field(max_length=16)]]
    data: Required[list[Any]]


#: Tensors of a message; validation stops at the first fault.
JsonTensors = Annotated[list[JsonTensor], Field(fail_fast=True)]


class Tensor(NamedTuple):
    """A tensor whose values are known to fit its datatype and shape.

    Attributes:
        data: in row-major order; ``bytes`` for ``BYTES``.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any]


def _integers(low: int, beyond: int) -> Any:
    value = Annotated[int, Field(strict=True, ge=low, lt=beyond)]
    return Annotated[list[value], FailFast()]


def _floats(largest: float) -> Any:
    """Floats of at most this size: a larger one would become infinite."""
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

#: The datatypes whose values JSON can carry.
DATATYPES = frozenset(_VALUES)
_FLOATS = frozenset({"FP16", "FP32", "FP64"})


def tensor_of(given: JsonTensor) -> Tensor:
    """The tensor in a message.

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
    """A model's output, fit for a message.

    Raises:
        SinkRejected: it holds what JSON cannot carry.
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
    """The values in row-major order; None if they are nested in another shape."""
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
        shape: its size along each axis, -1 for any; of the batch first where the
            model takes batches.
        optional: a request may leave it out.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool

    @override
    def __str__(self) -> str:
        """For messages: ``window (FP32 [-1, 24])``."""
        return f"{self.name} ({self.datatype} {list(self.shape)})"


class ModelSpec(NamedTuple):
    """A model as its server describes it.

    Attributes:
        version: the requested one; empty for the server's choice.
        inputs: by name.
        max_batch_size: the most rows in one request; 0 for a model that does not
            take batches.
        read_at: when the server described it; monotonic seconds.
    """

    name: str
    version: str
    inputs: dict[str, InputSpec]
    max_batch_size: int
    read_at: float = 0.0


class ModelInput(NamedTuple):
    """A request's inputs, in the order of their names, known to fit the model.
    A ``single`` one is not stacked with others."""

    tensors: tuple[Tensor, ...]
    rows: int
    single: bool = False


def model_input(
    given: Sequence[JsonTensor], spec: ModelSpec, *, single: bool = False
) -> ModelInput:
    """The inputs of a request to this model.

    Raises SchemaMismatch for a name, datatype, shape or value that the model does not
    take; the message names what it takes."""
    tensors = {tensor["name"]: _input(tensor, spec) for tensor in given}
    if len(tensors) < len(given):
        message = "inputs: the same name is given twice"
        raise SchemaMismatch(message)
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
    """The batch size that all inputs share."""
    sizes = {name: tensor.shape[0] for name, tensor in tensors.items()}
    rows = max(sizes.values(), default=0)
    if min(sizes.values(), default=0) != rows:
        message = f"expected all inputs to have the same batch size, got {sizes}"
        raise SchemaMismatch(message)
    if not 1 <= rows <= spec.max_batch_size:
        message = f"{spec.name} takes batches of 1 to {spec.max_batch_size}, got {rows}"
        raise SchemaMismatch(message)
    return rows
