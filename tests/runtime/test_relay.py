"""Operands copied into another order before a kernel reads them: whatever the cost model prefers, one result."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc.ir.graph import Graph
from graphc.ir.node import Node, fresh_input
from graphc.ops import convolution, elementwise, reduction
from graphc.passes.fuse import fuse
from graphc.runtime import relay
from graphc.runtime.cpu.llvm import print_kernel
from graphc.runtime.cpu.target import by_name, host
from graphc.runtime.loop.ir import Kernel
from graphc.runtime.loop.lower import lower_node
from graphc.runtime.loop.nest import Nest
from graphc.runtime.loop.schedule.cpu import cost_cpu, schedule_cpu
from graphc.runtime.loop.storage import Storage, in_order
from graphc.runtime.loop.text import kernel_text, nest_text
from graphc.runtime.plan import plan
from graphc.runtime.program import KernelCall
from graphc.types import TensorType, float32
from tests.runtime.cpu.test_llvm_program import run
from tests.runtime.loop.reference import evaluate, random_array

AVX512 = by_name("x86-64-v4")


def new(*shape: int) -> Node:
    return fresh_input("x", TensorType(shape, float32))


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies are thought about for the smallest kernels too."""
    monkeypatch.setattr(relay, "WORTH_ASKING", 0.0)


def whims(seed: int) -> Callable[[Nest], float]:
    """A cost model without reason, but that any copy is better than none: every candidate is best for some seed."""
    generator = np.random.default_rng(seed)
    known: set[str] = set()

    def cost(nest: Nest) -> float:
        first = nest.name not in known
        known.add(nest.name)
        return 1e9 if first else 5e8 * generator.random()

    return cost


CONVS = {
    "plain": ((16, 8, 9, 9), (9, 8, 3, 3), {}),
    "padded": ((2, 9, 10, 8), (8, 9, 3, 3), {"padding": 1}),
    "strided": ((3, 8, 12, 16), (10, 8, 3, 2), {"stride": 2, "padding": 1}),
    "dilated": ((2, 8, 12, 12), (8, 8, 2, 3), {"dilation": 2, "padding": (2, 1)}),
    "groups": ((2, 16, 8, 8), (24, 8, 3, 3), {"groups": 2, "padding": 1}),
    "depthwise": ((8, 9, 8, 9), (9, 1, 3, 3), {"groups": 9, "padding": 1}),
    "wide kernel": ((1, 3, 20, 20), (8, 3, 7, 7), {"stride": 2, "padding": 3}),
    "1x1": ((8, 20, 5, 5), (9, 20, 1, 1), {}),
    "strided 1x1": ((3, 8, 9, 11), (10, 8, 1, 1), {"stride": 2}),
}


@pytest.mark.parametrize("name", CONVS)
@pytest.mark.parametrize("part", ["forward", "input", "weight"])
@pytest.mark.usefixtures("eager")
def test_results_do_not_depend_on_copies(name: str, part: str) -> None:
    x_shape, w_shape, options = CONVS[name]
    x, w = new(*x_shape), new(*w_shape)
    y = convolution.conv(x, w, **options)
    g = new(*y.shape)
    rules = convolution.CONV.vjp
    attrs = y.attrs
    outputs = {
        "forward": lambda: elementwise.maximum(y, 0.5),
        "input": lambda: rules[0](g, y, x, w, **attrs),
        "weight": lambda: rules[1](g, y, x, w, **attrs),
    }[part]()
    graph = Graph([x, w, g], [outputs])
    arrays = [random_array(n.shape, n.dtype, i) for i, n in enumerate(graph.inputs)]
    (wanted,) = evaluate(graph, [a.copy() for a in arrays])
    fused = fuse(graph)
    copied = 0
    for seed in range(4):
        program = plan(fused, schedule=partial(schedule_cpu, target=host()), cost=whims(seed))
        copied += sum("relay" in s.kernel.name for s in program.steps if isinstance(s, KernelCall))
        memory = [*(a.copy() for a in arrays), np.full(wanted.shape, 77, np.float32)]
        assert run(program, memory, "host") == 0
        np.testing.assert_allclose(memory[-1], wanted, rtol=1e-3, atol=1e-3)
    assert copied


@pytest.mark.usefixtures("eager")
def test_one_copy_serves_all_readers() -> None:
    x, w, u = new(2, 8, 9, 9), new(8, 8, 3, 3), new(8, 8, 3, 3)
    first, second = convolution.conv(x, w, padding=1), convolution.conv(x, u, padding=1)

    def cost(nest: Nest) -> float:
        """Masks are dear, nothing else."""
        return 1e9 if " if " in nest_text(nest) else 1.0

    outputs = [reduction.sum(first, axis=(1, 2)), reduction.max(second, axis=(2, 3))]
    program = plan(fuse(Graph([x, w, u], outputs)), cost=cost)
    copies = [
        s for s in program.steps if isinstance(s, KernelCall) and s.kernel.name.endswith(f"relay_{2 * 8 * 11 * 11}")
    ]
    assert len(copies) == 1


