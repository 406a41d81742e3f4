"""Derivatives against finite differences: gradcheck(f, inputs) and gradgradcheck(f, inputs), as in PyTorch.

The tape's derivative of every element of the result by every element of each input is compared with the central
difference (f(x + eps) - f(x - eps)) / (2 eps). Its error is about eps^2 of the third derivative plus the unit
roundoff over eps of the value: so inputs must be float64, and 1e-6 is a good eps for values around 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from graphc.errors import AutodiffError, DTypeError
from graphc.records import no_grad
from graphc.tensor import Tensor, as_tensor, wrap
from graphc.transforms import vjp
from graphc.tree import flatten

Function = Callable[..., Any]
Array = npt.NDArray[np.float64]


def gradcheck(
    f: Function,
    inputs: Tensor | Sequence[Any],
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
) -> bool:
    """Whether f's derivatives are its finite differences, within atol + rtol * |numeric|.

    f: a function of tensors that returns a tensor or a tuple, list or dict of tensors; floating results are checked.
    inputs: its arguments; float64 tensors that require a gradient are differentiated by. Raises AutodiffError, with
    the numbers and where they differ, unless raise_exception is False; DTypeError for float32 inputs.
    """
    arguments = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    chosen = _chosen(arguments)
    analytic = _analytic(f, arguments, chosen)
    numeric = _numeric(f, arguments, chosen, eps)
    for output, (rows, expected) in enumerate(zip(analytic, numeric, strict=True)):
        for number, got, want in zip(chosen, rows, expected, strict=True):
            off = ~np.isclose(got, want, rtol=rtol, atol=atol, equal_nan=True)
            if not off.any():
                continue
            if not raise_exception:
                return False
            raise AutodiffError(_difference(output, number, arguments[number].shape, got, want, off))
    return True


def gradgradcheck(
    f: Function,
    inputs: Tensor | Sequence[Any],
    grad_outputs: Sequence[Tensor] | None = None,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
) -> bool:
    """gradcheck of f's gradient, by the inputs and by the cotangents of f's results.

    grad_outputs: the cotangents; random ones (the same at each call) unless given. Raises as gradcheck does.
    """
    arguments = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    chosen = _chosen(arguments)
    results = _results(f, arguments)
    if grad_outputs is None:
        rng = np.random.default_rng(0)
        grad_outputs = [Tensor(rng.uniform(0.5, 1.5, y.shape), requires_grad=True) for y in results]

    def gradient(*values: Any) -> Any:
        free, seeds = values[: len(chosen)], values[len(chosen) :]

        def value(*variables: Any) -> Any:
            changed = list(arguments)
            for number, x in zip(chosen, variables, strict=True):
                changed[number] = x
            return tuple(_floating(f(*changed)))

        return vjp(value, *free)[1](tuple(seeds))

    return gradcheck(gradient, [*(arguments[i] for i in chosen), *grad_outputs], eps, atol, rtol, raise_exception)


def _chosen(arguments: Sequence[Any]) -> list[int]:
    """Numbers of the arguments to differentiate by."""
    chosen = [i for i, x in enumerate(arguments) if isinstance(x, Tensor) and x.requires_grad]
    if not chosen:
        raise AutodiffError("gradcheck: no input requires a gradient; call requires_grad_() on those to check.")
    for i in chosen:
        if arguments[i].dtype.name != "float64":
            raise DTypeError(
                f"gradcheck: input {i} is {arguments[i].dtype.name}; finite differences need float64: "
                "x.detach().astype('float64').requires_grad_()."
            )
    return chosen


def _floating(value: Any) -> list[Tensor]:
    return [y for y in map(as_tensor, flatten(value)[0]) if y.dtype.kind == "f"]


def _results(f: Function, arguments: Sequence[Any]) -> list[Tensor]:
    with no_grad():
        results = _floating(f(*arguments))
    if not results:
        raise AutodiffError("gradcheck: the function returns nothing floating, so there is nothing to differentiate.")
    return results


def _analytic(f: Function, arguments: Sequence[Any], chosen: Sequence[int]) -> list[list[Array]]:
    """For each result, for each chosen argument: the matrix of derivatives (result's size, argument's size)."""

    def value(*variables: Any) -> Any:
        changed = list(arguments)
        for number, x in zip(chosen, variables, strict=True):
            changed[number] = x
        return tuple(_floating(f(*changed)))

    free = [arguments[i].detach() for i in chosen]
    ys, pullback = vjp(value, *free)
    jacobians = []
    for k, y in enumerate(ys):
        rows = [np.zeros((y.size, x.size)) for x in free]
        for j in range(y.size):
            seeds = [np.zeros(z.shape, z.dtype.numpy) for z in ys]
            seeds[k].reshape(-1)[j] = 1
            for row, g in zip(rows, pullback(tuple(map(wrap, seeds))), strict=True):
                row[j] = g.detach().numpy().reshape(-1)
        jacobians.append(rows)
    return jacobians


def _numeric(f: Function, arguments: Sequence[Any], chosen: Sequence[int], eps: float) -> list[list[Array]]:
    """The same by central differences."""
    results = _results(f, arguments)
    jacobians = [[np.zeros((y.size, arguments[i].size)) for i in chosen] for y in results]
    for column, number in enumerate(chosen):
        at = arguments[number].detach().numpy().copy()
        flat = at.reshape(-1)
        for j in range(flat.size):
            sides = []
            middle = flat[j]
            for step in (eps, -eps):
                flat[j] = middle + step
                changed = [wrap(at.copy()) if i == number else _without_history(x) for i, x in enumerate(arguments)]
                sides.append([y.detach().numpy().astype(np.float64).reshape(-1) for y in _results(f, changed)])
            flat[j] = middle
            with np.errstate(all="ignore"):
                for k, (above, below) in enumerate(zip(*sides, strict=True)):
                    jacobians[k][column][:, j] = (above - below) / (2 * eps)
    return jacobians


def _without_history(x: Any) -> Any:
    return x.detach() if isinstance(x, Tensor) else x


def _difference(output: int, number: int, shape: tuple[int, ...], got: Array, want: Array, off: Any) -> str:
    """What differs, where it differs most, and all of both matrices if they are small."""
    size = np.where(off, np.nan_to_num(np.abs(got - want), nan=np.inf), -1)
    row, column = (int(i) for i in np.unravel_index(int(size.argmax()), size.shape))
    place = tuple(int(i) for i in np.unravel_index(column, shape)) if shape else ()
    lines = [
        f"gradcheck: {int(off.sum())} of {off.size} derivatives of result {output} by input {number} differ.",
        f"The worst, of element {row} of the result (row-major) by element {place} of the input:",
        f"  analytic {got[row, column]:.10g}",
        f"  numeric  {want[row, column]:.10g}",
    ]
    if got.size <= 64:
        lines += [f"analytic:\n{got}", f"numeric:\n{want}"]
    return "\n".join(lines)
