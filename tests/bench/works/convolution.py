"""Convolutions alone: forward, and the gradients in the input and in the weight for a given cotangent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tests.bench.work import Run, Work

PARTS = ("forward", "input gradient", "weight gradient")


@dataclass(frozen=True)
class Layer:
    """x: (batch, channels, size, size). w: (out, channels // groups, kernel, kernel)."""

    batch: int
    channels: int
    size: int
    out: int
    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1

    @property
    def result(self) -> int:
        """Extent of the result."""
        return (self.size + 2 * self.padding - self.dilation * (self.kernel - 1) - 1) // self.stride + 1

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Of x, w and the result."""
        return (
            (self.batch, self.channels, self.size, self.size),
            (self.out, self.channels // self.groups, self.kernel, self.kernel),
            (self.batch, self.out, self.result, self.result),
        )

    @property
    def flops(self) -> float:
        _, w, y = self.shapes
        return 2.0 * np.prod(y) * np.prod(w[1:])

    def arrays(self, part: str, rng: np.random.Generator, dtype: np.dtype[Any]) -> list[np.ndarray]:
        """What the part takes: x and w; w and the cotangent; x and the cotangent."""
        x, w, y = (rng.normal(size=shape).astype(dtype) for shape in self.shapes)
        w /= np.sqrt(np.prod(w.shape[1:], dtype=dtype))
        return {"forward": [x, w], "input gradient": [w, y], "weight gradient": [x, y]}[part]

    def bytes(self, part: str, itemsize: int = 4) -> float:
        return float(itemsize * sum(map(np.prod, self.shapes)))


def _graphc(layer: Layer, part: str, library: Any, *arrays: Any) -> Run:
    gc = library.module
    conv = partial(gc.conv, stride=layer.stride, padding=layer.padding, dilation=layer.dilation, groups=layer.groups)
    call = gc.compile(_gradient(layer, part, conv, gc.grad, lambda shape: gc.zeros(shape, dtype=arrays[0].dtype)))
    return lambda: call(*arrays)


def _gradient(layer: Layer, part: str, conv: Any, grad: Any, zeros: Callable[[tuple[int, ...]], Any]) -> Any:
    """The part as a function: convolution is linear in each operand, so where it is differentiated doesn't matter."""
    x, w, _ = layer.shapes
    if part == "forward":
        return conv
    if part == "input gradient":
        return lambda weight, g: grad(lambda x: (conv(x, weight) * g).sum())(zeros(x))
    return lambda x, g: grad(lambda weight: (conv(x, weight) * g).sum())(zeros(w))


def _torch(layer: Layer, part: str, compiled: bool, library: Any, *arrays: Any) -> Run:
    torch = library.module
    pairs = [[n, n] for n in (layer.stride, layer.padding, layer.dilation)]
    wanted = 0 if part == "input gradient" else 1
    x, w, _ = layer.shapes
    missing = library.array(np.zeros(w if part == "weight gradient" else x, np.float32)).to(arrays[0].dtype)

    def forward(x: Any, w: Any) -> Any:
        return torch.nn.functional.conv2d(x, w, None, *pairs, layer.groups)

    def backward(a: Any, g: Any) -> Any:
        x, w, mask = (missing, a, [True, False, False]) if wanted == 0 else (a, missing, [False, True, False])
        found = torch.ops.aten.convolution_backward(g, x, w, None, *pairs, False, [0, 0], layer.groups, mask)
        return found[wanted]

    f = forward if part == "forward" else backward
    call = library.compile(f) if compiled else f

    def run() -> Any:
        with torch.no_grad():
            return call(*arrays)

    return run


def _jax(layer: Layer, part: str, last: bool, library: Any, *arrays: Any) -> Run:
    """last: images as (batch, height, width, channels), kernels as (height, width, channels, out)."""
    jax = library.module
    order = ("NHWC", "HWIO", "NHWC") if last else ("NCHW", "OIHW", "NCHW")
    images, kernels = ((0, 2, 3, 1), (2, 3, 1, 0)) if last else ((0, 1, 2, 3), (0, 1, 2, 3))
    pair = (layer.stride, layer.stride)

    def conv(x: Any, w: Any) -> Any:
        return jax.lax.conv_general_dilated(
            x, w, pair, [(layer.padding,) * 2] * 2, rhs_dilation=(layer.dilation,) * 2,
            dimension_numbers=order, feature_group_count=layer.groups,
        )  # fmt: skip

    def zeros(shape: tuple[int, ...]) -> Any:
        axes = images if shape == layer.shapes[0] else kernels
        return jax.numpy.zeros([shape[a] for a in axes], arrays[0].dtype)

    given = {"forward": (images, kernels), "input gradient": (kernels, images), "weight gradient": (images, images)}
    operands = [a.transpose(axes) for a, axes in zip(arrays, given[part], strict=True)]
    call = jax.jit(_gradient(layer, part, conv, jax.grad, zeros))
    back = np.argsort(kernels if part == "weight gradient" else images)
    return lambda: _Turned(jax.block_until_ready(call(*operands)), back)


class _Turned:
    """A result that is brought into the common order only when somebody looks at it, outside of the time."""

    def __init__(self, result: Any, axes: Any) -> None:
        self.result, self.axes = result, axes

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.result).transpose(self.axes)


