"""Reads a YAML file into its model, and reports every fault with its line.

A validator that raises ``ValueError`` reports one fault for the whole model.
:func:`refuse_all` reports several, each with its location.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError
from yaml.constructor import ConstructorError
from yaml.reader import ReaderError

from meshtasks.config.durations import SPAN, seconds_of
from meshtasks.errors import ConfigError
from meshtasks.text import clip, described, did_you_mean


class ConfigModel(BaseModel):
    """Base of the models of files in config/: frozen, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def fault(reason: str, *loc: str | int) -> InitErrorDetails:
    """A fault for :func:`refuse_all`; ``loc`` is keys and indexes from the top."""
    return InitErrorDetails(type=_error(reason), loc=loc, input=None)


def refuse_value(reason: str) -> Never:
    """Refuse a value, from within one of pydantic's validators.

    Raises:
        PydanticCustomError: always, with ``reason`` as its whole message.
    """
    raise _error(reason)


def refuse_all(model: str, faults: Iterable[InitErrorDetails]) -> None:
    """Refuse a model, from within one of its validators, if it has faults.

    Raises:
        ValidationError: there are faults; it carries all of them.
    """
    if found := list(faults):
        raise ValidationError.from_exception_data(model, found)


def twice(names: Iterable[str], what: str, key: str) -> Iterable[InitErrorDetails]:
    """Yield a fault for each repeated name.

    Args:
        names: names in the order of the file.
        what: what is named, such as ``receiver``, for the text.
        key: key of the list in the model.
    """
    seen: set[str] = set()
    for index, name in enumerate(names):
        if name in seen:
            reason = f"{what} names must be unique; twice: {name}"
            yield fault(reason, key, index, "name")
        seen.add(name)


def _error(reason: str) -> PydanticCustomError:
    # The message is a template in braces; the reason may contain braces itself.
    return PydanticCustomError("mesh", "{reason}", {"reason": reason})


_Model = TypeVar("_Model", bound=BaseModel)


def load_yaml(path: Path, model: type[_Model]) -> _Model:
    """Read one configuration file into its model.

    Raises:
        ConfigError: the file is missing, not YAML, or does not fit the model. Each
            fault has its line, its key and what was expected.
    """
    document = _parsed(path)
    try:
        return model.model_validate(document.content)
    except ValidationError as error:
        raise together(document.faults(error, _names(model))) from error


def fault_in(path: Path, key: str, expected: str) -> ConfigError:
    """A fault, with its line, that the model of the file cannot detect itself.

    Args:
        key: dotted path of the value at fault.
        expected: what was expected.
    """
    line, _, _ = _parsed(path).locate(key)
    return ConfigError(str(path), key, expected, line)


def refuse(faults: Iterable[ConfigError]) -> None:
    """Refuse a configuration if it has faults.

    Raises:
        ConfigError: there are faults; it carries all of them.
    """
    if found := list(faults):
        raise together(found)


def together(faults: Iterable[ConfigError]) -> ConfigError:
    """Combine faults, at least one, into one error without repetitions."""
    every = {str(each): each for fault in faults for each in (fault, *fault.more)}
    first, *others = every.values()
    return ConfigError(
        first.source, first.key, first.expected, first.line, tuple(others)
    )


if TYPE_CHECKING:
    _Loader = yaml.SafeLoader
else:  # libyaml's loader takes a tenth of the time; all wheels of PyYAML have it
    _Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Yaml(_Loader):
    """Loader of YAML 1.2's core schema (https://yaml.org/spec/1.2.2/#103-core-schema)
    plus two features of YAML 1.1: ``_`` between digits, and ``<<``.

    So ``on`` (a state of Home Assistant), ``22:00`` and ``2026-11-28`` are text, and
    ``1e-3`` is a number.
    """


