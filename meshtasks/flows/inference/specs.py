"""What a model takes, and whether a request gives it that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from typing_extensions import override

from meshtasks.errors import SchemaMismatch, SinkRejected, Transient
from meshtasks.flows.inference.tensors import JsonTensor, Tensor, tensor_of


class NoSuchModel(SinkRejected):
    """The server has no such model, or not in this version."""


class ModelNotReady(Transient):
    """The server has the model, but it is not loaded."""


class ModelCrashed(Transient):
    """The model's process died; it will not answer until it is loaded again."""


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
        """As people are told of it: ``window (FP32 [-1, 24])``."""
        return f"{self.name} ({self.datatype} {list(self.shape)})"


class ModelSpec(NamedTuple):
    """What a server says of a model.

    Attributes:
        name: of the model.
        version: the one that was asked for; empty for the server's choice.
        inputs: by name.
        max_batch_size: the most rows in one request; 0 for a model that does not
            take batches.
        read_at: when the server said so; monotonic seconds.
    """

    name: str
    version: str
    inputs: dict[str, InputSpec]
    max_batch_size: int
    read_at: float = 0.0


class Fitting(NamedTuple):
    """A request's inputs, known to be what the model takes.

    Attributes:
        inputs: in the order of their names.
        rows: size of the batch; 1 for a model that does not take batches.
        alone: not to be stacked with others.
    """

    inputs: tuple[Tensor, ...]
    rows: int
    alone: bool = False


def fitting(
    given: Sequence[JsonTensor], spec: ModelSpec, *, alone: bool = False
) -> Fitting:
    """The inputs of a request to this model.

    Args:
        given: as they came.
        spec: what the model takes.
        alone: they are not to be stacked with others.

    Raises:
        SchemaMismatch: a name, datatype, shape or value is not what the model
            takes; the text says what is.
    """
    tensors = {each["name"]: _input(each, spec) for each in given}
    if len(tensors) < len(given):
        message = "inputs: the same name is given twice"
        raise SchemaMismatch(message)
    for expected in spec.inputs.values():
        if expected.name not in tensors and not expected.optional:
            message = f"{spec.name} takes the input {expected}; it is missing"
            raise SchemaMismatch(message)
    rows = _rows(tensors, spec) if spec.max_batch_size else 1
    return Fitting(tuple(tensors[name] for name in sorted(tensors)), rows, alone)


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
