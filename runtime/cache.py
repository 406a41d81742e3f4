"""Machine code on disk: entries of JSON metadata and bytes, private to the user, never executed unless intact.

The folder is GRAPHC_CACHE_DIR, or platformdirs' cache folder (so XDG_CACHE_HOME is honoured);
GRAPHC_CACHE_DIR=off turns it off. Nothing is pickled: a reader can be misled about content only by somebody who may
write the user's own files, and even then a wrong checksum, owner or mode makes the entry count as absent.

An entry's file:

    magic 8 | version u32 | metadata length u32 | payload length u64 | checksum 32 | metadata | payload

with the checksum the SHA-256 of key, metadata and payload.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import struct
import time
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from graphc import errors
from graphc.frozen import dataclass

MAGIC = b"graphc\r\n"  # the line end shows a copy in text mode at once
VERSION = 1
LIMIT = 512 * 2**20  # bytes that the folder may hold
_HEADER = struct.Struct("<8sIIQ32s")
_SUFFIX = ".entry"
_STALE_SECONDS = 3600.0  # a temporary file this old belongs to a writer that died


@dataclass(frozen=True, slots=True)
class Entry:
    """metadata: what JSON can say. payload: bytes."""

    metadata: dict[str, Any]
    payload: bytes


@dataclass(frozen=True, slots=True)
class Usage:
    """What the folder holds. folder is None where the cache is off; then `reason` says why."""

    folder: Path | None
    reason: str
    entries: int
    size: int


def content_key(*parts: str | bytes) -> str:
    """A digest of the parts, in order; no two lists of parts share one by running together."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(struct.pack("<Q", len(data)))
        digest.update(data)
    return digest.hexdigest()


@cache
def source_digest() -> str:
    """A digest of graphc's own source: what an edited checkout makes must not be mistaken for what it made before.

    Of sizes and times of change, as Python's own cache of compiled modules: reading the files would take longer than
    loading a program.
    """
    root = os.path.dirname(errors.__file__)
    digest = hashlib.sha256()
    folders = [root]
    while folders:
        folder = folders.pop()
        with os.scandir(folder) as items:
            found = sorted(items, key=lambda item: item.name)
        for item in found:
            if item.name.endswith(".py"):
                status = item.stat()
                digest.update(f"{item.path[len(root) :]} {status.st_size} {status.st_mtime_ns}\n".encode())
            elif item.is_dir() and item.name != "__pycache__":
                folders.append(item.path)
    return digest.hexdigest()


class DiskCache:
    """A folder of entries. Any number of threads and processes may use it at once: an entry appears whole or not
    at all, and what is read stays readable while somebody replaces or evicts it."""

    def __init__(self, folder: Path | None, limit: int = LIMIT, reason: str = "") -> None:
        self._folder = folder
        self._limit = limit
        self._reason = reason

    @property
    def folder(self) -> Path | None:
        return self._folder

    def has(self, key: str) -> bool:
        """Whether there seems to be an entry of that key; get() tells whether it is whole."""
        return self._folder is not None and (self._folder / f"{key}{_SUFFIX}").exists()

    def get(self, key: str) -> Entry | None:
        """The entry of that key; None if there is none that is whole, and the user's own."""
        if self._folder is None:
            return None
        path = self._folder / f"{key}{_SUFFIX}"
        try:
            data = _read_private(path)
        except OSError:
            return None
        entry = _unpack(key, data) if data is not None else None
        if entry is not None:
            with contextlib.suppress(OSError):
                os.utime(path)  # the oldest entries are evicted first: this one was just used
        return entry

    def put(self, key: str, metadata: dict[str, Any], payload: bytes) -> bool:
        """Keep an entry. False if the cache is off, or the folder takes nothing (then a warning says why, once)."""
        data = _pack(key, metadata, payload)
        if self._folder is None or len(data) > self._limit:
            return False
        try:
            _prepare(self._folder)
            _write_whole(self._folder, f"{key}{_SUFFIX}", data)
            self._evict()
        except FileNotFoundError:
            return False  # somebody removed the folder while we wrote; the next entry makes it again
        except OSError as error:
            self._reason = f"{self._folder} can't be used: {error}"
            self._folder = None
            warnings.warn(
                f"graphc keeps no machine code on disk: {self._reason}. Compiled functions will be "
                "compiled anew in each process. Set GRAPHC_CACHE_DIR to another folder, or to 'off'.",
                RuntimeWarning,
                stacklevel=2,
            )
            return False
        return True

    def get_or_make(self, key: str, make: Callable[[], tuple[dict[str, Any], bytes]]) -> Entry:
        """The kept entry, or what `make` returns, which is then kept. Two processes may both make it."""
        found = self.get(key)
        if found is None:
            found = Entry(*make())
            self.put(key, found.metadata, found.payload)
        return found

    def clear(self) -> int:
        """Remove every entry; how many there were. What is just being written stays."""
        removed = 0
        for path, _, used in self._files():
            if path.suffix == _SUFFIX or _abandoned(path, used):
                with contextlib.suppress(OSError):
                    path.unlink()
                    removed += path.suffix == _SUFFIX
        return removed

    def usage(self) -> Usage:
        sizes = [size for path, size, _ in self._files() if path.suffix == _SUFFIX]
        return Usage(self._folder, self._reason, len(sizes), sum(sizes))

    def _files(self) -> list[tuple[Path, int, float]]:
        """(path, bytes, time of last use) of what graphc wrote, oldest first."""
        found = []
        if self._folder is None:
            return []
        with contextlib.suppress(OSError), os.scandir(self._folder) as items:
            for item in items:
                if item.name.endswith((_SUFFIX, ".tmp")):
                    with contextlib.suppress(OSError):
                        status = item.stat(follow_symlinks=False)
                        found.append((Path(item.path), status.st_size, status.st_mtime))
        return sorted(found, key=lambda file: (file[2], file[0]))

    def _evict(self) -> None:
        """Remove what dead writers left, and the entries longest unused until the rest fits the limit."""
        files = self._files()
        total = sum(size for _, size, _ in files)
        for path, size, used in files:
            if _abandoned(path, used) or (path.suffix == _SUFFIX and total > self._limit):
                with contextlib.suppress(OSError):
                    path.unlink()
                    total -= size


