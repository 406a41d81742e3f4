"""GPT blocks: a training step with AdamW, from letters to new parameters.

The result is the loss of the third step, which rests on two updates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.bench.models import gpt
from tests.bench.training import DECAY, RATE, graphc_training, jax_training, torch_training
from tests.bench.work import Run, Work

VOCABULARY = 65


@dataclass(frozen=True)
class Size:
    """width: of the residual stream. time: letters of a sequence."""

    width: int
    heads: int
    time: int
    batch: int
    layers: int = 2

    def flops(self) -> float:
        """Of a step: three times the products of the forward pass; of attention's, the half that is not masked."""
        tokens = self.batch * self.time
        dense = self.layers * 12 * self.width**2 + self.width * VOCABULARY
        return 6.0 * tokens * dense + 6.0 * self.layers * self.batch * self.time**2 * self.width

    def arrays(self, rng: np.random.Generator, dtype: np.dtype[Any]) -> list[np.ndarray]:
        codes = rng.integers(0, VOCABULARY, (self.batch, self.time + 1))
        return [codes[:, :-1].copy(), codes[:, 1:].reshape(-1).copy()]


def _model(size: Size, nn: Any, functional: Any, arange: Callable[[int], Any]) -> Any:
    return gpt(nn, functional, arange, VOCABULARY, size.time, size.width, size.heads, size.layers)


def _parameters(size: Size) -> dict[str, np.ndarray]:
    """The numbers that every library starts from."""
    import graphc

    graphc.manual_seed(0)
    model = _model(size, graphc.nn, graphc.nn.functional, graphc.arange)
    return {name: p.detach().numpy().copy() for name, p in model.named_parameters()}


def _graphc(size: Size) -> Callable[..., Run]:
    def make(library: Any, x: Any, y: Any) -> Run:
        gc = library.module
        model = _model(size, gc.nn, gc.nn.functional, gc.arange)
        model.load_state_dict(_parameters(size))
        optimizer = gc.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
        return graphc_training(library, model, optimizer, x, y)

    return make


def _torch(size: Size) -> Callable[..., Run]:
    def make(library: Any, x: Any, y: Any) -> Run:
        torch = library.module
        model = _model(size, torch.nn, torch.nn.functional, torch.arange)
        model.load_state_dict({name: torch.from_numpy(a) for name, a in _parameters(size).items()})
        optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
        return torch_training(library, model, optimizer, x, y)

    return make


def _jax_loss(size: Size, jax: Any, p: dict[str, Any], x: Any, y: Any) -> Any:
    np_, nn = jax.numpy, jax.nn

    def linear(name: str, x: Any) -> Any:
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def norm(name: str, x: Any) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        scale = jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + 1e-5)
        return centred * scale * p[f"{name}.weight"] + p[f"{name}.bias"]

    h = p["letters.weight"][x] + p["places.weight"][: size.time]
    for k in range(size.layers):
        at = f"blocks.{k}"
        split = linear(f"{at}.qkv", norm(f"{at}.norm1", h)).reshape(*x.shape, 3, size.heads, size.width // size.heads)
        a = nn.dot_product_attention(split[:, :, 0], split[:, :, 1], split[:, :, 2], is_causal=True)
        h = h + linear(f"{at}.out", a.reshape(h.shape))
        inner = nn.gelu(linear(f"{at}.mlp.0", norm(f"{at}.norm2", h)), approximate=False)
        h = h + linear(f"{at}.mlp.2", inner)
    chosen = nn.log_softmax(linear("head", norm("norm", h)).reshape(-1, VOCABULARY))
    return -np_.take_along_axis(chosen, y[:, None], 1).mean()


def _jax(size: Size) -> Callable[..., Run]:
    def make(library: Any, x: Any, y: Any) -> Run:
        jax = library.module
        parameters = {name: jax.numpy.array(a) for name, a in _parameters(size).items()}
        return jax_training(jax, lambda p, x, y: _jax_loss(size, jax, p, x, y), parameters, x, y)

    return make


def _work(size: Size) -> Work:
    own = {
        "graphc": _graphc(size),
        "graphc eager": None,
        "torch": _torch(size),
        "torch.compile": _torch(size),
        "jax": _jax(size),
    }
    name = f"GPT {size.layers} layers d={size.width} {size.heads} heads T={size.time} batch {size.batch}"
    return Work(name, "gpt", size.arrays, own=own, flops=size.flops(), dtype="float32")


WORKS = [_work(Size(128, 4, 64, 16)), _work(Size(384, 6, 256, 4))]
SMALL = [_work(Size(24, 3, 7, 2))]
