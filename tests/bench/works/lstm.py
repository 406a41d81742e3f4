"""An LSTM over a sequence and a readout of its last state: a training step with AdamW.

Every library uses what is its best: its own layer where it has one, else a loop of steps or a scan. The result is the
loss of the third step, which rests on two updates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.bench.training import DECAY, RATE, graphc_training, jax_training, torch_training
from tests.bench.work import Run, Work

CLASSES = 10


@dataclass(frozen=True)
class Size:
    inputs: int
    hidden: int
    steps: int
    batch: int

    def flops(self) -> float:
        """Of a training step: three times the products of the forward pass, less the gradient of the inputs."""
        return 2.0 * self.steps * self.batch * 4 * self.hidden * (3 * self.hidden + 2 * self.inputs)

    def arrays(self, rng: np.random.Generator, dtype: np.dtype[Any]) -> list[np.ndarray]:
        x = rng.normal(size=(self.steps, self.batch, self.inputs)).astype(dtype)
        return [x, rng.integers(0, CLASSES, self.batch)]


def _parameters(size: Size) -> dict[str, np.ndarray]:
    """The numbers that every library starts from, by PyTorch's names."""
    rng, bound, rows = np.random.default_rng(1), size.hidden**-0.5, 4 * size.hidden
    shapes = {
        "weight_ih_l0": (rows, size.inputs),
        "weight_hh_l0": (rows, size.hidden),
        "bias_ih_l0": (rows,),
        "bias_hh_l0": (rows,),
        "weight": (CLASSES, size.hidden),
        "bias": (CLASSES,),
    }
    return {name: rng.uniform(-bound, bound, shape).astype(np.float32) for name, shape in shapes.items()}


def _layers(nn: Any, tensor: Callable[[np.ndarray], Any], size: Size) -> tuple[Any, Any]:
    """The LSTM and the readout; graphc and PyTorch share their names."""
    recurrent, readout = nn.LSTM(size.inputs, size.hidden), nn.Linear(size.hidden, CLASSES)
    numbers = {name: tensor(a) for name, a in _parameters(size).items()}
    readout.load_state_dict({name: numbers.pop(name) for name in ("weight", "bias")})
    recurrent.load_state_dict(numbers)
    return recurrent, readout


def _by_layer(recurrent: Any, x: Any) -> Any:
    """The last hidden state."""
    return recurrent(x)[1][0][0]


def _by_steps(library: Any) -> Callable[..., Any]:
    """The last hidden state by a loop as one writes it by hand."""
    xp = library.module

    def last(recurrent: Any, x: Any) -> Any:
        w, u = recurrent.weight_ih_l0.T, recurrent.weight_hh_l0.T
        bias, size = recurrent.bias_ih_l0 + recurrent.bias_hh_l0, recurrent.hidden_size
        h = c = xp.zeros((x.shape[1], size), dtype=x.dtype)
        for t in range(x.shape[0]):
            gates = x[t] @ w + h @ u + bias
            i, f, g, o = (gates[:, k * size : (k + 1) * size] for k in range(4))
            c = xp.sigmoid(f) * c + xp.sigmoid(i) * xp.tanh(g)
            h = xp.sigmoid(o) * xp.tanh(c)
        return h

    return last


def _optimizer(optim: Any, layers: tuple[Any, Any], **more: Any) -> Any:
    return optim.AdamW([p for layer in layers for p in layer.parameters()], lr=RATE, weight_decay=DECAY, **more)


def _graphc(size: Size, layer: bool) -> Callable[..., Run]:
    def make(library: Any, x: Any, y: Any) -> Run:
        gc = library.module
        recurrent, readout = layers = _layers(gc.nn, gc.asarray, size)
        last = _by_layer if layer else _by_steps(library)
        return graphc_training(library, lambda x: readout(last(recurrent, x)), _optimizer(gc.optim, layers), x, y)

    return make


def _torch(size: Size, layer: bool) -> Callable[..., Run]:
    def make(library: Any, x: Any, y: Any) -> Run:
        torch = library.module
        recurrent, readout = layers = _layers(torch.nn, torch.from_numpy, size)
        last = _by_layer if layer else _by_steps(library)
        optimizer = _optimizer(torch.optim, layers, fused=True)
        return torch_training(library, lambda x: readout(last(recurrent, x)), optimizer, x, y)

    return make


def _jax(size: Size) -> Callable[..., Run]:
    def make(library: Any, x: Any, y: Any) -> Run:
        jax = library.module
        np_, sigmoid = jax.numpy, jax.nn.sigmoid

        def loss_of(p: dict[str, Any], x: Any, y: Any) -> Any:
            inputs = x @ p["weight_ih_l0"].T + (p["bias_ih_l0"] + p["bias_hh_l0"])

            def step(state: Any, given: Any) -> Any:
                h, c = state
                i, f, g, o = np_.split(given + h @ p["weight_hh_l0"].T, 4, axis=-1)
                c = sigmoid(f) * c + sigmoid(i) * np_.tanh(g)
                return (sigmoid(o) * np_.tanh(c), c), None

            zeros = np_.zeros((x.shape[1], size.hidden), x.dtype)
            (h, _), _ = jax.lax.scan(step, (zeros, zeros), inputs)
            chosen = jax.nn.log_softmax(h @ p["weight"].T + p["bias"])
            return -np_.take_along_axis(chosen, y[:, None], 1).mean()

        parameters = {name: np_.array(a) for name, a in _parameters(size).items()}
        return jax_training(jax, loss_of, parameters, x, y)

    return make


def _work(size: Size, layer: bool) -> Work:
    own = {
        "graphc": _graphc(size, layer),
        "graphc eager": None,
        "torch": _torch(size, True),  # its layer beats its loop
        "torch.compile": _torch(size, True),
        "jax": _jax(size),
    }
    name = f"LSTM {size.steps} steps, {size.inputs} to {size.hidden}, batch {size.batch}"
    name += "" if layer else ", by hand"
    return Work(name, "lstm", size.arrays, own=own, flops=size.flops(), dtype="float32")


WORKS = [_work(Size(256, 256, 64, 32), layer) for layer in (True, False)]
SMALL = [_work(Size(5, 7, 3, 4), layer) for layer in (True, False)]
