"""Functions that make foreign text fit for messages, and mask secrets in text.

Errors of libraries quote their input: a header that cannot be sent, a URL with its
password. Such texts get into dead letters, the log and the output of commands. So this
module knows the secrets of the environment, and every text made of an exception passes
through :func:`masked`: texts of our own errors, outcomes of records, every log record,
and the traceback of a process that an exception ends.
"""

from __future__ import annotations

import base64
import json
import logging
import re
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

from typing_extensions import override

#: Control characters except tab and line feed (C0, DEL, C1), and characters that
#: reverse or hide text: direction marks, embeddings and isolates, characters of zero
#: width, the line and paragraph separators, and lone surrogates.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u2069\ufeff\ud800-\udfff]"
)

_LARGEST_QUOTED = 10**20  # str() refuses numbers of more than 4,300 digits
_NO_VALUES = frozenset({"", "none", "null", "nan", "unknown", "unavailable"})
_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def printable(text: str) -> str:
    r"""``text``, safe to print on a terminal.

    Characters that control the terminal or hide text become escapes such as
    ``\u001b``, as in JSON.
    """
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def without_surrogates(text: str) -> str:
    """``text`` with ``?`` for lone surrogates, which text from AMQP may contain and
    JSON in UTF-8 cannot."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def json_in(text: str | bytes) -> Any:
    """The value that a JSON text stands for; None if the text is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def clip(text: str, limit_chars: int = 60) -> str:
    """``text``, cut after ``limit_chars`` with an ellipsis if it is longer."""
    return text if len(text) <= limit_chars else f"{text[:limit_chars]}…"


def ends(text: str, limit_chars: int) -> str:
    """``text``; if it is longer than ``limit_chars``, its beginning and its end.

    Errors often quote the input first and give the reason at the end.
    """
    if len(text) <= limit_chars:
        return text
    tail = limit_chars // 3
    return f"{text[: limit_chars - tail]} … {text[-tail:]}"