def _scalar(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> bool | float:
    """A boolean or a number."""
    text = str(loader.construct_scalar(node)).replace("_", "").lower()
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    try:
        if node.tag == _BOOLEAN:
            return {"true": True, "false": False}[text]
        if node.tag == _INTEGER:
            return int(text, base)
        return float(text.replace(".inf", "inf").replace(".nan", "nan"))
    except (KeyError, ValueError) as error:  # a wrong explicit tag, or too many digits
        problem = f"{clip(text, 40)} is no {node.tag.removeprefix(_TAG)}"
        raise ConstructorError(None, None, problem, node.start_mark) from error


_TAG = "tag:yaml.org,2002:"
_BOOLEAN, _INTEGER = f"{_TAG}bool", f"{_TAG}int"
#: Plain scalars that are not text: name of the tag, pattern, possible first characters.
_CORE_SCHEMA = (
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", "true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", "[-+]?[0-9][0-9_]*|0o[0-7_]+|0x[0-9a-fA-F_]+", list("-+0123456789")),
    (
        "float",
        (
            r"[-+]?(\.[0-9][0-9_]*|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?"
            r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
        ),
        list("-+.0123456789"),
    ),
    ("merge", "<<", ["<"]),
)
_Yaml.yaml_implicit_resolvers = {}
for _name, _pattern, _first in _CORE_SCHEMA:
    _Yaml.add_implicit_resolver(f"{_TAG}{_name}", re.compile(f"^({_pattern})$"), _first)
# Other tags, such as !!binary, are faults, like unknown tags.
_Yaml.yaml_constructors = {
    tag: constructor
    for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.removeprefix(_TAG) in {"null", "str", "seq", "map"}
}
for _tag in (_BOOLEAN, _INTEGER, f"{_TAG}float"):
    _Yaml.add_constructor(_tag, _scalar)


def _parsed(path: Path) -> _Document:
    """The document in a file.

    Raises:
        ConfigError: the file is missing, is not YAML, or contains a key twice.
    """
    source, text = str(path), _text(path)
    try:
        if _is_too_deep(text):
            expected = f"expected no more than {_DEEPEST:,} levels of lists and keys"
            raise ConfigError(source, "-", expected)
        document = _Document(source, text)
    except yaml.YAMLError as error:
        raise _unreadable(source, error, text) from error
    refuse(document.repeated_keys())
    return document


def _text(path: Path) -> str:
    """The text of a file.

    Raises:
        ConfigError: the file is missing, or is not readable UTF-8.
    """
    source = str(path)
    try:
        if path.exists() and not path.is_file():  # a pipe or a device may never end
            expected = "expected a file, not a directory, a pipe or a device"
            raise ConfigError(source, "-", expected)
        content = path.read_bytes()
    except FileNotFoundError as error:
        hint = "there is no such file; is MESH_CONFIG_DIR right?"
        raise ConfigError(source, "-", hint) from error
    except OSError as error:
        expected = f"expected a readable file, but: {error.strerror}"
        raise ConfigError(source, "-", expected) from error
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        is_utf16 = content[:2] in {b"\xff\xfe", b"\xfe\xff"}
        found = "UTF-16" if is_utf16 else f"the byte 0x{content[error.start]:02x}"
        expected = f"expected text in UTF-8, but there is {found}"
        raise ConfigError(source, "-", expected, line) from error


#: Most levels of nesting. libyaml before 0.2.6, which has the same limit, builds nodes
#: by recursion; tens of thousands of levels crash the process.
_DEEPEST = 1_000
_OPENING = ("[", "{", "- ", "? ")


def _is_too_deep(text: str) -> bool:
    """Whether the text is nested deeper than :data:`_DEEPEST` levels.

    It is parsed only if it has enough opening characters.
    """
    if max(map(text.count, _OPENING)) < _DEEPEST:
        return False
    depth = 0
    for event in yaml.parse(text, Loader=_Yaml):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            return True
    return False


def _unreadable(source: str, error: yaml.YAMLError, text: str) -> ConfigError:
    line, reason = None, str(error)
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark
        line = mark.line + 1 if mark else None
        reason = error.problem or error.context or reason
        rows = text.splitlines()
        if mark and reason.startswith("found character") and mark.line < len(rows):
            found = rows[mark.line][mark.column : mark.column + 1]
            hint = "indent with spaces" if found == "\t" else "put the text in quotes"
            reason = f"{reason}: {json.dumps(found)}; {hint}"
    elif isinstance(error, ReaderError):
        line = text.encode().count(b"\n", 0, error.position) + 1
        reason = f"there is the control character U+{error.character:04X}"
    return ConfigError(source, "-", f"expected readable YAML, but: {reason}", line)


class _Document:
    """A YAML document with the lines of its keys.

    Attributes:
        content: the document as Python values; an empty document is an empty mapping.
    """

    def __init__(self, source: str, text: str) -> None:
        self._source = source
        loader = _Yaml(text)
        self._root: yaml.Node | None = loader.get_single_node()
        content = self._root and loader.construct_document(self._root)
        self.content: Any = {} if content is None else _in_seconds(content)

    def faults(
        self, error: ValidationError, names: Collection[str]
    ) -> list[ConfigError]:
        """The faults that a model found, in the order of the file.

        Values under ``defaults`` are merged into others, where the model reports their
        faults again; these repetitions are left out.

        Args:
            names: all keys of the model and its parts.
        """
        given: list[ConfigError] = []
        laid_under: list[ConfigError] = []
        errors = error.errors(include_url=False)
        for item in errors:
            if item["type"] == "too_short" and _has_below(errors, item["loc"]):
                continue  # pydantic does not count list items with faults
            line, found, key = self.locate(".".join(map(str, item["loc"])))
            if not found and item["loc"]:
                key = ".".join(filter(None, (key, str(item["loc"][-1]))))
            key = key.removesuffix(f".{_OF_A_KEY}")
            faults = given if found or item["type"] == "missing" else laid_under
            expected = _expected(item, names)
            faults.append(ConfigError(self._source, key or "-", expected, line))
        known = {fault.expected for fault in given}
        given += [fault for fault in laid_under if fault.expected not in known]
        return sorted(given, key=lambda fault: fault.line or 0)

    def locate(self, key: str) -> tuple[int | None, bool, str]:
        """Find a dotted key in the document.

        Names may contain dots. Words of ``key`` that are not in the document are
        skipped: pydantic inserts words, such as the type of a rule between its index
        and its key.

        Returns:
            The line of the key, or of its nearest parent if it is missing; whether its
            last word was found; and the key without the skipped words.
        """
        if self._root is None:
            return None, False, key
        line, node, rest = self._root.start_mark.line + 1, self._root, key
        found, words = False, []
        while rest:
            step = _step(node, rest)
            found = step is not None
            if step is None:
                rest = rest.partition(".")[2]
            else:
                before = rest
                line, node, rest = step
                words.append(before[: len(before) - len(rest)].rstrip("."))
        return line, found, ".".join(words)

    def repeated_keys(self) -> Iterator[ConfigError]:
        """Yield a fault for every key that occurs twice; YAML would use the last."""
        nodes = [("", self._root)] if self._root else []
        met: set[int] = set()  # an anchor may be used repeatedly, and within itself
        while nodes:
            path, node = nodes.pop()
            if id(node) in met:
                continue
            met.add(id(node))
            if isinstance(node, yaml.SequenceNode):
                items = enumerate(node.value)
                nodes += [(f"{path}{index}.", item) for index, item in items]
            elif isinstance(node, yaml.MappingNode):
                seen: set[str] = set()
                for name, value in node.value:
                    key = f"{path}{name.value}"
                    if key in seen:
                        line = name.start_mark.line + 1
                        expected = "is given twice; YAML would take the last"
                        yield ConfigError(self._source, key, expected, line)
                    seen.add(key)
                    nodes.append((f"{key}.", value))


def _names(model: type[BaseModel]) -> frozenset[str]:
    """The keys of a model and of all its parts."""
    schema = model.model_json_schema()
    parts = [schema, *schema.get("$defs", {}).values()]
    return frozenset(name for part in parts for name in part.get("properties", ()))


def _expected(error: ErrorDetails, names: Collection[str]) -> str:
    """The text for an error of pydantic."""
    kind, text, given = error["type"], error["msg"], error["input"]
    if kind == "missing":
        return "is required"
    if error["loc"][-1:] == (_OF_A_KEY,):
        return f"expected a key that is text, got {described(given)}; put it in quotes"
    if kind in {"extra_forbidden", "invalid_key"}:
        return "there is no such key" + did_you_mean(str(error["loc"][-1]), names)
    if kind in {"mesh", "value_error"}:
        return text.removeprefix("Value error, ")
    text = f"expected {_TYPES[kind]}" if kind in _TYPES else _SUBJECT.sub("", text)
    if given is None:
        return f"{text}, got nothing; leave the key out for its default"
    return text if isinstance(given, list | dict) else f"{text}, got {described(given)}"


#: Last part of pydantic's location of a fault in a key itself.
_OF_A_KEY = "[key]"
#: What is expected, in terms of YAML, by pydantic's type of error.
_TYPES = {
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("dict_type", "model_type"), "keys and values"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("list_type", "tuple_type"), "a list"),
    "finite_number": "a finite number",
    "string_type": "text",
}
_SUBJECT = re.compile(r"^[A-Z][a-z]+ (?=should )")


