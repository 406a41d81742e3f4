"""Data sets, and loading them in batches."""

from graphc.data.dataset import Dataset, TensorDataset
from graphc.data.idx import read_idx
from graphc.data.images import ImageDataset, fashion_mnist, mnist
from graphc.data.loader import DataLoader, collate

__all__ = [
    "DataLoader",
    "Dataset",
    "ImageDataset",
    "TensorDataset",
    "collate",
    "fashion_mnist",
    "mnist",
    "read_idx",
]
