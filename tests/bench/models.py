"""Three models, LeNet, MLP and GPT, and a training step of each, in graphc and in PyTorch from the same parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import graphc as gc


@dataclass
class Work:
    """One training step. step: takes (x, y) tensors, gives the loss. batch: NumPy arrays. model: for its parameters."""

    step: Callable[[Any, Any], Any]
    batch: tuple[np.ndarray, np.ndarray]
    model: Any


def lenet(nn: Any) -> Any:
    """The same LeNet in either library."""
    return nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10),
    )  # fmt: skip


def _layers(nn: Any, name: str) -> Any:
    if name == "lenet":
        return lenet(nn)
    return nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))


def gpt(
    nn: Any,
    functional: Any,
    arange: Callable[[int], Any],
    vocabulary: int,
    context: int,
    width: int,
    heads: int,
    layers: int,
) -> Any:
    """The same GPT in either library: they share PyTorch's names."""

    class Block(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

        def forward(self, x: Any) -> Any:
            b, t, c = x.shape
            split = self.qkv(self.norm1(x)).reshape(b, t, 3, heads, c // heads)
            q, k, v = (split[:, :, i].permute(0, 2, 1, 3) for i in range(3))
            a = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(a.permute(0, 2, 1, 3).reshape(b, t, c))
            return x + self.mlp(self.norm2(x))

    class GPT(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.letters, self.places = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
            self.blocks = nn.Sequential(*[Block() for _ in range(layers)])
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)

        def forward(self, x: Any) -> Any:
            y = self.letters(x) + self.places(arange(x.shape[1]))
            return self.head(self.norm(self.blocks(y))).reshape(-1, vocabulary)

    return GPT()


def _batch(name: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    if name == "gpt":
        codes = generator.integers(0, 65, (size, 65))
        return codes[:, :-1].copy(), codes[:, 1:].reshape(-1).copy()
    shape = (size, 1, 28, 28) if name == "lenet" else (size, 784)
    return generator.normal(size=shape).astype(np.float32), generator.integers(0, 10, size)


def _step(model: Any, optimizer: Any, loss_of: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = loss_of(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


SIZES = {"lenet": 64, "mlp": 128, "gpt": 16}


def graphc_work(name: str, size: int | None = None) -> Work:
    """The step in graphc, not yet compiled."""
    gc.manual_seed(0)
    functional = gc.nn.functional
    model = gpt(gc.nn, functional, gc.arange, 65, 64, 128, 4, 2) if name == "gpt" else _layers(gc.nn, name)
    return Work(
        _step(model, _optimizer(gc.optim, name, model), functional.cross_entropy),
        _batch(name, size or SIZES[name]),
        model,
    )


def torch_work(torch: Any, name: str, size: int | None = None) -> Work:
    """The same step in PyTorch, from the same parameters."""
    functional = torch.nn.functional
    model = gpt(torch.nn, functional, torch.arange, 65, 64, 128, 4, 2) if name == "gpt" else _layers(torch.nn, name)
    with torch.no_grad():
        for p, q in zip(model.parameters(), graphc_work(name, 1).model.parameters(), strict=True):
            p.copy_(torch.from_numpy(q.detach().numpy().copy()))
    return Work(
        _step(model, _optimizer(torch.optim, name, model), functional.cross_entropy),
        _batch(name, size or SIZES[name]),
        model,
    )


def _optimizer(optim: Any, name: str, model: Any) -> Any:
    if name == "lenet":
        return optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    return optim.AdamW(model.parameters(), lr=1e-3)
