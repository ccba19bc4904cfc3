"""Text as both databases can keep it: what comes from outside goes through
:func:`clean`, and through :func:`storable` where it is a key."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

#: Keys that are longer are cut; an index of PostgreSQL takes 2,700 bytes.
_KEY_CHARS = 400
_KEPT_CHARS = 200


def clean(text: str) -> str:
    """The text as both databases can keep it: without NUL and halves of characters."""
    if text.isprintable():
        return text
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()


def storable(key: str) -> str:
    """The text as a key that both databases can index; a long one is cut, and told
    apart from others by a digest."""
    key = clean(key)
    if len(key) <= _KEY_CHARS:
        return key
    digest = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
    return f"{key[:_KEPT_CHARS]}#{digest}"


def storables(keys: Iterable[str]) -> dict[str, str]:
    """:func:`storable` of many keys → the key; quick where that changes none."""
    keys = list(keys)
    joined = "".join(keys)
    is_clean = "\0" not in joined if joined.isascii() else joined.isprintable()
    if is_clean and max(map(len, keys), default=0) <= _KEY_CHARS:
        return dict(zip(keys, keys, strict=True))
    return {storable(key): key for key in keys}
