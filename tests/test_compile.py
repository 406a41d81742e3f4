"""compile(): training steps, arguments and results of every kind, threads; always what eager gives."""

from __future__ import annotations

import collections
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, optim


def T(a: Any, requires_grad: bool = False) -> gc.Tensor:
    return gc.tensor(np.array(a, dtype=np.float64), requires_grad=requires_grad)


def forms(compiled: Any) -> int:
    return len(compiled.specialisations)


A = np.random.default_rng(0).normal(size=(3, 4))
X = np.random.default_rng(1).normal(size=(6, 4)).astype("f")
G = 2.0


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 8)
        self.b = nn.Linear(8, 1)
        self.drop = nn.Dropout(0.5)
        self.scale = 1.0

    def forward(self, x):
        return self.b(self.drop(self.a(x).tanh())) * self.scale


def make(opt=None):
    """A model and its optimizer, the same each time."""
    gc.manual_seed(3)
    model = Net()
    return model, (opt or (lambda p: optim.AdamW(p, lr=0.01)))(model.parameters())


def train(compiled, set_none=True, clip=False, accum=1, opt=None, lrs=(None,) * 4):
    """(parameters, gradients, losses, the optimizer's state, programs) after some steps of training.

    clip: gradients to a norm. accum: gradients of so many batches are added up before each step, in which case the
    two parts of a step are compiled by themselves. lrs: the rate of each step.
    """
    mode = gc.compile if compiled else lambda f: f
    model, optimizer = make(opt)
    gc.manual_seed(11)
    memory = [p._data for p in model.parameters()]

    def zero():
        optimizer.zero_grad(set_to_none=set_none)

    def forward_and_back(x):
        loss = (model(x) ** 2).mean()
        loss.backward()
        return loss

    def update():
        if clip:
            norm = sum((p.grad * p.grad).sum() for p in model.parameters()) ** 0.5
            scale = gc.minimum(1.0, 0.1 / (norm + 1e-6))
            with gc.no_grad():
                for p in model.parameters():
                    p.grad.mul_(scale)
        optimizer.step()

    def whole(x):
        zero()
        loss = forward_and_back(x)
        update()
        return loss

    losses = []
    step, back, end = mode(whole), mode(forward_and_back), mode(update)
    for lr in lrs:
        if lr is not None:
            optimizer.param_groups[0]["lr"] = lr
        if accum == 1:
            losses.append(step(gc.tensor(X)).item())
            continue
        zero()
        losses += [back(gc.tensor(X * (j + 1))).item() for j in range(accum)]
        end()
    assert all(a is p._data for a, p in zip(memory, model.parameters(), strict=True))
    state = [t.numpy() for tensors in optimizer.state.values() for t in tensors.values()]
    gradients = [p.grad.numpy() for p in model.parameters()]
    parameters = [p.detach().numpy() for p in model.parameters()]
    return parameters, gradients, losses, state, forms(step if accum == 1 else back) if compiled else 0


def close(a, b, rtol=2e-5, atol=2e-6):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"set_none": False},
        {"clip": True},
        {"accum": 2},
        {"accum": 2, "set_none": False},
        {"lrs": [0.1, 0.01, 0.02, 0.0]},
        {"opt": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)},
        {"clip": True, "set_none": False, "opt": lambda p: optim.SGD(p, lr=0.1)},
    ],
)
def test_training_is_eager_training(options):
    *eager, state, _ = train(False, **options)
    *compiled, compiled_state, programs = train(True, **options)
    for a, b in zip(eager, compiled, strict=True):
        close(a, b)
    close(state, compiled_state, rtol=1e-4, atol=1e-6)
    assert programs <= 2


def test_another_batch_size_is_another_program() -> None:
    model, _ = make()
    model.eval()
    compiled = gc.compile(lambda x: model(x))
    for batch in (2, 3, 2):
        x = gc.tensor(np.ones((batch, 4), "f"))
        np.testing.assert_allclose(compiled(x).detach().numpy(), model(x).detach().numpy(), rtol=1e-5)
    assert forms(compiled) == 2
    assert "3" in compiled.history[1]


