"""What a trace refuses, with which words, and that a refusal loses nothing."""

from __future__ import annotations

import math
import os
import random
import secrets
import time
import uuid
from datetime import datetime
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import optim


def T(a: Any, requires_grad: bool = False) -> gc.Tensor:
    return gc.tensor(np.array(a, dtype=np.float64), requires_grad=requires_grad)


def forms(compiled: Any) -> int:
    return len(compiled.specialisations)


@pytest.mark.parametrize(
    "f",
    [
        time.time,
        time.perf_counter,
        time.time_ns,
        random.random,
        lambda: random.gauss(0, 1),
        lambda: np.random.default_rng().random(),
        lambda: datetime.now().timestamp(),
        lambda: os.urandom(1)[0],
        lambda: uuid.uuid4().int % 7,
        lambda: secrets.randbelow(5),
        lambda: random.choice([1, 2]),
    ],
)
def test_clocks_and_random_numbers_are_refused(f: Any) -> None:
    with pytest.raises(gc.TraceError, match=r"reads (a clock|random numbers).*test_trace.py:\d+"):
        gc.compile(lambda x: x * f())(T([1.0]))


def test_numpys_generators_are_refused() -> None:
    rng, legacy = np.random.default_rng(0), np.random.RandomState(0)
    for f in (np.random.rand, lambda: float(np.random.randint(5)), lambda: rng.normal(), lambda: legacy.rand()):
        with pytest.raises(gc.TraceError, match="random numbers of NumPy"):
            gc.compile(lambda x, f=f: x * f())(T([1.0]))
    seeded = gc.compile(lambda x: x * np.random.default_rng(0).normal())  # the same each time: a constant
    assert seeded(T([1.0])).item() == np.random.default_rng(0).normal()


@pytest.mark.parametrize("bits", ["MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"])
def test_a_generator_that_is_seen_but_not_drawn_from_is_none_of_its_concern(bits: str) -> None:
    rng = np.random.Generator(getattr(np.random, bits)(0))
    noisy = False

    def f(x):
        return x + rng.random() if noisy else 2 * x

    compiled = gc.compile(f)
    assert [compiled(T([1.0])).item() for _ in range(2)] == [2, 2]
    rng.integers(9, dtype=np.int32)  # half of 64 bits: the other half waits in the generator
    assert compiled(T([2.0])).item() == 4
    noisy = True
    with pytest.raises(gc.TraceError, match=r"random numbers of NumPy \(rng\)"):
        compiled(T([1.0]))


def test_a_hyperparameter_changed_by_the_function_itself_is_refused() -> None:
    w = T([4.0], requires_grad=True)
    optimizer = optim.SGD([w], lr=0.5)

    def step():
        optimizer.zero_grad()
        (w * w).sum().backward()
        optimizer.step()

    def decays():
        step()
        optimizer.param_groups[0]["lr"] *= 0.5

    with pytest.raises(gc.TraceError, match=r"changes the hyperparameter optimizer.param_groups\[0\]\['lr'\]"):
        gc.compile(decays)()
    optimizer.param_groups[0]["lr"] = 0.25
    compiled = gc.compile(step)
    for lr, expected in ((0.25, 2.0), (0.125, 1.5)):  # 4 - 2 * 4 * 0.25, 2 - 2 * 2 * 0.125
        optimizer.param_groups[0]["lr"] = lr
        compiled()
        assert w.item() == expected
    assert forms(compiled) == 1


def test_an_iterator_from_outside_is_refused() -> None:
    numbers = iter([1.0, 2.0, 3.0])
    with pytest.raises(gc.TraceError, match="iterator from outside, numbers"):
        gc.compile(lambda x: x * next(numbers))(T([1.0]))
    local = gc.compile(lambda x: x * next(iter([1.0, 2.0])))
    assert [local(T([1.0])).item() for _ in range(2)] == [1, 1]


def test_traced_values_that_leak_are_refused() -> None:
    log: list[Any] = []
    box: dict[str, Any] = {"last": None}

    def appends(x):
        log.append(x * 2)
        return x

    def stores(x):
        box["last"] = x * 2
        return x

    with pytest.raises(gc.TraceError, match=r"leaves a traced value \(made at .*test_trace.py:\d+\) in log"):
        gc.compile(appends)(T([1.0]))
    with pytest.raises(gc.TraceError, match=r"leaves a traced value .* in box"):
        gc.compile(stores)(T([1.0]))
    leaked = log[0]
    for use in (
        lambda: leaked + 1,
        leaked.numpy,
        leaked.item,
        lambda: float(leaked),
        lambda: bool(leaked),
        leaked.backward,
        leaked.sum,
        lambda: gc.stack(log),
        lambda: leaked.add_(1.0),
        lambda: T([1.0]).add_(leaked),
        leaked.clone,
        lambda: gc.compile(lambda y: y * leaked)(T([1.0])),
        lambda: gc.compile(lambda y: y * 2)(leaked),
    ):
        with pytest.raises(gc.GraphcError):
            use()