def test_a_rim_makes_masks_needless() -> None:
    x, w = (fresh_input("x", TensorType(s, float32)) for s in ((2, 3, 6, 7), (4, 3, 3, 3)))
    y = convolution.conv(x, w, stride=2, padding=((1, 2), (2, 0)))
    rim = ((0, 0), (0, 0), (1, 2), (2, 0))
    whole = [in_order(x.shape, (0, 1, 2, 3), rim), None, None]
    assert " if " in nest_text(lower_node(y)) and " if " not in nest_text(lower_node(y, storage=whole))
    narrow = in_order(x.shape, (0, 1, 2, 3), ((0, 0), (0, 0), (1, 2), (1, 0)))
    left = nest_text(lower_node(y, storage=[narrow, None, None]))
    assert left.count(">=") == 1, "one end of one dimension is still to be asked for"


def test_storage_counts_the_rim() -> None:
    found = in_order((2, 3, 4), (2, 0, 1), ((0, 0), (1, 1), (2, 0)))
    assert found == Storage((5, 1, 10), ((0, 0), (1, 1), (2, 0)))
    assert (found.first, found.size((2, 3, 4))) == (1 + 20, 2 * 5 * 6)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_compiled_convolutions_and_their_gradients(threads: int) -> None:
    """Large enough for copies to pay; the bits are the same for any number of threads."""
    rng = np.random.default_rng(7)
    x, w = (gc.asarray(rng.normal(size=s).astype(np.float32)) for s in ((3, 24, 30, 29), (40, 24, 3, 3)))

    def loss(x: Any, w: Any) -> Any:
        return (gc.conv(x, w, padding=1, stride=2) ** 2).sum()

    before = gc.get_num_threads()
    try:
        gc.set_num_threads(threads)
        gradients = gc.compile(gc.grad(loss, (0, 1)))
        found = [a.numpy() for a in gradients(x, w)]
        gc.set_num_threads(1)
        alone = [a.numpy() for a in gradients(x, w)]
    finally:
        gc.set_num_threads(before)
    wanted = gc.grad(loss, (0, 1))(x, w)
    for a, b, c in zip(found, alone, wanted, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a, c.numpy(), rtol=1e-3, atol=1e-3 * float(np.abs(c.numpy()).max()))


@pytest.mark.parametrize("part", ["input", "weight"])
@pytest.mark.parametrize("batch", [8, 64])
def test_gradients_of_large_layers_have_sound_kernels(part: str, batch: int) -> None:
    """Operands packed for sums in pieces: planning verifies every kernel."""
    x, w = new(batch, 64, 56, 56), new(64, 64, 3, 3)
    y = convolution.conv(x, w, padding=1)
    g = new(*y.shape)
    output = convolution.CONV.vjp[part == "weight"](g, y, x, w, **y.attrs)
    target = host()
    cost, schedule = partial(cost_cpu, target=target), partial(schedule_cpu, target=target)
    for model in (None, cost):
        assert plan(fuse(Graph([x, w, g], [output])), schedule=schedule, cost=model).steps


def scheduled(inputs: list[Node], output: Node) -> list[Kernel]:
    """The kernels that compute one output on a processor with AVX-512, copies included."""
    cost, schedule = partial(cost_cpu, target=AVX512), partial(schedule_cpu, target=AVX512)
    program = plan(fuse(Graph(inputs, [output])), schedule=schedule, cost=cost)
    return [step.kernel for step in program.steps if isinstance(step, KernelCall)]


def test_a_strided_convolutions_input_gradient_scatters_nothing() -> None:
    """Every other column of the image belongs to one set of the kernel's columns: tiles are transposed, and written
    by rows that leave out the others."""
    x, w = new(8, 64, 28, 28), new(32, 64, 3, 3)
    y = convolution.conv(x, w, stride=2, padding=1)
    g = new(*y.shape)
    found = scheduled([x, w, g], convolution.CONV.vjp[0](g, y, x, w, **y.attrs))
    texts = [print_kernel(kernel, AVX512) for kernel in found]
    assert not any("masked.scatter" in text for text in texts)
    assert any("masked.store" in text for text in texts)


def test_what_no_cache_holds_is_not_copied_first() -> None:
    """A stem's cotangent is 26 MB: the kernel turns pieces of it over itself; the image, of 5 MB, gets its rim."""
    x, w = new(8, 3, 224, 224), new(64, 3, 7, 7)
    y = convolution.conv(x, w, stride=2, padding=3)
    g = new(*y.shape)
    found = scheduled([x, w, g], convolution.CONV.vjp[1](g, y, x, w, **y.attrs))
    assert [kernel.params[0].size for kernel in found if "relay" in kernel.name] == [8 * 3 * 224 * 224]


def test_short_sums_are_not_taken_in_pieces() -> None:
    """A piece of one channel would be 25 steps, after which all running values were stored and loaded again."""
    x, w = new(64, 20, 12, 12), new(50, 20, 5, 5)
    texts = [kernel_text(kernel) for kernel in scheduled([x, w], convolution.conv(x, w))]
    assert any("_acc" in text for text in texts)
    assert not any("_partial" in text for text in texts)
