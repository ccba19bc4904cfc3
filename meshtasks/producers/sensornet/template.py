"""Home Assistant's value templates, if they extract one value from a message.

Jinja parses a template, but it is never run. Its nodes are translated one by one; a
template with an unknown node is not understood. Defaults are ignored, so a value that
is missing in the message gives no reading, and values are not rounded.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from typing import NamedTuple

from jinja2 import Environment, TemplateError, nodes

from meshtasks.errors import SchemaMismatch
from meshtasks.producers.sensornet.payload import Path, number_of

#: Limit of a template in characters; the longest of real devices have a few hundred.
_LONGEST = 1_000
_JINJA = Environment(autoescape=True)  # only its parser is used

#: Computes the result of a template from a value.
Compute = Callable[[object], object]
#: Computes a result from two numbers.
Calculate = Callable[[float, float], float]

#: Filters that do not change a value as far as readings are concerned.
_PASSING = frozenset(
    {"is_defined", "default", "d", "float", "int", "round", "string", "trim", "bool"}
)

#: Hides binary rounding errors, as in 213 * 0.1.
_DECIMALS = 9
_COMPARISONS: Mapping[str, Calculate] = {
    "lt": operator.lt,
    "lteq": operator.le,
    "gt": operator.gt,
    "gteq": operator.ge,
}
#: Results of tests: templates are computed only if the message contains the value.
_TESTS = {"defined": True, "number": True, "undefined": False, "none": False}


class _NotUnderstoodError(Exception):
    """The template contains a node that is not translated."""


class Template(NamedTuple):
    """A parsed template.

    Attributes:
        paths: paths of the values that it reads.
        compute: computes its result from the one value; None if the template is not
            understood.
        is_plain: whether the result is the value, unchanged.
    """

    paths: tuple[Path, ...]
    compute: Compute | None
    is_plain: bool = False


def _same(value: object) -> object:
    return value


def _nothing(_value: object) -> object:
    return None


@lru_cache(maxsize=4_096)
def parse(text: str) -> Template:
    """Parse a template. An empty one takes the whole message as the value."""
    if not text.strip():
        return Template(((),), _same, is_plain=True)
    if len(text) > _LONGEST:
        return Template((), None)
    try:
        body = _JINJA.parse(text).body
        paths = tuple(dict.fromkeys(_paths(*body)))
        wanted: set[Path] = set()
        compute = _translated(_expression(body), wanted)
    except _NotUnderstoodError:
        return Template(paths, None)
    except (TemplateError, RecursionError):
        return Template((), None)
    if len(wanted) != 1:
        return Template(paths, None)
    return Template(tuple(wanted), compute, is_plain=compute is _same)


def _expression(body: list[nodes.Node]) -> nodes.Expr:
    """Return the only expression of the template."""
    found: list[nodes.Expr] = []
    for node in body:
        if isinstance(node, nodes.Output):
            found += [
                each
                for each in node.nodes
                if not (isinstance(each, nodes.TemplateData) and not each.data.strip())
            ]
        elif isinstance(node, nodes.If) and not node.elif_:
            otherwise = _expression(node.else_) if node.else_ else None
            found.append(nodes.CondExpr(node.test, _expression(node.body), otherwise))
        else:
            raise _NotUnderstoodError
    if len(found) != 1:
        raise _NotUnderstoodError
    return found[0]


def _paths(*found: nodes.Node) -> Iterator[Path]:
    """Yield the paths of the values used below these nodes."""
    for node in found:
        path = _path(node)
        if path is not None:
            yield path
        else:
            yield from _paths(*node.iter_child_nodes())


def _path(node: nodes.Node | None) -> Path | None:
    """Return ``value_json.a['b'][0]`` as a path; None for other nodes."""
    match node:
        case nodes.Name(name="value" | "value_json"):
            return ()
        case nodes.Getattr(node=inner, attr=str() as step):
            pass
        case nodes.Getitem(node=inner, arg=nodes.Const(value=str() | int() as step)):
            pass
        case nodes.Call(
            node=nodes.Getattr(node=inner, attr="get"),
            args=[nodes.Const(value=str() as step), *_],
        ):
            pass
        case _:
            return None
    before = _path(inner)
    return None if before is None else (*before, str(step))


def _translated(node: nodes.Node, wanted: set[Path]) -> Compute:  # noqa: PLR0911 - a kind each
    """Return the computation of a node; add the paths that it reads to ``wanted``.

    Raises:
        _NotUnderstoodError: the node is not translated.
    """
    path = _path(node)
    if path is not None:
        wanted.add(path)
        return _same
    if combine := _OPERATORS.get(type(node)):
        return combine(*(_translated(each, wanted) for each in node.iter_child_nodes()))
    match node:
        case nodes.Const(value=constant) | nodes.TemplateData(data=constant):
            return _constant(constant)
        case nodes.Filter(node=nodes.Node() as filtered):
            return _filter(node, _translated(filtered, wanted))
        case nodes.Call(node=nodes.Name(name="float" | "int"), args=[argument, *_]):
            return _translated(argument, wanted)
        case nodes.Test(name=name) if name.casefold() in _TESTS:
            return _constant(_TESTS[name.casefold()])
        case nodes.Compare():
            return _compare(node, wanted)
        case _:
            raise _NotUnderstoodError


def _constant(value: object) -> Compute:
    return lambda _value: value


def _filter(node: nodes.Filter, inner: Compute) -> Compute:
    constants = [each.value for each in node.args if isinstance(each, nodes.Const)]
    if len(constants) != len(node.args) or any(k.key == "base" for k in node.kwargs):
        raise _NotUnderstoodError
    match node.name, constants:
        case "int", [_, base] if base != 10:  # noqa: PLR2004 - decimal numbers
            raise _NotUnderstoodError
        case (("multiply" | "add" as sign), [int() | float() as other]):
            calculate = operator.mul if sign == "multiply" else operator.add
            return _numeric(calculate, inner, _constant(other))
        case "iif", [yes, no, *_]:
            return _choice(inner, _constant(yes), _constant(no))
        case "lower", []:
            return lambda value: str(inner(value)).lower()
        case "upper", []:
            return lambda value: str(inner(value)).upper()
        case "abs", []:
            return lambda value: abs(_number(inner(value)))
        case name, _ if name in _PASSING:
            return inner
        case _:
            raise _NotUnderstoodError


def _compare(node: nodes.Compare, wanted: set[Path]) -> Compute:
    match node:
        case nodes.Compare(
            expr=nodes.Const(), ops=[nodes.Operand(op="in", expr=inner)]
        ) if _path(inner) is not None:
            return _constant(_TESTS["defined"])  # 'a' in value_json
        case nodes.Compare(expr=left, ops=[nodes.Operand(op=sign, expr=right)]):
            one, other = _translated(left, wanted), _translated(right, wanted)
            if sign == "eq":
                return lambda value: one(value) == other(value)
            if sign == "ne":
                return lambda value: one(value) != other(value)
            if sign in _COMPARISONS:
                return _numeric(_COMPARISONS[sign], one, other)
        case _:
            pass
    raise _NotUnderstoodError


def _choice(test: Compute, one: Compute, other: Compute = _nothing) -> Compute:
    return lambda value: one(value) if test(value) else other(value)


def _numeric(calculate: Calculate, one: Compute, other: Compute) -> Compute:
    def compute(value: object) -> object:
        first, second = _number(one(value)), _number(other(value))
        try:
            found = calculate(first, second)
        except ZeroDivisionError as error:
            message = f"its template divides {first:g} by zero"
            raise SchemaMismatch(message) from error
        return found if isinstance(found, bool) else round(found, _DECIMALS)

    return compute


def _number(value: object) -> float:
    return float(value) if isinstance(value, bool) else number_of(value)


#: Type of node → makes its computation from those of its children.
_OPERATORS: Mapping[type[nodes.Node], Callable[..., Compute]] = {
    nodes.CondExpr: _choice,
    nodes.Add: partial(_numeric, operator.add),
    nodes.Sub: partial(_numeric, operator.sub),
    nodes.Mul: partial(_numeric, operator.mul),
    nodes.Div: partial(_numeric, operator.truediv),
    nodes.And: lambda one, other: lambda value: one(value) and other(value),
    nodes.Or: lambda one, other: lambda value: one(value) or other(value),
    nodes.Not: lambda inner: lambda value: not inner(value),
    nodes.Neg: lambda inner: lambda value: -_number(inner(value)),
}
