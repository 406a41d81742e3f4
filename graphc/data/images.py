"""MNIST and Fashion-MNIST: 28x28 images in ten classes, 60,000 to train on and 10,000 to test on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from graphc.data.dataset import TensorDataset
from graphc.data.download import default_folder, fetch
from graphc.data.idx import read_idx
from graphc.errors import DataError
from graphc.frozen import dataclass

SHIPPED = Path(__file__).parent / "files"


@dataclass(frozen=True)
class _File:
    """One of the four files. sha256: of its content, uncompressed."""

    name: str
    sha256: str


@dataclass(frozen=True)
class _Source:
    """Where a set comes from. train, test: the files of images and labels."""

    name: str
    url: str
    classes: tuple[str, ...]
    train: tuple[_File, _File]
    test: tuple[_File, _File]


def _source(name: str, url: str, classes: tuple[str, ...], *sha256: str) -> _Source:
    names = [
        f"{part}-ubyte.gz"
        for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    ]
    a, b, c, d = (_File(name, digest) for name, digest in zip(names, sha256, strict=True))
    return _Source(name, url, classes, (a, b), (c, d))


_DIGITS = tuple("0123456789")
_CLOTHES = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")

MNIST = _source(
    "mnist",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    _DIGITS,
    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
)
FASHION_MNIST = _source(
    "fashion-mnist",
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    _CLOTHES,
    "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
)
# The balanced part that ships with graphc; see its README.md.
SHIPPED_FASHION_MNIST = _source(
    "fashion-mnist",
    "",
    _CLOTHES,
    "d33512cfdc636a0d8972818e6659995be209a88891df7fa2109d7895922c8985",
    "620cb8e3b9348037c5ff9a07b02d773ab165330e072dfd19e0d21c59f8042dcf",
    "15a92dd1e9b16ea361928086e77df4dfa890c255c00b5a8c8162c1040ce8eef1",
    "234596aeb6eb48133ec99a62541f90bc0728c9559a681f1e0638037462458f2c",
)


class ImageDataset(TensorDataset):
    """images: (n, 1, 28, 28) float32 in [0, 1]. labels: (n,) int64. classes: the name of each label."""

    def __init__(self, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8], classes: tuple[str, ...]) -> None:
        super().__init__(images[:, None].astype(np.float32) / np.float32(255), labels.astype(np.int64))
        self.images, self.labels = self.arrays
        self.classes = classes

    def __repr__(self) -> str:
        return f"<ImageDataset {self.images.shape}, {len(self.classes)} classes>"


def mnist(train: bool = True, *, root: str | Path | None = None, download: bool = False) -> ImageDataset:
    """The MNIST digits (LeCun, Cortes, Burges): 60,000 images to train on, or 10,000 to test on.

    root: the folder of the four idx files (.gz or not); graphc's cache folder unless given. download: fetch what
    isn't there (11 MB). Raises DataError for files that are missing, truncated or of a wrong checksum, and if a
    download fails.
    """
    return _load(MNIST, train, root, download)


def fashion_mnist(train: bool = True, *, root: str | Path | None = None, download: bool = False) -> ImageDataset:
    """Fashion-MNIST (Zalando, MIT licence). By itself the part that ships with graphc: 10,000 or 2,000 images.

    With root or download all 60,000 or 10,000. root: the folder of the four idx files (.gz or not); graphc's
    cache folder unless given. download: fetch what isn't there (30 MB). Raises DataError as mnist().
    """
    if root is None and not download:
        return _load(SHIPPED_FASHION_MNIST, train, SHIPPED / SHIPPED_FASHION_MNIST.name, False)
    return _load(FASHION_MNIST, train, root, download)


def _load(source: _Source, train: bool, root: str | Path | None, download: bool) -> ImageDataset:
    folder = default_folder(source.name) if root is None else Path(root)
    files = source.train if train else source.test
    images, labels = (read_idx(_locate(file, source, folder, download), file.sha256) for file in files)
    return ImageDataset(images, labels, source.classes)


def _locate(file: _File, source: _Source, folder: Path, download: bool) -> Path:
    for path in (folder / file.name, folder / file.name.removesuffix(".gz")):
        if path.exists():
            return path
    if not download:
        call = f"graphc.data.{source.name.replace('-', '_')}"
        raise DataError(
            f"{folder / file.name} isn't there. Fetch it with {call}(download=True), or name its folder with root="
        )
    target = folder / file.name
    fetch(source.url + file.name, target, lambda path: read_idx(path, file.sha256))
    return target
