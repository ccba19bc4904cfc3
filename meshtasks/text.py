"""Text from outside, fit to stand in a sentence and without secrets.

Libraries quote what they were given: a header that cannot be sent, a URL with its
password. Their texts go into dead letters, the log and what commands print. So the
secrets of the environment are known here, and whatever is made of an exception passes
:func:`masked`: the texts of our own errors, the outcomes of records, every record of
the log, and the traceback of a process that ends by one.
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

#: Control characters but tab and line feed (C0, DEL, C1), and what makes text run
#: backwards or hides it: marks, embeddings and isolates of direction, characters of no
#: width, and the separators that some terminals break lines at.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u2069\ufeff\ud800-\udfff]"
)

_LARGEST_QUOTED = 10**20  # str() refuses numbers of more than 4,300 digits
_NO_VALUES = frozenset({"", "none", "null", "nan", "unknown", "unavailable"})
_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def printable(text: str) -> str:
    r"""``text`` as a terminal may be given it: characters that would steer it, or hide
    what stands there, become ``\u001b`` and such, which is also JSON's spelling."""
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def without_surrogates(text: str) -> str:
    """``text`` as JSON may have it: AMQP's may hold lone surrogates."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def json_in(text: str | bytes) -> Any:
    """The JSON that a text is; None if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def clip(text: str, limit_chars: int = 60) -> str:
    """``text``, or its beginning and an ellipsis when it is longer."""
    return text if len(text) <= limit_chars else f"{text[:limit_chars]}…"


def ends(text: str, limit_chars: int) -> str:
    """``text``, or its beginning and its end when it is longer: what went wrong often
    stands behind whatever it went wrong with."""
    if len(text) <= limit_chars:
        return text
    tail = limit_chars // 3
    return f"{text[: limit_chars - tail]} … {text[-tail:]}"


def is_no_value(text: str) -> bool:
    """Whether a text stands where a value would, and says that there is none."""
    return text.strip().lower() in _NO_VALUES


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean x?`` if one of the known names is close, else nothing."""
    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def described(value: object) -> str:
    """``the text "21,5"``, ``true``, ``an array`` …"""
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

#: Shorter ones are in too many words to be masked.
_SHORTEST_CHARS = 4
#: A part of a URL that is as long as this, and no plain word, may be a token.
_TOKEN_CHARS = 8
#: So long a word is taken for a token, whatever it is made of.
_LONG_CHARS = 16
_SECRET_NAMES = re.compile("token|pass|secret|key|auth|pwd", re.IGNORECASE)

#: As ``html.escape`` writes them, whose module takes 340 kB for its table of names.
_IN_HTML = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;"}
)

#: Between the URLs of a cluster's nodes.
_NEXT_URL = re.compile(r"\s*;\s*(?=amqps?://)")

_lock = threading.Lock()
_known: set[str] = set()
_pattern: re.Pattern[str] | None = None


def keep_secret(secrets: Iterable[str]) -> None:
    """Mask these from now on, also in the log, and the secret parts of those that are
    URLs."""
    global _pattern  # noqa: PLW0603 - what a process knows is the process's
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
    """Know no secret, as a process that begins."""
    global _pattern  # noqa: PLW0603 - as above
    with _lock:
        _known.clear()
        _pattern = None


def masked(text: str) -> str:
    """The text without the secrets."""
    return text if _pattern is None else _pattern.sub(MASK, text)


def _parts(secret: str) -> Iterator[str]:
    """What is to be masked of a secret: all of it, and its own secret parts."""
    if len(urls := _NEXT_URL.split(secret)) > 1:
        for each in urls:
            yield from _parts(each)
        return
    if "://" not in secret:
        yield secret
        yield from secret.split()[1:]  # of "Bearer …"
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
    if password and password != user:  # as of guest:guest, which is none
        yield password
        yield base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
    host = url.netloc.rpartition("@")[2]  # for some services it is the token
    words = [*url.path.split("/"), host, *host.split(":"), url.fragment]
    if user and not password:
        words.append(user)
    for name, value in parse_qsl(url.query):
        if _SECRET_NAMES.search(name):
            yield value
        words.append(value)
    yield from (word for word in map(unquote, words) if _is_token(word))


def _is_token(word: str) -> bool:
    """Whether a part of a URL may be a token rather than a name or a host."""
    if re.fullmatch(r"[\w.-]+\.[\w-]+(:\d+)?|.*:\d+", word):
        return False
    plain = word.replace("-", "").replace("_", "")
    return len(word) >= _LONG_CHARS or (
        len(word) >= _TOKEN_CHARS and not (plain.isalpha() and plain.islower())
    )


def _forms(secret: str) -> Iterator[str]:
    """The ways in which a text may spell a secret."""
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
    """A record of the log whose text and traceback are masked."""

    @override
    def getMessage(self) -> str:
        return masked(super().getMessage())

    @property  # type: ignore[explicit-override]  # mypy misses it on a property
    @override
    def exc_text(self) -> str | None:
        """The traceback, once a formatter has made it."""
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
