"""A LeNet's training step with momentum, from images to new parameters. The result is the loss of the third step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tests.bench.models import lenet
from tests.bench.training import graphc_training, started, torch_training
from tests.bench.work import Run, Work

RATE, MOMENTUM = 0.01, 0.9
FORWARD_FLOPS = 2.0 * (20 * 24 * 24 * 25 + 50 * 8 * 8 * 20 * 25 + 800 * 500 + 500 * 10)  # of one image
FIRST_LAYER = 2.0 * 20 * 24 * 24 * 25  # nobody asks for the gradient in the images


def _arrays(batch: int, rng: np.random.Generator, dtype: np.dtype[Any]) -> list[np.ndarray]:
    return [rng.normal(size=(batch, 1, 28, 28)).astype(dtype), rng.integers(0, 10, batch)]


def _parameters(dtype: str) -> dict[str, np.ndarray]:
    """The numbers that every library starts from."""
    import graphc

    graphc.manual_seed(0)
    return {name: p.detach().numpy().astype(dtype) for name, p in lenet(graphc.nn).named_parameters()}


def _graphc(dtype: str, library: Any, x: Any, y: Any) -> Run:
    gc = library.module
    model = lenet(gc.nn).to(getattr(gc, dtype))
    model.load_state_dict(_parameters(dtype))
    optimizer = gc.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)
    return graphc_training(library, model, optimizer, x, y)


def _torch(dtype: str, library: Any, x: Any, y: Any) -> Run:
    torch = library.module
    model = lenet(torch.nn).to(getattr(torch, dtype))
    model.load_state_dict({name: torch.from_numpy(a) for name, a in _parameters(dtype).items()})
    if library.name == "torch channels_last":
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM, fused=True)
    return torch_training(library, model, optimizer, x, y)


def _jax_loss(jax: Any, last: bool, p: dict[str, Any], x: Any, y: Any) -> Any:
    """last: images and kernels with their channels last."""
    order, spatial = (("NHWC", "HWIO", "NHWC"), (1, 2)) if last else (("NCHW", "OIHW", "NCHW"), (2, 3))
    window = tuple(2 if axis in spatial else 1 for axis in range(4))

    def layer(name: str, x: Any) -> Any:
        y = jax.lax.conv_general_dilated(x, p[f"{name}.weight"], (1, 1), "VALID", dimension_numbers=order)
        y = jax.nn.relu(y + (p[f"{name}.bias"] if last else p[f"{name}.bias"][:, None, None]))
        return jax.lax.reduce_window(y, -np.inf, jax.lax.max, window, window, "VALID")

    h = layer("3", layer("0", x))
    h = h.transpose(0, 3, 1, 2) if last else h
    h = jax.nn.relu(h.reshape(h.shape[0], -1) @ p["7.weight"].T + p["7.bias"])
    logits = h @ p["9.weight"].T + p["9.bias"]
    return -jax.numpy.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1).mean()


def _jax(dtype: str, last: bool, library: Any, x: Any, y: Any) -> Run:
    jax = library.module
    parameters = {name: jax.numpy.array(a) for name, a in _parameters(dtype).items()}
    if last:
        x = x.transpose(0, 2, 3, 1)
        parameters |= {name: a.transpose(2, 3, 1, 0) for name, a in parameters.items() if a.ndim == 4}

    @partial(jax.jit, donate_argnums=(0, 1))
    def update(parameters: Any, moments: Any, x: Any, y: Any) -> Any:
        loss, gradients = jax.value_and_grad(partial(_jax_loss, jax, last))(parameters, x, y)
        moments = jax.tree.map(lambda m, g: MOMENTUM * m + g, moments, gradients)
        return loss, jax.tree.map(lambda p, m: p - RATE * m, parameters, moments), moments

    state: list[Any] = [parameters, jax.tree.map(jax.numpy.zeros_like, parameters)]

    def step(x: Any, y: Any) -> Any:
        loss, *state[:] = jax.block_until_ready(update(*state, x, y))
        return loss

    return started(step, x, y)


def _own(dtype: str) -> dict[str, Callable[..., Run]]:
    return {
        "graphc": partial(_graphc, dtype),
        "torch": partial(_torch, dtype),
        "torch channels_last": partial(_torch, dtype),
        "torch.compile": partial(_torch, dtype),
        "jax": partial(_jax, dtype, False),
        "jax NHWC": partial(_jax, dtype, True),
    }


def _work(batch: int, line: str, dtype: str = "float32") -> Work:
    return Work(
        f"LeNet step, batch {batch}" + (f" {dtype}" if dtype != "float32" else ""), line,
        partial(_arrays, batch), own=_own(dtype), dtype=dtype, flops=batch * (3 * FORWARD_FLOPS - FIRST_LAYER),
    )  # fmt: skip


WORKS = [_work(64, "lenet"), _work(1000, "lenet-large")]
SMALL = [_work(5, "lenet"), _work(33, "lenet", "float64")]
