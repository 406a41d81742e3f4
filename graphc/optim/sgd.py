"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from graphc.errors import ArgumentError
from graphc.ops.elementwise import where
from graphc.optim.optimizer import (
    Optimizer,
    ParamGroup,
    Slot,
    buffer,
    check_range,
    hyper,
    option,
    weak,
)
from graphc.tensor import Tensor, wrap


class SGD(Optimizer):
    """p <- p - lr * d, by PyTorch's formula (the rate stands outside of the momentum, unlike Polyak's).

    g is the gradient (minus it if maximize) plus weight_decay * p. Without momentum d = g. With it the buffer is
    b = g at the first step, then b <- momentum * b + (1 - dampening) * g, and d = b, or g + momentum * b if
    nesterov (Sutskever et al. 2013). Raises ArgumentError for a number out of range, and for nesterov without
    momentum or with dampening.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        super().__init__(params, defaults | {"nesterov": nesterov, "maximize": maximize})

    def check(self, group: Mapping[str, Any]) -> None:
        """Raise ArgumentError for a hyperparameter outside its range."""
        for name in ("lr", "momentum", "weight_decay"):
            check_range(group, name, 0.0)
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ArgumentError("nesterov needs a momentum and no dampening")

    def slots(self, group: ParamGroup) -> Mapping[str, Slot]:
        """momentum_buffer: like the parameter. step: float64[], 0 before the first step, where dampening needs it."""
        if not option(group, "momentum"):
            return {}
        if not option(group, "dampening"):
            return {"momentum_buffer": buffer}
        return {"momentum_buffer": buffer, "step": _begun}

    def update(self, group: ParamGroup, p: Tensor, grad: Tensor, state: dict[str, Tensor]) -> None:
        """Change p and its buffer in place by one step along grad."""
        g = -grad if option(group, "maximize") else grad
        if option(group, "weight_decay"):
            g = g + p * weak(hyper(group, "weight_decay"), p)
        if option(group, "momentum"):
            momentum = weak(hyper(group, "momentum"), p)
            b = state["momentum_buffer"]
            if option(group, "dampening"):
                damped = g * weak(1 - hyper(group, "dampening"), p)
                b.copy_(where(state["step"] == 0, g, b * momentum + damped))
                state["step"].add_(1)
            else:
                b.mul_(momentum).add_(g)  # the buffer starts at 0, so the first step leaves g in it
            g = g + b * momentum if option(group, "nesterov") else b
        p.sub_(g * weak(hyper(group, "lr"), p))


def _begun(p: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    """The step counter: at 0 beside a fresh buffer, past it beside one that was filled without dampening."""
    begun = state["momentum_buffer"]._data.any()
    return wrap(np.asarray(float(begun)))
