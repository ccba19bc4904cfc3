"""Compression of archive objects."""

from __future__ import annotations

import zstandard

from meshtasks.flows.archive.objects.store import DamagedObject


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
        DamagedObject: they are not that any more.
    """
    try:
        return zstandard.ZstdDecompressor().decompress(data)
    except (zstandard.ZstdError, MemoryError) as error:
        # a damaged header may claim any size
        message = f"its content is damaged: {error or 'its size cannot be'}"
        raise DamagedObject(message) from error
