"""Names of devices as words of a routing key."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import lru_cache

#: A routing key has at most 255 bytes; this leaves room for what stands before.
_LONGEST_BYTES = 200
_DIGEST_BYTES = 4

#: A device says the same few names again and again; a longer one is none of them.
_CACHED_CHARS = 64

_NOT_OF_A_WORD = re.compile(r"[^\w-]+")


def word(text: str) -> str:
    """One word of a routing key: letters, digits, ``_`` and ``-``, in lower case.

    ``Wohnzimmer Süd`` → ``wohnzimmer_süd``. Letters of any script are kept; blanks,
    dots and signs become ``_``. Of a text without letters its digest is the word.
    """
    return _word(text) if len(text) <= _CACHED_CHARS else _word.__wrapped__(text)


@lru_cache(maxsize=8_192)
def _word(text: str) -> str:
    plain = unicodedata.normalize("NFKC", text).casefold()
    if found := _NOT_OF_A_WORD.sub("_", plain).strip("_"):
        return found
    return f"x{_digest(text)}"


def name(*levels: str) -> str:
    """The name of a sensor: its levels as words, joined by dots.

    ``kitchen/floor lamp`` is two levels, so ``kitchen.floor_lamp``; empty levels are
    left out. A name too long for a routing key ends in a digest of all of it.
    """
    words = [word(each) for level in levels for each in level.split("/") if each]
    joined = ".".join(words) or word("")
    encoded = joined.encode()
    if len(encoded) <= _LONGEST_BYTES:
        return joined
    kept = encoded[: _LONGEST_BYTES - 2 * _DIGEST_BYTES - 1].decode(errors="ignore")
    return f"{kept.rstrip('.')}-{_digest(joined)}"


def _digest(text: str) -> str:
    raw = text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(raw, digest_size=_DIGEST_BYTES).hexdigest()
