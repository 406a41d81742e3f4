"""The shipped images, idx files whole and broken, and downloads from a server of our own."""

from __future__ import annotations

import gzip
import hashlib
import struct
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from graphc.data import fashion_mnist, images, mnist, read_idx
from graphc.data.download import default_folder, fetch
from graphc.errors import DataError

FILES = [
    f"{part}-ubyte.gz" for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
]


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def test_the_shipped_images_are_balanced_and_in_range() -> None:
    for train, count in ((True, 10_000), (False, 2_000)):
        data = fashion_mnist(train)
        assert data.images.shape == (count, 1, 28, 28)
        assert data.images.dtype == np.float32
        assert data.images.min() == 0
        assert data.images.max() == 1
        assert 0.25 < data.images.mean() < 0.32
        assert data.labels.dtype == np.int64
        np.testing.assert_array_equal(np.bincount(data.labels), count // 10)
        assert len(data.classes) == 10
        image, label = data[0]
        assert image.shape == (1, 28, 28)
        assert image.dtype.name == "float32"
        assert data.classes[label.item()] == "ankle boot"
    folder = images.SHIPPED / "fashion-mnist"
    assert "MIT License" in (folder / "LICENSE").read_text()
    assert "1,000 images of each class" in (folder / "README.md").read_text().replace("\n", " ")


def test_a_trouser_looks_like_one() -> None:
    """The labels belong to the images: two legs, so the middle column is dark low down."""
    data = fashion_mnist(train=False)
    trousers = data.images[data.labels == data.classes.index("trouser"), 0].mean(0)
    assert trousers[20, 13:15].mean() < 0.5 * trousers[20, [10, 17]].mean()


def test_idx_files_plain_and_compressed(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "a").write_bytes(idx(array))
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx(array)))
    digest = hashlib.sha256(idx(array)).hexdigest()
    for name in ("a", "a.gz"):
        np.testing.assert_array_equal(read_idx(tmp_path / name, digest), array)
    (tmp_path / "empty").write_bytes(idx(np.zeros((0, 5), np.uint8)))
    assert read_idx(tmp_path / "empty").shape == (0, 5)


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        (gzip.compress(idx(np.ones((5, 5), np.uint8)), mtime=0)[:-9], "truncated or damaged"),
        (gzip.compress(idx(np.ones((5, 5), np.uint8)), mtime=0)[:12], "truncated or damaged"),
        (gzip.compress(bytes(999), mtime=0)[:30] + b"x" * 20, "truncated or damaged"),
        (idx(np.ones((5, 5), np.uint8))[:-1], r"truncated: 24 bytes follow a header that announces \(5, 5\)"),
        (idx(np.ones((5, 5), np.uint8)) + b"x", "damaged: 26 bytes follow"),
        (idx(np.ones((5, 5), np.uint8))[:9], "truncated: its header has 9 of 12 bytes"),
        (b"<html>404</html>", "isn't an idx file of unsigned bytes"),
        (b"", r"isn't an idx file.*\(nothing\)"),
    ],
)
def test_a_broken_file_is_a_clear_error(tmp_path: Path, content: bytes, pattern: str) -> None:
    (tmp_path / "x.gz").write_bytes(content)
    with pytest.raises(DataError, match=pattern) as caught:
        read_idx(tmp_path / "x.gz")
    assert str(tmp_path / "x.gz") in str(caught.value)


def test_a_wrong_checksum_and_a_missing_file_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train-images.*isn't there.*fashion_mnist\(download=True\).*root="):
        fashion_mnist(root=tmp_path)
    (tmp_path / FILES[0]).write_bytes(gzip.compress(idx(np.ones((3, 28, 28), np.uint8))))
    with pytest.raises(DataError, match="wrong checksum.*expected c59f468a"):
        fashion_mnist(root=tmp_path)
    with pytest.raises(DataError, match="can't read .*No such file"):
        read_idx(tmp_path / "nothing")


def test_the_cache_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder("mnist") == tmp_path / "graphc" / "data" / "mnist"
    with pytest.raises(DataError, match=r"mnist\(download=True\)"):
        mnist()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """(url, folder) of a server on this machine."""
    pytest.importorskip("pooch")
    pytest.importorskip("tqdm")
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/", folder
        running.shutdown()
        thread.join()


@pytest.fixture
def small(server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set of four images that stands for MNIST, offered by the server. Returns the served folder."""
    url, folder = server
    digests = []
    for name in FILES:
        array = np.arange(4, dtype=np.uint8) if "labels" in name else np.full((4, 28, 28), 51, np.uint8)
        (folder / name).write_bytes(gzip.compress(idx(array)))
        digests.append(hashlib.sha256(idx(array)).hexdigest())
    source = images._source("mnist", url, images.MNIST.classes, *digests)
    monkeypatch.setattr(images, "MNIST", source)
    return folder


def test_a_set_is_downloaded_once(small: Path, tmp_path: Path) -> None:
    root = tmp_path / "deep" / "root"
    data = mnist(root=root, download=True)
    assert data.images.shape == (4, 1, 28, 28)
    np.testing.assert_allclose(data.images, 0.2)
    np.testing.assert_array_equal(data.labels, np.arange(4))
    assert sorted(p.name for p in root.iterdir()) == sorted(FILES[:2])
    for path in small.iterdir():
        path.unlink()
    assert len(mnist(root=root)) == 4
    assert len(mnist(root=root, download=True)) == 4
    with pytest.raises(DataError, match="can't download .*404"):
        mnist(train=False, root=root, download=True)
    assert sorted(p.name for p in root.iterdir()) == sorted(FILES[:2])


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        (gzip.compress(idx(np.ones((4, 28, 28), np.uint8)), mtime=0), "wrong checksum"),
        (gzip.compress(idx(np.ones((4, 28, 28), np.uint8)), mtime=0)[:-10], "truncated or damaged"),
        (b"<html>Sign in to the hotel's network</html>", "isn't an idx file"),
    ],
)
def test_a_wrong_download_is_not_kept(small: Path, tmp_path: Path, content: bytes, pattern: str) -> None:
    (small / FILES[0]).write_bytes(content)
    root = tmp_path / "root"
    with pytest.raises(DataError, match=pattern):
        mnist(root=root, download=True)
    assert list(root.iterdir()) == []


def test_no_network_is_a_clear_error(tmp_path: Path) -> None:
    pytest.importorskip("pooch")
    with pytest.raises(DataError, match=r"can't download http://127.0.0.1:9/x.*Is there a network\?.*put the file at"):
        fetch("http://127.0.0.1:9/x", tmp_path / "x", lambda path: None)
    assert list(tmp_path.iterdir()) == []


def test_without_pooch_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(DataError, match=r"pip install 'graphc\[data\]'"):
        fetch("http://127.0.0.1:9/x", tmp_path / "x", lambda path: None)


def test_every_source_names_four_files() -> None:
    for source in (images.MNIST, images.FASHION_MNIST, images.SHIPPED_FASHION_MNIST):
        assert [f.name for f in (*source.train, *source.test)] == FILES
        assert all(len(f.sha256) == 64 for f in (*source.train, *source.test))
        assert replace(source) == source
