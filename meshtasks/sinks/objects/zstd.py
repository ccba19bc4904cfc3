"""Compression of archive objects."""

from __future__ import annotations

import zstandard


def compress(content: bytes, level: int) -> bytes:
    """One zstd frame with content size and checksum, so that readers notice damage.

    Args:
        content: what to compress.
        level: 1 (fastest) to 19 (smallest).
    """
    compressor = zstandard.ZstdCompressor(level=level, write_checksum=True)
    return compressor.compress(content)


def decompress(data: bytes) -> bytes:
    """What :func:`compress` was given.

    Raises:
        zstandard.ZstdError: the data are damaged.
    """
    return zstandard.ZstdDecompressor().decompress(data)
