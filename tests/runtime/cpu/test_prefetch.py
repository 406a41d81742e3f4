"""Far rows of an array beyond the caches are asked for a tile ahead; nothing else is, and no result changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc.ir.expr import Affine, Axis, affine
from graphc.ir.graph import Graph
from graphc.ir.node import FUSED, Node, make
from graphc.ops import convolution, linalg
from graphc.passes.fuse import fuse
from graphc.runtime.cpu import jit
from graphc.runtime.cpu.llvm import print_kernel
from graphc.runtime.cpu.target import by_name
from graphc.runtime.loop.interp import run
from graphc.runtime.loop.ir import Buffer, For, Kernel, Load, Offset, Prefetch, Store
from graphc.runtime.loop.lower import lower_node
from graphc.runtime.loop.schedule import fetch
from graphc.runtime.loop.schedule.cpu import schedule_cpu
from graphc.runtime.loop.text import kernel_text
from graphc.runtime.loop.verify import verify
from graphc.types import float32
from tests.runtime.cpu.harness import RUNNABLE, run_native
from tests.runtime.cpu.test_scheduled import conv, given
from tests.runtime.loop.reference import arrays_for


@pytest.fixture(autouse=True)
def no_epilogue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked for but operands of folds."""
    monkeypatch.setattr(fetch, "UNCACHED", 1 << 40)


AVX512 = by_name("x86-64-v4")


def test_a_prefetch_may_lie_outside_of_the_buffer() -> None:
    x, y, i = Buffer("x", float32, 8), Buffer("y", float32, 8), Axis("i", 8)
    body = (
        Prefetch(x, affine(i) * 100000 + 7),
        Prefetch(x, Affine((), -(1 << 40))),
        Store(y, Offset(affine(i)), Load(x, Offset(affine(i)))),
    )
    kernel = Kernel("ahead", (x, y), (For(i, "serial", body),))
    verify(kernel)
    arrays = {"x": np.arange(8, dtype=np.float32), "y": np.zeros(8, np.float32)}
    for target in RUNNABLE:
        status, found = run_native(kernel, arrays, target)
        assert status == 0
        np.testing.assert_array_equal(found["y"], arrays["x"])
    assert run(kernel, arrays) == 0
    np.testing.assert_array_equal(arrays["y"], arrays["x"])


@pytest.mark.parametrize("target", RUNNABLE)
def test_a_convolution_of_images_that_no_cache_holds(target: str) -> None:
    nest = lower_node(conv((2, 40, 165, 171), (3, 40, 1, 1)))
    kernel = schedule_cpu(nest, by_name(target))
    assert "prefetch" in kernel_text(kernel)
    arrays = arrays_for(nest)
    status, found = run_native(kernel, arrays, target)
    assert status == 0
    x, w = arrays["p0"].reshape(2, 40, -1), arrays["p1"].reshape(3, 40)
    np.testing.assert_allclose(found["o0"].reshape(2, 3, -1), np.matmul(w, x), rtol=1e-4, atol=1e-4)


def product(m: int, n: int, k: int) -> Node:
    return make(linalg.MATMUL, (given(0, m, k), given(1, k, n)), {})


@pytest.mark.parametrize(
    ("node", "asked"),
    [
        (conv((8, 256, 56, 56), (64, 256, 1, 1)), ["p0"]),  # 26 MB, channels 12 KB apart
        (conv((1, 256, 8, 8), (64, 256, 1, 1)), []),  # 64 KB
        (conv((1, 256, 56, 56), (64, 256, 1, 1)), []),  # 3 MB
        (product(32, 40000, 100), ["p1"]),
        (product(200, 32768, 100), []),  # packed
        (product(64, 64, 64), []),
    ],
)
def test_what_is_asked_for_ahead(node: Node, asked: list[str]) -> None:
    kernel = schedule_cpu(lower_node(node), AVX512)
    lines = [line.split() for line in kernel_text(kernel).splitlines()]
    names = {words[1].partition("[")[0] for words in lines if words[0] == "prefetch"}
    assert sorted(names) == asked
    listing = jit.assembly(print_kernel(kernel, AVX512), AVX512)
    assert ("prefetcht1" in listing) == bool(asked)


def test_the_next_tile_is_asked_for_by_whole_lines() -> None:
    """Two vectors of a channel's pixels make a tile: 32 floats further on lies the next one, two lines of 16."""
    text = kernel_text(schedule_cpu(lower_node(conv((8, 256, 56, 56), (64, 256, 1, 1))), AVX512))
    first = next(line.strip() for line in text.splitlines() if "prefetch" in line)
    assert first == "prefetch p0[802816*i0_block + 32*i2_block + 3136*j0 + 47]"
    assert first.replace("47", "63") in text


def weight_gradient(x: tuple[int, ...], w: tuple[int, ...], groups: int) -> Node:
    y = conv(x, w, padding=1, groups=groups)
    return convolution.CONV.vjp[1](given(2, *y.shape), y, *y.inputs, **y.attrs)


def test_the_next_piece_of_a_sum_is_asked_for() -> None:
    """A channel of an image is 12 KB, read by one run; that of the next image lies 64 of them further on."""
    node = weight_gradient((64, 64, 56, 56), (64, 1, 3, 3), groups=64)
    (fused,) = [n for n in fuse(Graph([], [node])).nodes if n.op is FUSED]
    text = kernel_text(schedule_cpu(lower_node(fused), AVX512))
    asked = [line.split("[")[0].split()[-1] for line in text.splitlines() if "prefetch" in line]
    assert sorted(set(asked)) == ["p0", "p1"]
    assert len(asked) == 2 * 4, "rows of 56 floats: four lines of each image, once for all columns of the kernel"
    assert "56*j1 + 200719]" in text, "64 channels further on, the first vector's last lane"


@pytest.mark.parametrize("groups", [20, 1])
def test_sums_over_images_that_no_cache_holds(groups: int) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(9, 20, 115, 117)).astype(np.float32)
    w = np.zeros((20, 20 // groups, 3, 3), np.float32)

    def loss(w: Any) -> Any:
        return (gc.conv(gc.asarray(x), w, padding=1, groups=groups) * gc.asarray(x)).sum()

    found = gc.compile(gc.grad(loss))(gc.asarray(w)).numpy()
    around = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(around, (3, 3), (2, 3))
    wanted = np.einsum("nohw,nihwkl->oikl", x, windows, optimize=True)
    if groups > 1:
        wanted = np.einsum("ookl->okl", wanted)[:, None]
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-2)
