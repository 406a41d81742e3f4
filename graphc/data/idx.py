"""The idx format of MNIST and its kin: a magic number, the extents, the bytes; plain or in gzip.

Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits", section "file formats".
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from graphc.errors import DataError

_UNSIGNED_BYTES = 0x08


def read_idx(path: str | Path, sha256: str | None = None) -> npt.NDArray[np.uint8]:
    """The array of an idx file of unsigned bytes.

    sha256: what the content, uncompressed, must hash to in hex (so it doesn't matter who compressed it).
    Raises DataError if the file is missing, truncated, damaged, of another format or of another content.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"can't read {path}: {error.strerror}") from error
    try:
        content = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path} is truncated or damaged ({error}); delete it and fetch it again") from error
    array = _parse(content, path)
    if sha256 is not None and (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise DataError(
            f"{path} has a wrong checksum: its content's SHA-256 is {found}, expected {sha256}. "
            f"Delete it and fetch it again, or read it as it is with graphc.data.read_idx."
        )
    return array


def _parse(content: bytes, path: Path) -> npt.NDArray[np.uint8]:
    if len(content) < 4 or content[0] or content[1] or content[2] != _UNSIGNED_BYTES:
        raise DataError(
            f"{path} isn't an idx file of unsigned bytes: it starts with 0x{content[:4].hex() or '(nothing)'}"
        )
    ndim = content[3]
    header = 4 + 4 * ndim
    if len(content) < header:
        raise DataError(f"{path} is truncated: its header has {len(content)} of {header} bytes")
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", ndim, 4))
    if len(content) - header != prod(shape):
        problem = "truncated" if len(content) - header < prod(shape) else "damaged"
        raise DataError(f"{path} is {problem}: {len(content) - header} bytes follow a header that announces {shape}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