def _in_seconds(content: Any) -> Any:
    """Convert durations such as ``30m`` under keys ``…_seconds``, in place."""
    parts, met = [content], set()  # an anchor may be used within itself
    while parts:
        part = parts.pop()
        if not isinstance(part, list | dict) or id(part) in met:
            continue
        met.add(id(part))
        if isinstance(part, list):
            parts += part
            continue
        parts += part.values()
        for key, value in part.items():
            is_text = isinstance(key, str) and isinstance(value, str)
            if is_text and key.endswith("_seconds") and SPAN.fullmatch(value):
                part[key] = seconds_of(value)
    return content


def _step(node: yaml.Node, key: str) -> tuple[int, yaml.Node, str] | None:
    """Follow the first name of a dotted key; of several that fit, the longest.

    Returns:
        The line and node of its value, and the rest of the key; None without a match.
    """
    if isinstance(node, yaml.SequenceNode):
        first, _, rest = key.partition(".")
        if first.isdigit() and int(first) < len(node.value):
            item = node.value[int(first)]
            return item.start_mark.line + 1, item, rest
        return None
    if not isinstance(node, yaml.MappingNode):
        return None
    best: tuple[int, yaml.Node, str] | None = None
    longest = -1
    for name, value in node.value:
        text = str(name.value)
        if (key == text or key.startswith(f"{text}.")) and len(text) > longest:
            longest = len(text)
            best = name.start_mark.line + 1, value, key[longest + 1 :]
    return best


def _has_below(errors: list[ErrorDetails], loc: tuple[int | str, ...]) -> bool:
    """Whether an error is located below ``loc``."""
    return any(
        error["loc"][: len(loc)] == loc and len(error["loc"]) > len(loc)
        for error in errors
    )
