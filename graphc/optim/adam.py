"""Adam, and Adam with decoupled weight decay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from graphc.errors import ArgumentError
from graphc.ops.elementwise import maximum
from graphc.optim.optimizer import (
    Optimizer,
    ParamGroup,
    Slot,
    buffer,
    check_range,
    counter,
    hyper,
    option,
    weak,
)
from graphc.tensor import Tensor


class Adam(Optimizer):
    """Adaptive moments (Kingma & Ba 2015), by PyTorch's formula.

    With g the gradient (minus it if maximize) plus weight_decay * p, at step t:
        m <- m + (1 - beta1) (g - m),  v <- beta2 v + (1 - beta2) g^2
        p <- p - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
    amsgrad: the largest v so far in place of v (Reddi et al. 2018). Raises ArgumentError for a number out of range.
    """

    decoupled = False

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults | {"amsgrad": amsgrad, "maximize": maximize})

    def check(self, group: Mapping[str, Any]) -> None:
        """Raise ArgumentError for a hyperparameter outside its range."""
        for name in ("lr", "eps", "weight_decay"):
            check_range(group, name, 0.0)
        if len(group["betas"]) != 2 or not all(0 <= beta < 1 for beta in group["betas"]):
            raise ArgumentError(f"betas={group['betas']} must be two numbers of at least 0 and below 1")

    def slots(self, group: ParamGroup) -> Mapping[str, Slot]:
        """step: float64[]. exp_avg, exp_avg_sq, and with amsgrad max_exp_avg_sq: like the parameter."""
        slots: dict[str, Slot] = {"step": counter, "exp_avg": buffer, "exp_avg_sq": buffer}
        return slots | {"max_exp_avg_sq": buffer} if option(group, "amsgrad") else slots

    def update(self, group: ParamGroup, p: Tensor, grad: Tensor, state: dict[str, Tensor]) -> None:
        """Change p and its moments in place by one step along grad."""
        lr, beta1, beta2 = hyper(group, "lr"), hyper(group, "betas", 0), hyper(group, "betas", 1)
        m, v, step = state["exp_avg"], state["exp_avg_sq"], state["step"]
        g = -grad if option(group, "maximize") else grad
        if option(group, "weight_decay"):
            decay = hyper(group, "weight_decay")
            if self.decoupled:
                p.mul_(weak(1 - lr * decay, p))
            else:
                g = g + p * weak(decay, p)
        step.add_(1)
        m.add_((g - m) * weak(1 - beta1, p))
        v.mul_(weak(beta2, p)).add_(g * g * weak(1 - beta2, p))
        if option(group, "amsgrad"):
            largest = state["max_exp_avg_sq"]
            largest.copy_(maximum(largest, v))
            v = largest
        # of numbers, in float64: rounded to p's dtype where they meet it
        size, spread = lr / (1 - beta1**step), (1 - beta2**step).sqrt()
        p.sub_(m / (v.sqrt() / weak(spread, p) + weak(hyper(group, "eps"), p)) * weak(size, p))


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019): first of all p <- p * (1 - lr * weight_decay)."""

    decoupled = True

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)