def test_a_float_argument_is_an_operand_as_weak_as_a_python_number() -> None:
    c = gc.compile(lambda x, a: x * a)
    assert c(T(1.0), 0.1).item() == 0.1
    assert c(T(1.0), 0.3).item() == 0.3
    assert forms(c) == 1
    result = c(gc.tensor(np.float32(1.0)), 0.1)
    assert result.dtype == gc.float32
    assert result.item() == np.float32(0.1)
    c = gc.compile(lambda x, a: x * (a * 2 + 1) / a)
    assert c(T(1.0), 0.1).item() == 1.0 * (0.1 * 2 + 1) / 0.1
    assert c(gc.tensor(np.float32(1.0)), 0.1).dtype == gc.float32
    c = gc.compile(lambda x, a: (x + a).sum() * math.pi)
    assert c(T([1.0]), 0.1).item() == 1.1 * math.pi
    assert gc.compile(lambda a: a * 2)(0.25).item() == 0.5
    c = gc.compile(lambda x, a: x**a)
    np.testing.assert_allclose(c(T(2.0), 3.0).item(), 8.0)
    c = gc.compile(lambda x, a: gc.maximum(x, -a))
    assert c(T(-2.0), 1.0).item() == -1


def test_a_float_argument_has_no_value_for_python() -> None:
    c = gc.compile(lambda x, a: x * math.sin(a))
    with pytest.raises(gc.TraceError, match=r"float\(\) needs a number"):
        c(T(2.0), 3.0)
    c = gc.compile(lambda x, a: x if a > 0 else -x)
    with pytest.raises(gc.TraceError, match=r"to branch on it, use graphc\.where"):
        c(T(2.0), 3.0)


def test_arguments_that_are_no_floats_are_constants() -> None:
    c = gc.compile(lambda x, n: x * n)
    assert [c(T(2.0), 3).item(), c(T(2.0), 4).item()] == [6, 8]
    c = gc.compile(lambda x, n: x * n)
    assert [c(T(2.0), True).item(), c(T(2.0), 1).item()] == [2, 2]
    c = gc.compile(lambda x, n: x if n is None else x * n)
    assert [c(T(2.0), n).item() for n in (None, np.float64(3), np.float64(4))] == [2, 6, 8]
    assert math.isnan(c(T(2.0), float("nan")).item())
    with pytest.raises(TypeError):
        c(T(1.0))


def test_trees_of_arguments_and_results() -> None:
    def f(a, *, d, factors=(1.0,)):
        return {"s": a + d["x"], "t": (d["y"][0] * factors[0], [a]), "n": None, "i": 3}

    c = gc.compile(f)
    found = c(T([1.0]), d={"x": T([2.0]), "y": [T([3.0])]}, factors=(2.0,))
    assert [found["s"].item(), found["t"][0].item(), found["t"][1][0].item()] == [3, 6, 1]
    assert (found["n"], found["i"]) == (None, 3)
    found = c(T([1.0]), d={"y": [T([3.0])], "x": T([2.0])})
    assert found["t"][0].item() == 3
    pair = collections.namedtuple("pair", "u v")
    found = gc.compile(lambda p: pair(p.v, p.u))(pair(T([1.0]), T([2.0])))
    assert isinstance(found, pair)
    assert [found.u.item(), found.v.item()] == [2, 1]
    ordered = collections.OrderedDict(a=T([1.0]))
    assert gc.compile(lambda p: p["a"] * 2)(ordered).item() == 2


def test_arrays_of_every_layout() -> None:
    def f(x, y):
        return (x * 2 + y).sum(0)

    c = gc.compile(f)
    a = np.arange(24.0).reshape(4, 6)
    for x, y in (
        (a.T, a.T),
        (a[::2, ::-1], a[::2]),
        (np.broadcast_to(a[0], (4, 6)), a),
        (a[:, ::3], a[:, 1::3]),
        (np.asfortranarray(a), a),
    ):
        np.testing.assert_allclose(c(gc.asarray(x), gc.asarray(y)).numpy(), (x * 2 + y).sum(0))
    e = np.ones((0, 3))
    assert c(T(e), T(e)).numpy().tolist() == [0, 0, 0]
    r = np.ones((2, 3))
    r.flags.writeable = False
    assert c(gc.asarray(r), gc.asarray(r)).numpy().tolist() == [6, 6, 6]


def test_functions_without_arguments_or_operations() -> None:
    assert gc.compile(lambda: gc.ones((2,)) * 3)().numpy().tolist() == [3, 3]
    assert gc.compile(lambda x: x)(T(3.0)).item() == 3
    assert gc.compile(lambda x: x * 2)(np.array([1.0, 2.0])).numpy().tolist() == [2, 4]