def test_branching_names_the_line_and_what_to_write() -> None:
    with pytest.raises(gc.TraceError, match=r"where") as e:
        gc.compile(lambda x: x if x.sum() > 0 else -x)(T([1.0]))
    assert "test_trace.py" in str(e.value)

    def loop(x):
        y = x * 2
        while y.max() < 10:
            y = y * 2
        return y

    with pytest.raises(gc.TraceError, match=r"where"):
        gc.compile(loop)(T([1.0]))
    for g in (
        lambda x: x[int(x.argmax().item())],
        lambda x: [1, 2][x.astype("int64")],
        lambda x: x.numpy(),
        lambda x: f"{x:.3f}",
        lambda x: max(x[0], x[1]),
        lambda x: sorted([x[0], x[1]]),
        lambda x: x[0] in [x[1]],
        lambda x: math.floor(x[0]),
        lambda x: gc.ones((int(x[0]),)),
        np.asarray,
        lambda x: x.tolist(),
        lambda x: x[x > 0],
        lambda x: 3 if not x else 4,
    ):
        with pytest.raises(gc.GraphcError):
            gc.compile(g)(T([1.0, 2.0]))


def test_error_loses_nothing() -> None:
    w = T([1.0, 2.0], True)
    o = optim.SGD([w], lr=0.1, momentum=0.9)
    bad = [True]
    b = T([0.0])
    (w * w).sum().backward()
    g = w.grad
    gv = g.numpy().copy()
    wv = w.detach().numpy().copy()
    st = gc.random.default_generator.get_state().numpy().copy()

    def step(x):
        b.add_(1.0)
        gc.random.uniform((2,))
        loss = (w * x).sum()
        loss.backward()
        o.step()
        o.zero_grad()
        if bad[0]:
            raise RuntimeError("mine")
        return loss

    c = gc.compile(step)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="mine"):
            c(T([1.0, 2.0]))
        assert w.grad is g
        np.testing.assert_array_equal(g.numpy(), gv)
        np.testing.assert_array_equal(w.detach().numpy(), wv)
        assert b.item() == 0 and b._node is None
        assert w._node is None and o.state[w]["momentum_buffer"].numpy().sum() == 0
        np.testing.assert_array_equal(gc.random.default_generator.get_state().numpy(), st)
        y = (w * 2).sum()
        y.backward(retain_graph=True)
        w.grad.sub_(2.0)
        np.testing.assert_array_equal(w.grad.numpy(), gv)
    bad[0] = False
    c(T([1.0, 2.0]))
    assert b.item() == 1


def test_error_arg_state() -> None:
    x = T([1.0, 2.0])

    def f(x, fail):
        x.mul_(2.0)
        if fail:
            raise KeyError("q")
        return x + 1

    c = gc.compile(f)
    with pytest.raises(KeyError):
        c(x, True)
    assert (x.numpy() == [1, 2]).all()
    r = c(x, False)
    assert (x.numpy() == [2, 4]).all() and (r.numpy() == [3, 5]).all()


def test_a_swallowed_refusal_is_raised_all_the_same() -> None:
    @gc.compile
    def careful(x: gc.Tensor) -> gc.Tensor:
        try:
            return x / 0 if bool(x.sum() > 0) else x
        except Exception:
            return -x

    with pytest.raises(gc.TraceError, match="where"):
        careful(gc.ones(2))


def test_hooks_are_watched_whoever_calls_them() -> None:
    """backward() isn't watched where it consists of graphc's own code alone; a hook is the user's."""
    on_result = T([1.0, 2.0], requires_grad=True)
    on_leaf = T([1.0, 2.0], requires_grad=True)
    on_leaf.register_hook(lambda g: g * time.perf_counter())

    def hooked(x: gc.Tensor) -> gc.Tensor:
        y = on_result * x
        y.register_hook(lambda g: g * time.perf_counter())
        y.sum().backward()
        return y

    def leaf(x: gc.Tensor) -> gc.Tensor:
        y = on_leaf * x
        y.sum().backward()
        return y

    for f in (hooked, leaf):
        with pytest.raises(gc.TraceError, match=r"reads a clock \(perf_counter\)"):
            gc.compile(f)(T([1.0, 2.0]))


class Reading:
    """An argument that does something when a function of graphc's looks at it."""

    def __bool__(self) -> bool:
        return time.perf_counter() > 0


def test_arguments_of_composed_functions_are_watched() -> None:
    with pytest.raises(gc.TraceError, match=r"reads a clock \(perf_counter\)"):
        gc.compile(lambda x: gc.logsumexp(x, 0, Reading()))(T([1.0, 2.0]))  # type: ignore[arg-type]


def test_nodes_of_composed_functions_and_updates_know_the_user_s_line() -> None:
    w = T([1.0, 2.0], requires_grad=True)
    optimizer = optim.SGD([w], lr=0.1)

    def step(x: gc.Tensor) -> gc.Tensor:
        loss = gc.nn.functional.mse_loss(w * x, x)
        loss.backward()
        optimizer.step()
        return loss

    compiled = gc.compile(step)
    compiled(T([1.0, 2.0]))
    lines = {n.origin.location for n in compiled.specialisations[0].trace.graph.nodes if n.inputs}
    first = step.__code__.co_firstlineno
    assert {f"{__file__}:{first + k}" for k in (1, 3)} <= lines
    assert all(line is not None and line.startswith(__file__) for line in lines)
