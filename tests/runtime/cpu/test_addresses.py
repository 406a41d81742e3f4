"""Addresses in loops are stepped from iteration to iteration by what is printed, not by LLVM."""

from __future__ import annotations

import re

import numpy as np
import pytest

from graphc.ir.expr import Affine, Axis, Index, Literal, affine, call
from graphc.runtime.cpu import jit
from graphc.runtime.cpu.llvm import print_kernel
from graphc.runtime.cpu.target import by_name
from graphc.runtime.loop.ir import Accumulate, Block, Buffer, For, If, Kernel, Kind, Load, Offset, Store
from graphc.types import float32, int64
from tests.runtime.cpu.harness import expect


def loop(axis: Axis, *body: object, kind: Kind = "serial", width: int = 1) -> For:
    return For(axis, kind, body, width)  # type: ignore[arg-type]


def product(factors: tuple[int, ...], inputs: int = 1, guard: bool = False, outermost: Kind = "serial") -> Kernel:
    """out[i, j] += the sum over k and the inputs of x[offset], the offset a combination of i, j, k with those factors,
    negative ones from the end; guard: where i > 0 only."""
    axes = [Axis(name, n) for name, n in zip("ijk", (3, 4, 5), strict=True)]
    size = 1 + sum(abs(f) * (a.extent - 1) for f, a in zip(factors, axes, strict=True))
    offset = Affine() + sum(-f * (a.extent - 1) for f, a in zip(factors, axes, strict=True) if f < 0)
    for factor, axis in zip(factors, axes, strict=True):
        offset = offset + affine(axis) * factor
    i, j, k = axes
    xs = [Buffer(f"x{n}", float32, size) for n in range(inputs)]
    out = Buffer("out", float32, 12)
    target = Offset(affine(i) * 4 + affine(j))
    adds = [Accumulate(out, target, "sum", Load(x, Offset(offset))) for x in xs]
    inner: Block = (loop(k, *adds),)
    if guard:
        inner = (If(call("gt", Index(affine(i)), Literal(0, int64)), inner),)
    return Kernel("steps", (*xs, out), (loop(i, loop(j, *inner), kind=outermost),))


@pytest.mark.parametrize("outermost", ["serial", "parallel"])
@pytest.mark.parametrize("guard", [False, True])
@pytest.mark.parametrize("inputs", [1, 3])
@pytest.mark.parametrize("factors", [(1, 1, 1), (0, 1, 16), (20, 5, 1), (7, 7, 7), (-20, 5, -1), (3, 0, 24)])
def test_offsets_of_three_loops(factors: tuple[int, ...], inputs: int, guard: bool, outermost: Kind) -> None:
    """Also where the outermost starts somewhere else than at 0, as a task's range does."""
    kernel = product(factors, inputs, guard, outermost)
    arrays = {b.name: np.arange(b.size, dtype=np.float32) + n for n, b in enumerate(kernel.params)}
    expect(kernel, arrays)


def test_rows_of_a_vector_loop_are_stepped() -> None:
    i, j = Axis("i", 6), Axis("j", 50)
    x, out = Buffer("x", float32, 6 * 70), Buffer("out", float32, 300)
    read, write = Offset(affine(i) * 70 + affine(j) + 9), Offset(affine(i) * 50 + affine(j))
    body = loop(j, Store(out, write, Load(x, read)), kind="vector", width=16)
    expect(
        Kernel("rows", (x, out), (loop(i, body),)),
        {"x": np.arange(420.0, dtype=np.float32), "out": np.zeros(300, np.float32)},
    )


@pytest.mark.parametrize(("inputs", "pointers", "offsets"), [(1, 1, 0), (3, 0, 1)])
def test_an_innermost_loop_has_no_products(inputs: int, pointers: int, offsets: int) -> None:
    """One pointer is stepped itself; several that move alike share one offset."""
    text = print_kernel(product((1, 5, 24), inputs), by_name("host"))
    innermost = re.findall(r"^loop\d+:\n((?:  .*\n)*?)  br i1", text, re.MULTILINE)
    innermost = [body for body in innermost if "fadd" in body]
    assert len(innermost) == 1
    assert "mul" not in innermost[0]
    assert innermost[0].count("phi ptr") == pointers
    assert innermost[0].count("phi i64") == 1 + offsets  # the index too


def test_a_loop_around_others_steps_its_pointers() -> None:
    text = print_kernel(product((7, 60, 1), 3), by_name("host"))
    assert " mul " not in text
    assert text.count("phi ptr") == 2 * 4  # three operands and the result, in each of the two loops outside


def test_llvm_leaves_addresses_as_they_are_here_and_nowhere_else() -> None:
    """LLVM's pass turns the product in this loop into a sum. It is off for what graphc compiles, and only there."""
    text = """
define void @f(ptr %x, ptr %y) {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %n, %loop ]
  %m = mul i64 %i, 1000003
  %p = getelementptr float, ptr %x, i64 %m
  %q = getelementptr float, ptr %y, i64 %i
  %v = load float, ptr %p
  store float %v, ptr %q
  %n = add i64 %i, 1
  %c = icmp slt i64 %n, 100
  br i1 %c, label %loop, label %end
end:
  ret void
}
"""
    target, options = by_name("x86-64"), jit.Options()

    def others() -> str:
        machine = jit._new_machine(target, options)
        return str(machine.emit_assembly(jit._optimised(text, options, machine)))

    before = others()
    ours = jit.assembly(text, target)
    with jit._as_printed:
        jit.compile_text(text, target)
        within = others()
    assert "imulq" in ours
    assert within == ours
    assert "imulq" not in before
    assert others() == before
