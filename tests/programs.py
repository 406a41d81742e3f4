"""Random programs that graphc and PyTorch both run: data, so that one program is run in every mode.

A program is a list of inputs (arrays to differentiate by) and of steps; each step applies one OPERATION to earlier
values. `random_program(seed)` draws it; values stay of moderate size (denominators, roots and logarithms are kept
away from 0, exponents bounded), so that what differs is a defect and not the conditioning.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import graphc as gc
from graphc.nn import functional as F
from graphc.ops.sorting import sort
from tests.pytorch import pytorch as torch

Shape = tuple[int, ...]
Rng = np.random.Generator

LARGEST = 1500  # elements of a value


@dataclass(frozen=True)
class Step:
    operation: str
    operands: tuple[int, ...]
    options: dict[str, Any]

    def __str__(self) -> str:
        arguments = [f"v{i}" for i in self.operands] + [f"{k}={v!r}" for k, v in self.options.items()]
        return f"{self.operation}({', '.join(arguments)})"


@dataclass
class Program:
    """inputs: values v0, v1, ... Steps give the following ones. weights: the loss is the sum of weight * output over
    the values that no step uses."""

    inputs: list[Any] = field(default_factory=list)
    steps: list[tuple[int, Step]] = field(default_factory=list)  # (number of the value, step)
    shapes: dict[int, Shape] = field(default_factory=dict)
    places: list[int] = field(default_factory=list)  # the inputs' value numbers
    weights: dict[int, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = {n: f"v{n} = input{tuple(a.shape)}" for n, a in zip(self.places, self.inputs, strict=True)}
        lines |= {n: f"v{n} = {step}  # {self.shapes[n]}" for n, step in self.steps}
        return "\n".join(lines[n] for n in sorted(lines))

    def run(self, inputs: list[Any], side: int, number: Callable[[Any], Any]) -> tuple[list[Any], Any]:
        """(the outputs, the loss) by graphc (side 0) or PyTorch (side 1); `number` makes a constant of an array."""
        values = dict(zip(self.places, inputs, strict=True))
        for n, step in self.steps:
            function = OPERATIONS[step.operation].functions[side]
            values[n] = function(*(values[i] for i in step.operands), **step.options)
        outputs = [values[n] for n in self.weights]
        parts = [(y * number(w)).sum() for y, w in zip(outputs, self.weights.values(), strict=True)]
        loss = parts[0]
        for part in parts[1:]:
            loss = loss + part
        return outputs, loss

    def derived(self, dtype: str) -> Callable[[list[Any]], tuple[list[Any], list[Any]]]:
        """A function of graphc's: inputs of that dtype -> (the outputs, the loss's gradients by the inputs)."""

        def loss(inputs: list[Any]) -> Any:
            outputs, total = self.run(inputs, 0, lambda w: gc.asarray(w.astype(dtype)))
            return total, outputs

        def f(inputs: list[Any]) -> Any:
            (_, outputs), gradients = gc.value_and_grad(loss, has_aux=True)(inputs)
            return outputs, gradients

        return f


@dataclass(frozen=True)
class Operation:
    """functions: (graphc's, PyTorch's), called with values and options. draw: (rng, shapes of the operands) ->
    options and, perhaps, the shapes of new inputs that stand behind the operands; None if it doesn't apply."""

    functions: tuple[Callable[..., Any], Callable[..., Any]]
    arity: int = 1
    draw: Callable[..., Any] = lambda rng, *shapes: {}