def test_a_model_that_is_changed_between_calls() -> None:
    model, _ = make()
    compiled = gc.compile(lambda x: model(x))

    def outputs(run, count=1):
        gc.manual_seed(5)
        return [run(gc.tensor(X)).detach().numpy() for _ in range(count)]

    several = outputs(compiled, 3)
    close(several, outputs(model, 3))
    assert not np.array_equal(several[0], several[1])
    changes = [
        lambda: setattr(model.drop, "p", 0.9),
        model.eval,
        lambda: setattr(model, "scale", 3.0),
        lambda: setattr(model, "a", nn.Linear(4, 8)),
        lambda: model.a.weight.requires_grad_(False),
        lambda: setattr(model, "b", nn.Linear(8, 3)),
        lambda: setattr(model.b, "bias", None),
    ]
    for change in changes:
        change()
        close(outputs(compiled), outputs(model))


def test_gradients_accumulate_in_captured_tensors() -> None:
    w = T([1.0, 2.0], True)
    c = gc.compile(lambda x: (w * x).sum().backward())
    assert c(T([3.0, 4.0])) is None
    assert (w.grad.numpy() == [3, 4]).all()
    c(T([3.0, 4.0]))
    assert (w.grad.numpy() == [6, 8]).all()
    c(T([3.0, 4.0]))
    assert (w.grad.numpy() == [9, 12]).all()
    assert forms(c) == 2
    w.grad = None
    c(T([3.0, 4.0]))
    assert (w.grad.numpy() == [3, 4]).all()
    assert forms(c) == 2


def test_gradients_accumulate_in_arguments() -> None:
    x = T([1.0, 2.0], True)
    c = gc.compile(lambda x: (x * x).sum().backward())
    c(x)
    assert (x.grad.numpy() == [2, 4]).all()
    c(x)
    assert (x.grad.numpy() == [4, 8]).all()
    y = T([1.0, 1.0], True)
    c(y)
    assert (y.grad.numpy() == [2, 2]).all()


def test_threads_that_make_the_first_call_together() -> None:
    def f(x, y):
        for _ in range(200):
            x = x * 1.01 + y
        return x

    c = gc.compile(f)
    want = f(T(A), 1.5).numpy()

    def work(_):
        for _ in range(20):
            np.testing.assert_allclose(c(T(A), 1.5).numpy(), want, rtol=1e-12)

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(work, range(3)))  # raises what they raise
    assert len(c.history) == 1


def test_compiled_functions_inside_of_compiled_functions() -> None:
    inner = gc.compile(lambda x: x * G)
    outer = gc.compile(lambda x: inner(x) + 1)
    assert [outer(T(2.0)).item(), inner(T(2.0)).item(), outer(T(2.0)).item()] == [5, 4, 5]
    assert forms(outer) == 1

    def fact(x, n):
        return x if n == 0 else recursive(x * n, n - 1)

    recursive = gc.compile(fact)
    assert recursive(T(1.0), 5).item() == 120
    w = T([2.0], True)
    lossf = gc.compile(lambda x: (x * w).sum())

    def step(x):
        loss = lossf(x)
        loss.backward()
        return loss

    gc.compile(step)(T([3.0]))
    assert w.grad is not None
    assert w.grad.item() == 3


def test_training_eagerly_while_another_thread_traces() -> None:
    errors = []
    stop = threading.Event()

    def eager():
        try:
            w = T([1.0], True)
            o = optim.SGD([w], lr=0.1)
            while not stop.is_set():
                (w * w).sum().backward()
                o.step()
                o.zero_grad()
                w.detach().numpy()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=eager)
    thread.start()
    try:
        for n in (100, 101, 102):
            w = T([1.0], True)
            o = optim.SGD([w], lr=0.1)

            def step(n=n, w=w, o=o):
                y = w
                for _ in range(n):
                    y = y * 0.99
                y.sum().backward()
                o.step()

            gc.compile(step)()
            np.testing.assert_allclose(w.detach().numpy(), [1 - 0.1 * 0.99**n])
    finally:
        stop.set()
        thread.join()
    assert not errors, errors[0]


def test_numpys_elementwise_functions_run_in_both_modes() -> None:
    def f(x: gc.Tensor) -> gc.Tensor:
        return np.exp(x) * np.maximum(np.abs(x), 0.5) + np.array([1.0, 2.0], np.float32) * x

    x = gc.tensor([-0.25, 3.0])
    a = x.numpy()
    expected = np.exp(a) * np.maximum(np.abs(a), 0.5) + np.array([1.0, 2.0], np.float32) * a
    for run in (f, gc.compile(f)):
        assert isinstance(run(x), gc.Tensor)
        np.testing.assert_allclose(run(x).numpy(), expected, rtol=3e-7)
    with pytest.raises(gc.DTypeError, match=r"numpy.arctan2 can't take a graphc tensor"):
        np.arctan2(x, x)
    with pytest.raises(gc.DTypeError, match=r"numpy.add with out"):
        a += x