def _works(name: str, line: str, layer: Layer, dtype: str = "") -> list[Work]:
    return [
        Work(
            f"{name} {part}", line, partial(layer.arrays, part),
            own={
                "graphc": partial(_graphc, layer, part),
                "torch": partial(_torch, layer, part, False),
                "torch channels_last": partial(_torch, layer, part, False),
                "torch.compile": partial(_torch, layer, part, True),
                "jax": partial(_jax, layer, part, False),
                "jax NHWC": partial(_jax, layer, part, True),
            },
            flops=layer.flops, bytes=layer.bytes(part), dtype=dtype,
        )
        for part in PARTS
    ]  # fmt: skip


LAYERS = {
    "conv-lenet": {
        "LeNet conv1 (1->20 5x5)": Layer(64, 1, 28, 20, 5),
        "LeNet conv2 (20->50 5x5)": Layer(64, 20, 12, 50, 5),
        "depthwise 3x3, 64 channels": Layer(64, 64, 56, 64, 3, padding=1, groups=64),
    },
    "conv": {
        "conv 3x3 64->64, batch 8": Layer(8, 64, 56, 64, 3, padding=1),
        "conv 3x3 64->64, batch 1": Layer(1, 64, 56, 64, 3, padding=1),
        "conv 1x1 256->64, batch 8": Layer(8, 256, 56, 64, 1),
        "conv 3x3 stride 2 64->128, batch 8": Layer(8, 64, 56, 128, 3, stride=2, padding=1),
        "conv 7x7 stem 3->64, batch 8": Layer(8, 3, 224, 64, 7, stride=2, padding=3),
    },
}
ODD = {
    "valid": Layer(16, 3, 9, 5, 3),
    "odd batch, padded": Layer(5, 4, 7, 19, 3, padding=1),
    "stride 2": Layer(3, 16, 11, 32, 3, stride=2, padding=1),
    "stride 3, dilated": Layer(2, 2, 13, 3, 3, stride=3, padding=2, dilation=2),
    "groups": Layer(2, 32, 8, 48, 3, padding=1, groups=2),
    "depthwise": Layer(17, 7, 10, 7, 3, padding=1, groups=7),
    "1x1": Layer(2, 33, 5, 17, 1),
    "stem": Layer(1, 3, 23, 16, 7, stride=2, padding=3),
}

WORKS = [
    work for line, layers in LAYERS.items() for name, layer in layers.items() for work in _works(name, line, layer)
]
SMALL = [
    work
    for dtype in ("float32", "float64")
    for name, layer in ODD.items()
    for work in _works(f"conv {name} {dtype}", "conv", layer, dtype)
]
