"""Several objects as one piece of bytes: a program's modules, each of which may call what those before it define.

magic 8 | count u32 | size u64, for each | the objects
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from graphc.errors import CompileError

MAGIC = b"graphc+o"
_HEADER = struct.Struct("<8sI")


def bundle(objects: Sequence[bytes]) -> bytes:
    """The objects in one; a single one stays as it is."""
    if len(objects) == 1:
        return objects[0]
    sizes = struct.pack(f"<{len(objects)}Q", *map(len, objects))
    return b"".join([_HEADER.pack(MAGIC, len(objects)), sizes, *objects])


def objects(data: bytes) -> list[bytes]:
    """What bundle() was given. Raises CompileError for a bundle that is not whole."""
    if not data.startswith(MAGIC):
        return [data]
    try:
        _, count = _HEADER.unpack_from(data)
        sizes = struct.unpack_from(f"<{count}Q", data, _HEADER.size)
    except struct.error as error:
        raise CompileError(f"the bundle of objects is damaged: {error}") from None
    found, at = [], _HEADER.size + 8 * count
    for size in sizes:
        found.append(data[at : at + size])
        at += size
    if at != len(data):
        raise CompileError(f"the bundle of objects is damaged: {len(data)} bytes instead of {at}")
    return found