def _abandoned(path: Path, used: float) -> bool:
    return path.suffix == ".tmp" and time.time() - used > _STALE_SECONDS


def _pack(key: str, metadata: dict[str, Any], payload: bytes) -> bytes:
    told = json.dumps(metadata, separators=(",", ":"), allow_nan=True).encode()
    return _HEADER.pack(MAGIC, VERSION, len(told), len(payload), _checksum(key, told, payload)) + told + payload


def _unpack(key: str, data: bytes) -> Entry | None:
    """The entry in a file's bytes, or None if they aren't one of that key, whole and of this version."""
    if len(data) < _HEADER.size:
        return None
    magic, version, told_size, payload_size, checksum = _HEADER.unpack_from(data)
    if magic != MAGIC or version != VERSION or len(data) != _HEADER.size + told_size + payload_size:
        return None
    told = data[_HEADER.size : _HEADER.size + told_size]
    payload = data[_HEADER.size + told_size :]
    if checksum != _checksum(key, told, payload):
        return None
    return Entry(json.loads(told), payload)


def _checksum(key: str, told: bytes, payload: bytes) -> bytes:
    return bytes.fromhex(content_key(key, told, payload))


def _read_private(path: Path) -> bytes | None:
    """A regular file's bytes if it belongs to this user and nobody else may write it, else None."""
    descriptor = os.open(
        path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    )
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        return file.read() if stat.S_ISREG(status.st_mode) and _private(status, 0o022) else None


def _private(status: os.stat_result, forbidden: int) -> bool:
    """Whether a file is this user's, with none of the `forbidden` bits. Windows has neither; its profile folders are
    private already."""
    if not hasattr(os, "geteuid"):
        return True
    return status.st_uid == os.geteuid() and not status.st_mode & forbidden


def _prepare(folder: Path) -> None:
    """Make the folder, or close one of the user's own to others. Raises PermissionError if it is somebody else's."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.stat()
    if not _private(status, 0):
        raise PermissionError(f"the folder belongs to user {status.st_uid}")
    if not _private(status, 0o077):
        folder.chmod(0o700)


def _write_whole(folder: Path, name: str, data: bytes) -> None:
    """Write a file, readable by its owner only, that others see complete or not at all."""
    temporary = folder / f"{name}.{os.getpid()}.{os.urandom(8).hex()}.tmp"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
        os.replace(temporary, folder / name)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


@cache
def _opened(folder: str) -> DiskCache:
    return DiskCache(Path(folder).expanduser())


@cache
def _turned_off() -> DiskCache:
    return DiskCache(None, reason="GRAPHC_CACHE_DIR=off")


def disk_cache() -> DiskCache:
    """The cache that compiled functions use, as the environment says now."""
    told = os.environ.get("GRAPHC_CACHE_DIR", "").strip()
    if told:
        return _turned_off() if told.lower() == "off" else _opened(told)
    import platformdirs  # slow to import for one path

    return _opened(platformdirs.user_cache_dir("graphc"))