def _both(function: Callable[..., Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """A formula that is written alike: it gets the library as its first argument."""
    return lambda *xs, **options: function(gc, *xs, **options), lambda *xs, **options: function(torch(), *xs, **options)


def _axis(rng: Rng, shape: Shape) -> Any:
    return {"axis": int(rng.integers(-len(shape), len(shape)))} if shape else None


def _axes(rng: Rng, shape: Shape) -> Any:
    if not shape:
        return None
    count = int(rng.integers(1, len(shape) + 1))
    axes = tuple(sorted(int(a) for a in rng.choice(len(shape), count, replace=False)))
    return {"axes": axes, "keep": bool(rng.integers(2))}


def _broadcastable(rng: Rng, a: Shape, b: Shape) -> Any:
    try:
        shape = np.broadcast_shapes(a, b)
    except ValueError:
        return None
    return {} if math.prod(shape) <= LARGEST else None


def _reshape(rng: Rng, shape: Shape) -> Any:
    size = math.prod(shape)
    wanted = []
    while size > 1 and len(wanted) < 3:
        factors = [d for d in range(1, size + 1) if size % d == 0]
        wanted.append(int(rng.choice(factors)))
        size //= wanted[-1]
    return {"shape": (*wanted, size)}


def _permute(rng: Rng, shape: Shape) -> Any:
    return {"axes": tuple(int(a) for a in rng.permutation(len(shape)))}


def _stretch(rng: Rng, shape: Shape) -> Any:
    wide = tuple(int(rng.integers(2, 4)) if n == 1 else n for n in shape)
    if len(shape) < 4 and rng.integers(2):
        wide = (int(rng.integers(1, 4)), *wide)
    return {"shape": wide} if math.prod(wide) <= LARGEST else None


def _key(rng: Rng, shape: Shape) -> Any:
    """Integers, slices with steps of both signs, None and one array."""
    key: list[Any] = []
    gathered = False
    for n in shape:
        choice = int(rng.integers(0, 6))
        if choice == 0:
            key.append(int(rng.integers(-n, n)))
        elif choice == 1 and not gathered and not any(isinstance(k, int) for k in key):
            gathered = True
            key.append(rng.integers(-n, n, int(rng.integers(1, 5))))
        elif choice == 2:
            key.append(slice(None, None, -1))
        elif choice == 3:
            low = int(rng.integers(0, n))
            key.append(slice(low, int(rng.integers(low + 1, n + 1)), int(rng.integers(1, 3))))
        else:
            key.append(slice(None))
    if gathered:
        key = [slice(k, k + 1 or None) if isinstance(k, int) else k for k in key]  # integers beside arrays: elsewhere
    return {"key": tuple(key)} if key else None


def _torch_key(x: Any, key: tuple[Any, ...]) -> Any:
    """x[key] without negative steps, which PyTorch lacks."""
    dropped = []
    for axis, k in enumerate(key):
        at = np.arange(x.shape[axis])[k]
        x = torch().index_select(x, axis, torch().tensor(np.atleast_1d(at).copy()))
        if isinstance(k, int):
            dropped.append(axis)
    for axis in reversed(dropped):
        x = x.squeeze(axis)
    return x


def _pad(rng: Rng, shape: Shape) -> Any:
    if not shape:
        return None
    low, high = (tuple(int(v) for v in rng.integers(0, 3, len(shape))) for _ in range(2))
    return {"low": low, "high": high} if math.prod(np.add(shape, np.add(low, high))) <= LARGEST else None


def _torch_pad(x: Any, low: Shape, high: Shape) -> Any:
    widths = [w for pair in zip(reversed(low), reversed(high), strict=True) for w in pair]
    return torch().nn.functional.pad(x, widths)


def _joined(rng: Rng, a: Shape, b: Shape) -> Any:
    if len(a) != len(b) or not a:
        return None
    fits = [i for i in range(len(a)) if a[:i] + a[i + 1 :] == b[:i] + b[i + 1 :]]
    return {"axis": int(rng.choice(fits))} if fits else None


def _product(rng: Rng, shape: Shape) -> Any:
    """A matrix to multiply with: a new input."""
    if len(shape) < 2:
        return None
    return {}, [(shape[-1], int(rng.integers(1, 5)))]


def _batched_product(rng: Rng, shape: Shape) -> Any:
    if len(shape) < 3:
        return None
    return {}, [(shape[-3], shape[-1], int(rng.integers(1, 4)))]


def _convolution(rng: Rng, shape: Shape) -> Any:
    """Two to four dimensions more than one: (batch, channels, *spatial), with a weight as a new input."""
    if len(shape) not in (3, 4):
        return None
    d = len(shape) - 2
    groups = int(rng.choice([g for g in (1, 2, 3) if shape[1] % g == 0]))
    stride, dilation = (tuple(int(v) for v in rng.integers(1, 3, d)) for _ in range(2))
    padding = tuple(int(v) for v in rng.integers(0, 3, d))
    kernel = tuple(
        int(rng.integers(1, max(1, min(3, (n + 2 * p - 1) // r + 1)) + 1))
        for n, p, r in zip(shape[2:], padding, dilation, strict=True)
    )
    weight = (groups * int(rng.integers(1, 3)), shape[1] // groups, *kernel)
    return {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}, [weight]


def _torch_convolution(x: Any, w: Any, **options: Any) -> Any:
    return (torch().nn.functional.conv1d if x.ndim == 3 else torch().nn.functional.conv2d)(x, w, **options)


def _pooling(rng: Rng, shape: Shape) -> Any:
    if len(shape) not in (3, 4):
        return None
    window = tuple(int(rng.integers(1, min(3, n) + 1)) for n in shape[2:])
    stride = tuple(int(rng.integers(1, 4)) for _ in window)
    padding = tuple(int(rng.integers(0, k // 2 + 1)) for k in window)
    return {"window": window, "stride": stride, "padding": padding}


def _torch_pooling(kind: str) -> Callable[..., Any]:
    def pool(x: Any, window: Shape, stride: Shape, padding: Shape) -> Any:
        return getattr(torch().nn.functional, f"{kind}_pool{x.ndim - 2}d")(x, window, stride, padding)

    return pool


def _indices(rng: Rng, shape: Shape) -> Any:
    if not shape:
        return None
    axis = int(rng.integers(len(shape)))
    return {"axis": axis, "indices": rng.integers(0, shape[axis], tuple(rng.integers(1, 4, int(rng.integers(1, 3)))))}


def _torch_take(x: Any, axis: int, indices: Any) -> Any:
    flat = torch().index_select(x, axis, torch().tensor(indices.reshape(-1)))
    return flat.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def _along(rng: Rng, shape: Shape) -> Any:
    if not shape:
        return None
    axis = int(rng.integers(len(shape)))
    wanted = (*shape[:axis], int(rng.integers(1, 4)), *shape[axis + 1 :])
    return {"axis": axis, "indices": rng.integers(0, shape[axis], wanted)}


def _same_axis(name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    return lambda x, axis: getattr(F, name)(x, axis), lambda x, axis: getattr(torch().nn.functional, name)(x, axis)


OPERATIONS: dict[str, Operation] = {
    "negative": Operation(_both(lambda m, x: -x)),
    "tanh": Operation(_both(lambda m, x: m.tanh(x))),
    "sin": Operation(_both(lambda m, x: m.sin(x))),
    "cos": Operation(_both(lambda m, x: m.cos(x))),
    "erf": Operation(_both(lambda m, x: m.erf(x))),
    "exp": Operation(_both(lambda m, x: m.exp(m.tanh(x)))),
    "expm1": Operation(_both(lambda m, x: m.expm1(m.sin(x)))),
    "log": Operation(_both(lambda m, x: m.log(m.abs(x) + 0.5))),
    "log1p": Operation(_both(lambda m, x: m.log1p(x * x))),
    "sqrt": Operation(_both(lambda m, x: m.sqrt(x * x + 0.3))),
    "rsqrt": Operation(_both(lambda m, x: m.rsqrt(x * x + 0.3))),
    "abs": Operation(_both(lambda m, x: m.abs(x))),
    "sign": Operation(_both(lambda m, x: x * m.sign(x - 0.1))),
    "floor": Operation(_both(lambda m, x: x - m.floor(x))),
    "power": Operation(_both(lambda m, x: (m.abs(x) + 0.4) ** 1.7)),
    "cube": Operation(_both(lambda m, x: m.tanh(x) ** 3)),
    "sigmoid": Operation(_both(lambda m, x: m.sigmoid(x))),
    "leaky": Operation(_both(lambda m, x: m.where(x > 0, x, x * 0.1))),
    "guarded": Operation(_both(lambda m, x: m.where(x > 0.2, m.sqrt(m.where(x > 0.2, x, 1.0)), x * x))),
    "relu": Operation((lambda x: F.relu(x), lambda x: torch().relu(x))),
    "gelu": Operation((lambda x: F.gelu(x), lambda x: torch().nn.functional.gelu(x))),
    "add": Operation(_both(lambda m, x, y: x + y), 2, _broadcastable),
    "subtract": Operation(_both(lambda m, x, y: x - y), 2, _broadcastable),
    "multiply": Operation(_both(lambda m, x, y: x * m.tanh(y)), 2, _broadcastable),
    "divide": Operation(_both(lambda m, x, y: x / (y * y + 0.7)), 2, _broadcastable),
    "maximum": Operation(_both(lambda m, x, y: m.maximum(x, y)), 2, _broadcastable),
    "minimum": Operation(_both(lambda m, x, y: m.minimum(x, m.sin(y))), 2, _broadcastable),
    # Not x > y: the mean of copies of x is x but for its last bit, which each mode may round in its own way.
    "select": Operation(_both(lambda m, x, y: m.where(x > y + 0.013, m.sin(x), y * 0.5)), 2, _broadcastable),
    "power of": Operation(_both(lambda m, x, y: (m.abs(x) + 0.4) ** m.tanh(y)), 2, _broadcastable),
    "sum": Operation((lambda x, axes, keep: x.sum(axes, keep), lambda x, axes, keep: x.sum(axes, keep)), 1, _axes),
    "mean": Operation((lambda x, axes, keep: x.mean(axes, keep), lambda x, axes, keep: x.mean(axes, keep)), 1, _axes),
    "max": Operation((lambda x, axes, keep: x.max(axes, keep), lambda x, axes, keep: x.amax(axes, keep)), 1, _axes),
    "min": Operation((lambda x, axes, keep: x.min(axes, keep), lambda x, axes, keep: x.amin(axes, keep)), 1, _axes),
    "var": Operation(
        (
            lambda x, axes, keep: x.var(axes, 0.0, keep),
            lambda x, axes, keep: x.var(axes, correction=0, keepdim=keep),
        ),
        1,
        _axes,
    ),
    "logsumexp": Operation(
        (lambda x, axes, keep: gc.logsumexp(x, axes, keep), lambda x, axes, keep: torch().logsumexp(x, axes, keep)),
        1,
        _axes,
    ),
    "softmax": Operation(_same_axis("softmax"), 1, _axis),
    "log_softmax": Operation(_same_axis("log_softmax"), 1, _axis),
    "sort": Operation((lambda x, axis: sort(x, axis), lambda x, axis: torch().sort(x, axis).values), 1, _axis),
    "argmax": Operation(
        (
            lambda x, axis: gc.astype(gc.argmax(x, axis, True), x.dtype) * 0.1 + x,
            lambda x, axis: torch().argmax(x, axis, True).to(x.dtype) * 0.1 + x,
        ),
        1,
        _axis,
    ),
    "reshape": Operation(_both(lambda m, x, shape: x.reshape(shape)), 1, _reshape),
    "permute": Operation((lambda x, axes: gc.permute_dims(x, axes), lambda x, axes: x.permute(axes)), 1, _permute),
    "stretch": Operation(_both(lambda m, x, shape: m.broadcast_to(x, shape)), 1, _stretch),
    "subscript": Operation((lambda x, key: x[key], _torch_key), 1, _key),
    "pad": Operation((lambda x, low, high: gc.pad(x, low, high), _torch_pad), 1, _pad),
    "flip": Operation((lambda x, axis: gc.flip(x, axis), lambda x, axis: torch().flip(x, (axis,))), 1, _axis),
    "concat": Operation(_both(lambda m, x, y, axis: m.concat([x, y], axis)), 2, _joined),
    "matmul": Operation(_both(lambda m, x, w: m.tanh(m.matmul(x, w))), 1, _product),
    "batched matmul": Operation(_both(lambda m, x, w: m.matmul(x, w)), 1, _batched_product),
    "conv": Operation((gc.conv, _torch_convolution), 1, _convolution),
    "max_pool": Operation((gc.max_pool, _torch_pooling("max")), 1, _pooling),
    "avg_pool": Operation((gc.avg_pool, _torch_pooling("avg")), 1, _pooling),
    "take": Operation((lambda x, axis, indices: gc.take(x, indices, axis=axis), _torch_take), 1, _indices),
    "take_along": Operation(
        (
            lambda x, axis, indices: gc.take_along_axis(x, indices, axis),
            lambda x, axis, indices: torch().gather(x, axis, torch().tensor(indices)),
        ),
        1,
        _along,
    ),
}


def _input_shape(rng: Rng) -> Shape:
    """Up to four dimensions; mostly small extents, and some that fill whole vectors, with or without a remainder."""
    shape = [int(n) for n in rng.integers(1, 6, int(rng.integers(0, 5)))]
    if shape and rng.integers(3) == 0:
        shape[int(rng.integers(len(shape)))] = int(rng.choice([8, 16, 17, 32, 33]))
    return tuple(shape) if math.prod(shape) <= LARGEST else tuple(shape[1:])


def random_program(seed: int, length: int | None = None) -> Program:
    """A program of 3 to 14 steps (or `length`), the same for the same seed."""
    rng = np.random.default_rng([seed, 77])
    program = Program()
    count = 0

    def new_input(shape: Shape) -> int:
        nonlocal count
        program.places.append(count)
        program.inputs.append(rng.normal(size=shape))
        program.shapes[count] = shape
        count += 1
        return count - 1

    for _ in range(int(rng.integers(1, 4))):
        new_input(_input_shape(rng))
    used: set[int] = set()
    wanted = length or int(rng.integers(3, 15))
    names = list(OPERATIONS)
    while len(program.steps) < wanted:
        name = names[int(rng.integers(len(names)))]
        operation = OPERATIONS[name]
        # rather the newest values, so that programs get deep
        known = sorted(program.shapes)
        odds = np.arange(1, len(known) + 1) ** 2.0
        operands = [int(i) for i in rng.choice(known, operation.arity, p=odds / odds.sum())]
        drawn = operation.draw(rng, *(program.shapes[i] for i in operands))
        if drawn is None:
            continue
        options, extra = drawn if isinstance(drawn, tuple) else (drawn, [])
        operands += [new_input(shape) for shape in extra]
        step = Step(name, tuple(operands), options)
        program.steps.append((count, step))
        program.shapes[count] = _shape_of(program, step)
        used.update(operands)
        count += 1
    for n, _ in program.steps:
        if n not in used:
            program.weights[n] = rng.normal(size=program.shapes[n])
    return program


def _shape_of(program: Program, step: Step) -> Shape:
    zeros = [gc.asarray(np.zeros(program.shapes[i])) for i in step.operands]
    return tuple(OPERATIONS[step.operation].functions[0](*zeros, **step.options).shape)
