"""The cache on disk: whole entries or none, the user's own or none, many writers at once, a bound on its size."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from graphc import errors
from graphc.runtime import cache
from graphc.runtime.cache import DiskCache, content_key, disk_cache, source_digest

KEY, OTHER = content_key("a"), content_key("b")
posix = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="owners and modes are POSIX's")


@pytest.fixture
def kept(tmp_path: Path) -> DiskCache:
    return DiskCache(tmp_path / "graphc")


def entry_file(kept: DiskCache, key: str = KEY) -> Path:
    assert kept.folder is not None
    return kept.folder / f"{key}.entry"


def test_what_is_put_is_got(kept: DiskCache) -> None:
    assert kept.get(KEY) is None
    metadata = {"numbers": [1, 2.5, -0.0], "text": "ü\n", "nothing": None, "nested": {"a": [True]}}
    assert kept.put(KEY, metadata, b"\x00\xff" * 1000)
    found = kept.get(KEY)
    assert found is not None
    assert (found.metadata, found.payload) == (metadata, b"\x00\xff" * 1000)
    assert kept.get(OTHER) is None
    assert kept.put(KEY, {}, b"")
    assert kept.get(KEY) == cache.Entry({}, b"")
    assert (kept.usage().entries, kept.usage().folder) == (1, kept.folder)


def test_make_runs_once(kept: DiskCache) -> None:
    made = []

    def make() -> tuple[dict[str, Any], bytes]:
        made.append(1)
        return {"n": len(made)}, b"code"

    assert kept.get_or_make(KEY, make) == kept.get_or_make(KEY, make) == cache.Entry({"n": 1}, b"code")
    assert len(made) == 1


def test_an_error_while_making_leaves_nothing(kept: DiskCache) -> None:
    def fail() -> tuple[dict[str, Any], bytes]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        kept.get_or_make(KEY, fail)
    assert kept.usage().entries == 0


@posix
def test_folder_and_entries_are_private(kept: DiskCache) -> None:
    before = os.umask(0)
    try:
        kept.put(KEY, {}, b"code")
    finally:
        os.umask(before)
    assert kept.folder is not None
    assert stat.S_IMODE(kept.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(entry_file(kept).stat().st_mode) == 0o600


@posix
def test_an_open_folder_of_the_user_s_own_is_closed(kept: DiskCache) -> None:
    assert kept.folder is not None
    kept.folder.mkdir(mode=0o777)
    kept.folder.chmod(0o777)
    assert kept.put(KEY, {}, b"code")
    assert stat.S_IMODE(kept.folder.stat().st_mode) == 0o700


def test_every_single_damaged_byte_is_noticed(kept: DiskCache) -> None:
    kept.put(KEY, {"a": 1}, b"some code")
    path = entry_file(kept)
    whole = path.read_bytes()
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 0x40]) + whole[i + 1 :])
        assert kept.get(KEY) is None, i
    path.write_bytes(whole)
    assert kept.get(KEY) == cache.Entry({"a": 1}, b"some code")


def test_truncated_and_lengthened_entries_are_ignored_and_made_anew(kept: DiskCache) -> None:
    kept.put(KEY, {"a": 1}, b"some code")
    path = entry_file(kept)
    whole = path.read_bytes()
    for wrong in [*(whole[:n] for n in range(len(whole))), whole + b"\0", b"", b"\x80\x04."]:
        path.write_bytes(wrong)
        assert kept.get(KEY) is None
        assert kept.get_or_make(KEY, lambda: ({"a": 2}, b"new")) == cache.Entry({"a": 2}, b"new")
        assert kept.get(KEY) == cache.Entry({"a": 2}, b"new")


def test_an_entry_under_another_name_is_ignored(kept: DiskCache) -> None:
    kept.put(KEY, {}, b"code of a")
    entry_file(kept).rename(entry_file(kept, OTHER))
    assert kept.get(OTHER) is None


def test_an_entry_of_another_format_version_is_ignored(kept: DiskCache, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.put(KEY, {}, b"code")
    monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1)
    assert kept.get(KEY) is None


@posix
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_an_entry_that_others_may_write_is_ignored(kept: DiskCache, mode: int) -> None:
    kept.put(KEY, {}, b"code")
    entry_file(kept).chmod(mode)
    assert kept.get(KEY) is None
    kept.put(KEY, {}, b"mine")
    assert kept.get(KEY) == cache.Entry({}, b"mine")


@posix
def test_an_entry_of_another_user_is_ignored(kept: DiskCache, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.put(KEY, {}, b"code")
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    assert kept.get(KEY) is None


@posix
def test_a_folder_of_another_user_is_not_used(kept: DiskCache, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.put(KEY, {}, b"code")
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    with pytest.warns(RuntimeWarning, match="belongs to user"):
        assert not kept.put(OTHER, {}, b"code")
    assert kept.folder is None
    assert "belongs to user" in kept.usage().reason
    assert not kept.put(OTHER, {}, b"code")  # without another warning


@posix
def test_links_and_things_that_aren_t_files_are_ignored(kept: DiskCache, tmp_path: Path) -> None:
    kept.put(KEY, {}, b"code")
    entry_file(kept).rename(tmp_path / "elsewhere")
    entry_file(kept).symlink_to(tmp_path / "elsewhere")
    assert kept.get(KEY) is None
    entry_file(kept).unlink()
    os.mkfifo(entry_file(kept), 0o600)
    assert kept.get(KEY) is None  # and doesn't wait for a writer


def test_a_place_that_takes_no_files_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    kept = DiskCache(tmp_path / "file" / "graphc")
    with pytest.warns(RuntimeWarning, match="GRAPHC_CACHE_DIR"):
        entry = kept.get_or_make(KEY, lambda: ({}, b"code"))
    assert entry.payload == b"code"
    assert kept.get_or_make(KEY, lambda: ({}, b"again")).payload == b"again"


def test_the_longest_unused_entries_go_first(tmp_path: Path) -> None:
    kept = DiskCache(tmp_path / "graphc", limit=5000)
    keys = [content_key(str(i)) for i in range(6)]
    now = time.time()
    for age, key in zip(range(60, 0, -10), keys, strict=True):
        kept.put(key, {}, bytes(900))
        os.utime(entry_file(kept, key), (now - age, now - age))
        if key == keys[3]:
            assert kept.get(keys[0]) is not None  # used: the youngest now
    kept.put(content_key("last"), {}, bytes(900))
    assert [kept.get(key) is not None for key in keys] == [True, False, False, True, True, True]
    assert kept.usage().size <= 5000
    assert not kept.put(KEY, {}, bytes(6000))  # larger than all together may be


def test_what_dead_writers_left_is_removed(kept: DiskCache) -> None:
    kept.put(KEY, {}, b"code")
    assert kept.folder is not None
    old, young = kept.folder / "x.1.aa.tmp", kept.folder / "y.2.bb.tmp"
    old.write_bytes(b"half")
    young.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    kept.put(OTHER, {}, b"code")
    assert (old.exists(), young.exists()) == (False, True)


def test_clear_removes_entries_and_leaves_other_files(kept: DiskCache) -> None:
    kept.put(KEY, {}, b"code")
    kept.put(OTHER, {}, b"code")
    assert kept.folder is not None
    (kept.folder / "notes.txt").write_text("mine")
    assert kept.clear() == 2
    assert kept.get(KEY) is None
    assert (kept.folder / "notes.txt").read_text() == "mine"


def write_and_read(folder: str, seed: int) -> int:
    """Put and get the same few keys; how often a whole entry was found. Raises if one was wrong."""
    kept, found = DiskCache(Path(folder), limit=400_000), 0
    for i in range(150):
        key = content_key(str(i % 5))
        payload = key.encode() * (i % 5 * 100 + 50)
        if (i + seed) % 3 == 0:
            kept.put(key, {"key": key}, payload)
        entry = kept.get(key)
        if entry is not None:
            assert entry == cache.Entry({"key": key}, payload)
            found += 1
        if (i + seed) % 50 == 0:
            kept.clear()
    return found


def test_processes_at_once_never_see_half_an_entry(tmp_path: Path) -> None:
    folder = str(tmp_path / "graphc")
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as workers:
        found = list(workers.map(write_and_read, [folder] * 4, range(4)))
    assert sum(found) > 100
    assert not list(Path(folder).glob("*.tmp"))


def test_threads_at_once_never_see_half_an_entry(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as workers:
        found = list(workers.map(write_and_read, [str(tmp_path / "graphc")] * 4, range(4)))
    assert sum(found) > 100


@pytest.fixture
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GRAPHC_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("_environment")
def test_where_the_folder_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if sys.platform == "linux":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert disk_cache().folder == tmp_path / "xdg" / "graphc"
    monkeypatch.setenv("GRAPHC_CACHE_DIR", str(tmp_path / "here"))
    assert disk_cache().folder == tmp_path / "here"
    assert disk_cache() is disk_cache()
    monkeypatch.setenv("GRAPHC_CACHE_DIR", "OFF")
    assert disk_cache().folder is None
    assert disk_cache().usage().reason == "GRAPHC_CACHE_DIR=off"
    assert disk_cache().get_or_make(KEY, lambda: ({}, b"made")).payload == b"made"


def test_keys_tell_where_one_part_ends() -> None:
    assert content_key("ab", "c") != content_key("a", "bc") != content_key("abc")
    assert content_key("a") == content_key(b"a")
    assert len(content_key()) == 64


def test_the_source_s_digest_follows_every_file(tmp_path: Path) -> None:
    """In a copy of the sources, a changed line, a renamed file and a file more each give another digest."""
    package = tmp_path / "graphc"
    (package / "runtime").mkdir(parents=True)
    root = Path(errors.__file__).parent
    for name in ("__init__.py", "errors.py", "frozen.py"):
        (package / name).write_text("" if name == "__init__.py" else (root / name).read_text())
    source = (root / "runtime" / "cache.py").read_text()
    (package / "runtime" / "__init__.py").write_text("")
    (package / "runtime" / "cache.py").write_text(source)

    def digest() -> str:
        told = "from graphc.runtime.cache import source_digest; print(source_digest())"
        done = subprocess.run(
            [sys.executable, "-B", "-c", told], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout

    seen = [digest()]
    (package / "runtime" / "cache.py").write_text(source + "# more\n")
    seen.append(digest())
    (package / "new.py").write_text("")
    seen.append(digest())
    (package / "new.py").rename(package / "newer.py")
    seen.append(digest())
    (package / "notes.txt").write_text("not a source")
    assert digest() == seen[-1]
    assert len(set(seen)) == 4
    assert source_digest() == source_digest()


def test_entries_are_json_and_bytes(kept: DiskCache) -> None:
    kept.put(KEY, {"a": [1]}, b"payload")
    data = entry_file(kept).read_bytes()
    assert data.startswith(cache.MAGIC)
    assert json.loads(data[56:-7]) == {"a": [1]}
    assert data.endswith(b"payload")
    with pytest.raises(TypeError):
        kept.put(OTHER, {"a": object()}, b"")