def is_no_value(text: str) -> bool:
    """Whether a text in place of a value means "no value", such as ``unknown``."""
    return text.strip().lower() in _NO_VALUES


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean x?`` if a known name is similar, else an empty text."""
    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def described(value: object) -> str:
    """A JSON value in words, for messages: ``the text "21,5"``, ``true``, ``an array``.

    Long texts are cut.
    """
    match value:
        case None | bool():
            text = json.dumps(value)
        case int() if abs(value) > _LARGEST_QUOTED:
            text = "a number too large"
        case int() | float():
            text = _NOT_FINITE.get(str(value), f"the number {value}")
        case str():
            text = f'the text "{clip(value)}"'
        case list() | tuple():
            text = "an array"
        case dict():
            text = "an object"
        case _:
            text = f"a {type(value).__name__}"
    return text


MASK = "***"

#: Shorter secrets are not masked: they occur in too many words.
_SHORTEST_CHARS = 4
#: Parts of a URL of at least this length are masked as possible tokens, unless they
#: are words in lower case or look like a host.
_TOKEN_CHARS = 8
#: From this length, words in lower case are masked as well.
_LONG_CHARS = 16
_SECRET_NAMES = re.compile("token|pass|secret|key|auth|pwd", re.IGNORECASE)

#: The same as ``html.escape``. Importing :mod:`html` takes 340 kB of memory for its
#: table of names.
_IN_HTML = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;"}
)

#: Separator of the URLs of a cluster's nodes.
_NEXT_URL = re.compile(r"\s*;\s*(?=amqps?://)")

_lock = threading.Lock()
_known: set[str] = set()
_pattern: re.Pattern[str] | None = None


def keep_secret(secrets: Iterable[str]) -> None:
    """Mask these secrets from now on, also in the log and in tracebacks.

    Of a URL, its secret parts are masked: password, tokens in path and query.
    """
    global _pattern  # noqa: PLW0603 - one set of secrets for the whole process
    forms = {
        form for secret in secrets for part in _parts(secret) for form in _forms(part)
    }
    with _lock:
        if forms <= _known:
            return
        _known.update(forms)
        longest_first = sorted(_known, key=len, reverse=True)
        _pattern = re.compile("|".join(map(re.escape, longest_first)))
    logging.setLogRecordFactory(_Record)
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _print_exception
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _print_exception_of_thread


def forget() -> None:
    """Forget all secrets; for tests."""
    global _pattern  # noqa: PLW0603 - as above
    with _lock:
        _known.clear()
        _pattern = None


def masked(text: str) -> str:
    """The text with ``***`` for every known secret."""
    return text if _pattern is None else _pattern.sub(MASK, text)


def _parts(secret: str) -> Iterator[str]:
    """The texts to mask of a secret: the whole secret and parts of it, or the secret
    parts of a URL."""
    if len(urls := _NEXT_URL.split(secret)) > 1:
        for each in urls:
            yield from _parts(each)
        return
    if "://" not in secret:
        yield secret
        yield from secret.split()[1:]  # the token of "Bearer …"
        yield secret.partition(" ")[2]
        yield from (
            each.rpartition(":")[2]
            for each in re.split(r"[,\s]", secret)
            if ":" in each
        )
        return
    try:
        url = urlsplit(secret)
    except ValueError:
        yield secret
        return
    user, _, password = url.netloc.rpartition("@")[0].partition(":")
    if password and password != user:  # guest:guest is no secret
        yield password
        yield base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
    host = url.netloc.rpartition("@")[2]  # the token of some services is here
    words = [*url.path.split("/"), host, *host.split(":"), url.fragment]
    if user and not password:
        words.append(user)
    for name, value in parse_qsl(url.query):
        if _SECRET_NAMES.search(name):
            yield value
        words.append(value)
    yield from (word for word in map(unquote, words) if _is_token(word))


def _is_token(word: str) -> bool:
    """Whether a part of a URL may be a token, and not a name or a host."""
    if re.fullmatch(r"[\w.-]+\.[\w-]+(:\d+)?|.*:\d+", word):
        return False
    plain = word.replace("-", "").replace("_", "")
    return len(word) >= _LONG_CHARS or (
        len(word) >= _TOKEN_CHARS and not (plain.isalpha() and plain.islower())
    )


def _forms(secret: str) -> Iterator[str]:
    """The spellings of a secret in text: plain, percent-encoded, escaped, base64 …"""
    if len(secret) < _SHORTEST_CHARS:
        return
    for text in {secret, unquote(secret)}:
        raw = text.encode("utf-8", "surrogateescape")
        yield text
        yield from (
            quote(text, safe=safe, errors="replace") for safe in ("", "/", "/:@")
        )
        yield quote(text, safe="", errors="replace").lower()
        yield quote_plus(text, errors="replace")
        yield repr(raw)[2:-1]
        yield repr(text)[1:-1]
        yield ascii(text)[1:-1]
        yield json.dumps(text)[1:-1]
        yield json.dumps(text, ensure_ascii=False)[1:-1]
        yield text.translate(_IN_HTML)
        yield base64.b64encode(raw).decode()


class _Record(logging.LogRecord):
    """A log record that masks its text and traceback."""

    @override
    def getMessage(self) -> str:
        return masked(super().getMessage())

    @property  # type: ignore[explicit-override]  # mypy misses it on a property
    @override
    def exc_text(self) -> str | None:
        """The masked traceback; None before a formatter has set it."""
        text: str | None = self.__dict__.get("exc_text")
        return text and masked(text)

    @exc_text.setter
    def exc_text(self, text: str | None) -> None:
        self.__dict__["exc_text"] = text


def _print_exception(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    text = "".join(traceback.format_exception(kind, error, trace))
    sys.stderr.write(masked(text))


def _print_exception_of_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        _print_exception(args.exc_type, args.exc_value, args.exc_traceback)
