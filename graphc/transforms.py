"""Functions that differentiate functions: grad, value_and_grad, vjp, jvp, hvp, jacobian, hessian.

They nest, and work in both modes: eagerly they run the sweeps of autodiff on the tape; while a function is
being compiled they leave a `gradient` or `tangent` mark that the `differentiate` pass expands as a formula.
Which of the two is the active interpreter's business (`Interpreter.variable / pull / push`). Under no_grad they
differentiate all the same; only their results have no history then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphc.autodiff import default_seed
from graphc.dispatch import shape_of
from graphc.errors import AutodiffError, DTypeError, ShapeError
from graphc.interpreter import active
from graphc.ops import elementwise as ew
from graphc.ops.movement import iota, reshape, stack
from graphc.records import enable_grad
from graphc.tensor import Tensor, as_tensor
from graphc.tree import Structure, flatten, unflatten

Function = Callable[..., Any]
Argnums = int | Sequence[int]


def _floating(x: Any, what: str) -> Tensor:
    t = as_tensor(x)
    if t.dtype.kind != "f":
        raise DTypeError(
            f"{what}: can't differentiate with respect to {t.dtype.name}; convert it with .astype('float32')."
        )
    return t


def _variables(args: Sequence[Any], argnums: Argnums, what: str) -> tuple[list[Any], list[Tensor], list[Structure]]:
    """(args with fresh variables at argnums, the variables, the structure of each of these arguments)."""
    numbers = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    changed = list(args)
    variables: list[Tensor] = []
    structures = []
    for number in numbers:
        try:
            argument = args[number]
        except IndexError:
            raise AutodiffError(f"{what}: argnums={argnums}, but the function got {len(args)} arguments.") from None
        leaves, structure = flatten(argument)
        fresh = [active().variable(_floating(x, what)) for x in leaves]
        variables += fresh
        structures.append(structure)
        changed[number] = unflatten(structure, iter(fresh))
    return changed, variables, structures


def _packed(values: Sequence[Tensor], structures: Sequence[Structure], argnums: Argnums) -> Any:
    queue = iter(values)
    parts = tuple(unflatten(s, queue) for s in structures)
    return parts[0] if isinstance(argnums, int) else parts


def value_and_grad(f: Function, argnums: Argnums = 0, has_aux: bool = False) -> Function:
    """A function giving (f(*args), gradient of f with respect to the arguments `argnums`).

    f must return a floating scalar (with has_aux: a pair of it and anything else). An argument may be a
    nested tuple, list or dict of tensors; its gradient has the same structure. Gradients are differentiable.
    """

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        changed, variables, structures = _variables(args, argnums, "grad")
        with enable_grad():
            result = f(*changed, **kwargs)
        y, aux = result if has_aux else (result, None)
        y = as_tensor(y)
        gradients = active().pull([y], [as_tensor(np.asarray(default_seed(y, "grad")))], variables)
        packed = _packed(gradients, structures, argnums)
        value = active().settled(y, variables)
        return ((value, aux) if has_aux else value), packed

    return wrapped


def grad(f: Function, argnums: Argnums = 0, has_aux: bool = False) -> Function:
    """A function giving the gradient of the scalar function f with respect to the arguments `argnums`."""
    both = value_and_grad(f, argnums, has_aux)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        value, gradient = both(*args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient

    return wrapped


def vjp(f: Function, *primals: Any) -> tuple[Any, Function]:
    """(f(*primals), pullback): pullback(cotangent, of the result's structure) gives one cotangent per primal."""
    changed, variables, structures = _variables(primals, tuple(range(len(primals))), "vjp")
    with enable_grad():
        result = f(*changed)
    outputs, out_structure = flatten(result)
    ys = [as_tensor(y) for y in outputs]

    def pullback(cotangent: Any) -> tuple[Any, ...]:
        seeds, seed_structure = flatten(cotangent)
        if seed_structure != out_structure:
            raise ShapeError("vjp: the cotangent must have the structure of the function's result.")
        tensors = [_matching(s, y, "vjp", "cotangent") for s, y in zip(seeds, ys, strict=True)]
        gradients = active().pull(ys, tensors, variables)
        return _packed(gradients, structures, tuple(range(len(primals))))  # type: ignore[no-any-return]

    return unflatten(out_structure, iter([active().settled(y, variables) for y in ys])), pullback


def _matching(value: Any, like: Tensor, what: str, name: str) -> Tensor:
    t = as_tensor(value)
    if t.shape != like.shape:
        raise ShapeError(f"{what}: the {name} has shape {t.shape}, its value {like.shape}.")
    return ew.astype(t, like.dtype)  # type: ignore[no-any-return]


def jvp(f: Function, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """(f(*primals), directional derivative of f along tangents), by one forward sweep."""
    changed, variables, _ = _variables(tuple(primals), tuple(range(len(primals))), "jvp")
    directions = [t for tangent in tangents for t in flatten(tangent)[0]]
    if len(directions) != len(variables):
        raise ShapeError(f"jvp: {len(variables)} primals need as many tangents, got {len(directions)}.")
    ts = [_matching(t, x, "jvp", "tangent") for t, x in zip(directions, variables, strict=True)]
    with enable_grad():
        result = f(*changed)
    outputs, structure = flatten(result)
    ys = [as_tensor(y) for y in outputs]
    moved = active().push(ys, variables, ts)
    values = [active().settled(y, variables) for y in ys]
    return unflatten(structure, iter(values)), unflatten(structure, iter(moved))


def hvp(f: Function, primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """Hessian of the scalar function f at primals, times tangents (forward over reverse: no Hessian is built)."""
    numbers = tuple(range(len(primals)))
    return jvp(grad(f, numbers), primals, tangents)[1]


def jacobian(f: Function, argnums: int = 0) -> Function:
    """A function giving df/dx for one array argument: shape f(x).shape + x.shape. Rows by reverse sweeps,
    or columns by forward sweeps, whichever are fewer."""

    def wrapped(*args: Any, **kwargs: Any) -> Tensor:
        x = _floating(args[argnums], "jacobian")

        def of(v: Any) -> Any:
            changed = list(args)
            changed[argnums] = v
            return f(*changed, **kwargs)

        y, pullback = vjp(of, x)
        m, n = y.size, x.size
        shape = (*shape_of(y), *shape_of(x))
        if m == 0 or n == 0:
            return ew.astype(iota(shape, 0) if shape else iota((1,), 0), x.dtype)  # type: ignore[no-any-return]
        if m <= n:
            rows = [reshape(pullback(_unit(y, i))[0], x.shape) for i in range(m)]
            return reshape(stack(rows), shape)  # type: ignore[no-any-return]
        columns = [jvp(of, (x,), (_unit(x, j),))[1] for j in range(n)]
        return reshape(stack(columns, -1), shape)  # type: ignore[no-any-return]

    return wrapped


def hessian(f: Function, argnums: int = 0) -> Function:
    """A function giving the matrix of second derivatives of a scalar function: shape x.shape + x.shape."""
    return jacobian(grad(f, argnums), argnums)


def _unit(like: Tensor, position: int) -> Tensor:
    """Zeros of like's shape with a 1 at one flat position."""
    hit = ew.equal(iota((like.size,), 0), position)
    return reshape(ew.astype(hit, like.dtype), like.shape)  # type: ignore[no-any-return]
