"""What training steps have in common: how one is written in graphc, PyTorch and JAX, and when it is measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .work import Run

RATE, DECAY, BETAS, EPSILON = 1e-3, 1e-2, (0.9, 0.999), 1e-8  # of Adam and AdamW

steps_before = 2  # that a run has made when it is handed out; the latency of the first one is measured with 0


def started(step: Callable[..., Any], *batch: Any) -> Run:
    """A run that has made its first steps."""
    for _ in range(steps_before):
        step(*batch)
    return lambda: step(*batch)


def training(loss_of: Callable[..., Any], optimizer: Any) -> Callable[..., Any]:
    """One step, in the names that graphc and PyTorch share."""

    def step(x: Any, y: Any) -> Any:
        loss = loss_of(x, y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return step


def graphc_training(library: Any, logits_of: Callable[[Any], Any], optimizer: Any, x: Any, y: Any) -> Run:
    """Steps by the cross-entropy of logits_of(x) with y: one function, which `library` compiles or takes as it is."""
    loss = library.module.nn.functional.cross_entropy
    return started(library.function(training(lambda x, y: loss(logits_of(x), y), optimizer)), x, y)


def torch_training(library: Any, logits_of: Callable[[Any], Any], optimizer: Any, x: Any, y: Any) -> Run:
    """The same in PyTorch. torch.compile compiles the loss and, by itself, its derivative."""

    def loss_of(x: Any, y: Any) -> Any:
        return library.module.nn.functional.cross_entropy(logits_of(x), y)

    return started(training(library.compile(loss_of) if library.name == "torch.compile" else loss_of, optimizer), x, y)


def jax_training(
    jax: Any, loss_of: Callable[..., Any], parameters: dict[str, Any], *batch: Any, decay: float = DECAY
) -> Run:
    """AdamW written out, compiled with the loss into one function that gives its state's memory back."""
    np_ = jax.numpy

    def step(state: Any, *batch: Any) -> Any:
        parameters, first, second, count = state
        loss, gradients = jax.value_and_grad(loss_of)(parameters, *batch)
        count = count + 1
        tree, (a, b) = jax.tree.map, BETAS
        first = tree(lambda m, g: a * m + (1 - a) * g, first, gradients)
        second = tree(lambda v, g: b * v + (1 - b) * g * g, second, gradients)
        size, root = RATE / (1 - a**count), np_.sqrt(1 - b**count)
        parameters = tree(
            lambda p, m, v: p * (1 - RATE * decay) - size * m / (np_.sqrt(v) / root + EPSILON),
            parameters, first, second,
        )  # fmt: skip
        return (parameters, first, second, count), loss

    compiled = jax.jit(step, donate_argnums=0)
    zeros = jax.tree.map(np_.zeros_like, parameters)
    state = [(parameters, zeros, jax.tree.map(np_.zeros_like, parameters), np_.zeros((), np_.float32))]

    def run(*batch: Any) -> Any:
        state[0], loss = compiled(state[0], *batch)
        return jax.block_until_ready(loss)

    return started(run, *batch)
