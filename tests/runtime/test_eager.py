"""Eager mode's kernels: the same numbers as the functions' own operations, and the tape's promises kept."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import composed
from graphc.errors import AnomalyError, CompileError, IndexingError, ShapeError
from graphc.nn import functional as F
from graphc.optim import SGD, Adam, AdamW, optimizer
from graphc.runtime import background, eager
from graphc.tensor import Tensor
from tests.nn.test_functional import CASES

rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Operands of any size count, and kernels take over at the third call however small they are."""
    monkeypatch.setattr(composed, "LEAST", 0)
    monkeypatch.setattr(optimizer, "LEAST", 0)
    monkeypatch.setattr(eager, "WORTH", 0)
    eager.kernels._forms.clear()
    yield
    gc.set_eager_kernels(True)
    gc.set_anomaly(False)


def normal(*shape: int, dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    return rng.standard_normal(shape).astype(dtype)


def leaf(array: np.ndarray[Any, Any]) -> Tensor:
    """A tensor of a copy of these numbers that asks for a gradient."""
    return gc.tensor(array.copy(), requires_grad=True)


def warm(f: Callable[..., Any], *arrays: np.ndarray[Any, Any]) -> None:
    """Call f until its next call is native."""
    for _ in range(eager.FIRST - 1):
        f(*[leaf(a) if a.dtype.kind == "f" else gc.tensor(a) for a in arrays])


def made_by(x: Tensor) -> str:
    assert x._record is not None
    assert x._record.op is not None
    return x._record.op.name


def differentiated(f: Callable[..., Any], arrays: Sequence[Any]) -> tuple[str, list[np.ndarray[Any, Any]]]:
    """What made the value; the value and the gradients of a weighted sum of it."""
    xs = [leaf(a) if a.dtype.kind == "f" else gc.tensor(a) for a in arrays]
    y = f(*xs)
    seed = np.random.default_rng(1).standard_normal(y.shape).astype(y.dtype.numpy)
    y.backward(gc.tensor(seed))
    grads = [x.grad.numpy() if x.grad is not None else np.zeros(()) for x in xs if x.requires_grad]
    return made_by(y), [y.detach().numpy(), *grads]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES, ids=[name for name, *_ in CASES])
def test_kernels_agree_with_the_operations(case: Any, dtype: Any) -> None:
    _, operands, f = case
    if any(x is not None and np.asarray(x).dtype.kind not in "fib" for x in operands):
        pytest.skip("not arrays")
    arrays = [np.asarray(x).astype(dtype) if np.asarray(x).dtype.kind == "f" else np.asarray(x) for x in operands]
    runs = [differentiated(lambda *xs: f(F, *xs), arrays) for _ in range(eager.FIRST + 1)]
    gc.set_eager_kernels(False)
    _, expected = differentiated(lambda *xs: f(F, *xs), arrays)
    bound = 64 * float(np.finfo(dtype).eps)
    for _, found in runs:
        for a, b in zip(found, expected, strict=True):
            assert a.shape == b.shape
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=bound, atol=bound * max(1.0, float(np.abs(b).max(initial=0.0))))
    # the last two are of one kernel: equal calls give equal bits
    for a, b in zip(runs[-1][1], runs[-2][1], strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_third_call_is_native_whoever_compiles_it() -> None:
    x = normal(5, 7)
    names = [differentiated(lambda x: F.softmax(x), [x])[0] for _ in range(4)]
    assert names == ["divide", "divide", "softmax", "softmax"]


def test_small_and_rare_calls_stay_with_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eager, "WORTH", 10 * 35)
    names = [differentiated(lambda x: F.softmax(x), [normal(5, 7)])[0] for _ in range(12)]
    assert names == ["divide"] * 9 + ["softmax"] * 3
    monkeypatch.setattr(composed, "LEAST", 10_000)
    assert differentiated(lambda x: F.softmax(x), [normal(5, 7)])[0] == "divide"


def test_kernels_can_be_switched_off() -> None:
    warm(F.softmax, normal(5, 7))
    gc.set_eager_kernels(False)
    assert made_by(F.softmax(leaf(normal(5, 7)))) == "divide"
    gc.set_eager_kernels(True)
    assert made_by(F.softmax(leaf(normal(5, 7)))) == "softmax"


@pytest.mark.parametrize("value", [0.0, -0.0, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("f", [F.relu, F.gelu, F.softmax, F.log_softmax, gc.erf], ids=lambda f: f.__name__)
def test_special_values(f: Callable[..., Any], value: float) -> None:
    x = normal(4, 9)
    x[1, 3] = value
    warm(f, x)
    name, found = differentiated(f, [x])
    assert name == f.__name__
    gc.set_eager_kernels(False)
    for a, b in zip(found, differentiated(f, [x])[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        zero = b == 0
        np.testing.assert_array_equal(np.signbit(a[zero & (a == 0)]), np.signbit(b[zero & (a == 0)]))


def test_empty_and_strided_operands() -> None:
    wide = normal(6, 10)
    for view in (lambda x: x[:, ::2], lambda x: x.T, lambda x: x[1:1], lambda x: x[::-1]):
        for _ in range(eager.FIRST):
            x = leaf(wide)
            y = F.layer_norm(view(x), view(x).shape[1])
            y.sum().backward()
        assert made_by(y) == "layer_norm"
        gc.set_eager_kernels(False)
        z = leaf(wide)
        expected = F.layer_norm(view(z), view(z).shape[1])
        expected.sum().backward()
        gc.set_eager_kernels(True)
        np.testing.assert_allclose(y.detach().numpy(), expected.detach().numpy(), rtol=1e-5, atol=1e-6)
        assert x.grad is not None
        assert z.grad is not None
        np.testing.assert_allclose(x.grad.numpy(), z.grad.numpy(), atol=1e-5)


def test_only_what_requires_a_gradient_gets_one() -> None:
    x, w = normal(8, 5), normal(3, 5)
    for _ in range(eager.FIRST):
        weight = leaf(w)
        y = F.linear(gc.tensor(x), weight)
        y.sum().backward()
    assert made_by(y) == "linear"
    assert weight.grad is not None
    np.testing.assert_allclose(weight.grad.numpy(), np.broadcast_to(x.sum(0), (3, 5)), rtol=1e-5)
    with gc.no_grad():
        for _ in range(eager.FIRST):
            y = F.linear(gc.tensor(x), weight)
    assert not y.requires_grad


def test_higher_derivatives_are_those_of_the_operations() -> None:
    x = normal(6, dtype=np.float64)

    def second(f: Callable[..., Any]) -> list[np.ndarray[Any, Any]]:
        v = leaf(x)
        y = (F.softmax(f(v)) ** 2).sum()
        (g := y).backward(create_graph=True)
        assert v.grad is not None
        first, v.grad = v.grad, None
        (first**2).sum().backward()
        assert v.grad is not None
        assert g is y
        hessian = gc.hessian(lambda u: (F.softmax(f(u)) ** 2).sum())(gc.tensor(x))
        moved = gc.jvp(lambda u: F.softmax(f(u)), (gc.tensor(x),), (gc.tensor(np.ones(6)),))[1]
        return [first.detach().numpy(), v.grad.numpy(), hessian.numpy(), moved.numpy()]

    for f in (F.gelu, F.relu, F.log_softmax):
        runs = [second(f) for _ in range(eager.FIRST + 1)]
        gc.set_eager_kernels(False)
        expected = second(f)
        gc.set_eager_kernels(True)
        for run in runs:
            for a, b in zip(run, expected, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_masked_gradients_stay_masked() -> None:
    """Below a where, an infinite derivative of what wasn't chosen is no nan; anywhere else it is."""

    def steep(x: Tensor) -> Tensor:
        return F.l1_loss(gc.sqrt(x), gc.zeros(3), "none")

    x = np.array([0.0, 1.0, 4.0], np.float32)
    for masked in (True, False):
        for on in (True, False):
            gc.set_eager_kernels(on)
            for _ in range(eager.FIRST):
                v = leaf(x)
                y = gc.var(gc.stack([v, v * 0.5]), 0) if not masked else F.relu(gc.sqrt(v) - 0.5)
                (gc.where(gc.tensor(x) > 0.5, steep(v) + y, 0) if masked else steep(v) * 0).sum().backward()
            assert v.grad is not None
            assert np.isnan(v.grad.numpy()[0]) == (not masked), (masked, on)


def test_writing_to_an_operand_after_the_call_leaves_its_gradient_right() -> None:
    """The operations of layer_norm don't remember their input; a kernel does, and takes a copy before the write."""
    x = normal(4, 6)

    def run(write: Callable[[Tensor, Tensor], Any]) -> np.ndarray[Any, Any]:
        v = leaf(x)
        h = v * 2.0
        y = F.layer_norm(h, 6)
        name = made_by(y)
        write(h, v)
        (y * gc.tensor(x)).sum().backward()
        assert v.grad is not None
        assert name == ("layer_norm" if native else "multiply")
        return v.grad.numpy()

    def step(h: Tensor, _: Tensor) -> None:
        with gc.no_grad():
            gc.compile(lambda t: t.mul_(3.0))(h)

    def part(h: Tensor, _: Tensor) -> None:
        with gc.no_grad():
            h[1:3].zero_()

    writes = [lambda h, v: h.add_(1.0), step, part, lambda h, v: h.mul_(v).fill_(2.0)]
    warm(lambda v: F.layer_norm(v, 6), x)
    for write in writes:
        native = True
        found = run(write)
        native = False
        gc.set_eager_kernels(False)
        np.testing.assert_allclose(found, run(write), rtol=1e-4, atol=1e-5)
        gc.set_eager_kernels(True)


def test_readers_that_are_gone_are_forgotten() -> None:
    w = leaf(normal(3, 5))
    for _ in range(500):
        F.linear(gc.tensor(normal(8, 5)), w)
    assert w._version is not None
    assert len(w._version.readers) <= 64


def test_hooks_and_anomaly_mode() -> None:
    x = normal(5, 7)
    warm(F.softmax, x)
    v = leaf(x)
    y = F.softmax(v)
    seen: list[Tensor] = []
    y.register_hook(seen.append)
    v.register_hook(lambda g: g * 2)
    (y * y).sum().backward()
    assert made_by(y) == "softmax"
    np.testing.assert_allclose(seen[0].numpy(), 2 * y.detach().numpy(), rtol=1e-6)
    gc.set_anomaly(True)
    z = leaf(x)
    w = F.softmax(z)
    assert made_by(w) == "divide"  # which can say which of its operations made a nan
    with pytest.raises(AnomalyError, match=r"log \(computed at .*test_eager\.py"):
        (gc.log(F.softmax(z) * 0.0) * 0.0).sum().backward()


def test_errors_are_those_of_the_operations() -> None:
    table, good, bad = normal(6, 4), np.array([1, 5]), np.array([1, 6])
    for _ in range(eager.FIRST):
        y = F.embedding(gc.tensor(good), leaf(table))
    assert made_by(y) == "embedding"
    with pytest.raises(IndexingError, match="Got 6"):
        F.embedding(gc.tensor(bad), leaf(table))
    with pytest.raises(ShapeError, match="linear"):
        F.linear(gc.tensor(normal(2, 3)), gc.tensor(normal(4, 5)))


def test_other_arguments_are_told_apart() -> None:
    x = leaf(normal(4, 6))
    for _ in range(eager.FIRST):
        F.layer_norm(x, [6], eps=0.0)
        F.gelu(x)
    assert made_by(F.layer_norm(x, [6], eps=0.0)) == "layer_norm"
    assert made_by(F.layer_norm(x, (6,), eps=0.0)) == "multiply"
    assert made_by(F.layer_norm(x, [6], eps=-0.0)) == "multiply"
    assert made_by(F.gelu(x, "none")) == "multiply"
    assert made_by(F.layer_norm(x, [6], weight=gc.tensor(normal(6)), eps=0.0)) == "multiply"
    taken = [made_by(gc.take(x, np.array([1, 0], kind), axis=0)) for kind in ("uint8", "int64") for _ in range(3)]
    assert taken == ["take"] * 6


def test_a_kernel_that_cannot_be_made_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def build(self, *_: Any) -> Any:
            raise CompileError("no code")

    monkeypatch.setattr(eager, "backend_for", lambda _: Broken())
    for _ in range(eager.FIRST - 1):
        F.softmax(leaf(normal(3, 3)))
    with pytest.warns(RuntimeWarning, match="softmax runs in NumPy: no kernel could be made of it: no code"):
        y = F.softmax(leaf(normal(3, 3)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        z = F.softmax(leaf(normal(3, 3)))
    assert made_by(y) == made_by(z) == "divide"


@pytest.mark.parametrize(
    ("kind", "options"),
    [(SGD, {"momentum": 0.9}), (SGD, {"dampening": 0.1, "momentum": 0.5}), (Adam, {}), (AdamW, {"amsgrad": True})],
)
def test_optimizer_steps(kind: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    start = [normal(3, 4), normal(5)]

    def trained(count: int) -> list[np.ndarray[Any, Any]]:
        params = [leaf(a) for a in start]
        chosen = kind(params, **options)
        for step in range(count):
            chosen.zero_grad()
            used = params[: 1 + (step % 5 > 0)]  # now and then one has no gradient
            sum(((p - 1) ** 2).sum() for p in used).backward()
            chosen.param_groups[0]["lr"] = 0.1 / (1 + step)
            if step == 9:
                chosen.load_state_dict(chosen.state_dict())
            chosen.step()
        return [p.detach().numpy() for p in params]

    native = []
    original = eager.Specialisation.__call__
    monkeypatch.setattr(
        eager.Specialisation, "__call__", lambda self, leaves: (native.append(1), original(self, leaves))[1]
    )
    found = trained(15)
    assert len(native) >= 9
    gc.set_eager_kernels(False)
    for a, b in zip(found, trained(15), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6)


def test_a_subclass_with_its_own_update_is_left_alone() -> None:
    class Mine(SGD):
        calls = 0

        def update(self, group: Any, p: Tensor, grad: Tensor, state: dict[str, Tensor]) -> None:
            self.calls += 1
            super().update(group, p, grad, state)

    p = leaf(normal(4))
    mine = Mine([p])
    for _ in range(5):
        (p * p).sum().backward()
        mine.step()
    assert mine.calls == 5


def test_parameters_that_share_memory_are_stepped_one_by_one() -> None:
    ends = []
    for on in (True, False):
        gc.set_eager_kernels(on)
        memory = np.ones(6, np.float32)
        params = [Tensor(memory[:4], requires_grad=True), Tensor(memory[2:], requires_grad=True)]
        chosen = SGD(params, lr=0.1)
        for _ in range(5):
            chosen.zero_grad()
            sum((p * p).sum() for p in params).backward()
            chosen.step()
        ends.append(memory)
    np.testing.assert_array_equal(ends[0], ends[1])


def test_optimizers_and_activations_die_with_their_last_reference() -> None:
    import weakref

    p = leaf(normal(4, 4))
    chosen = Adam([p])
    for _ in range(5):
        (F.softmax(p) ** 2).sum().backward()
        chosen.step()
    y = F.softmax(p)
    gone = [weakref.ref(chosen), weakref.ref(y._record)]
    del chosen, y
    assert [r() for r in gone] == [None, None]


def test_threads_share_kernels() -> None:
    x = normal(64, 33)
    warm(F.softmax, x)
    results: list[Any] = [None] * 5

    def run(k: int) -> None:
        results[k] = differentiated(F.softmax, [x])[1]

    threads = [threading.Thread(target=run, args=(k,)) for k in range(5)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for found in results[1:]:
        for a, b in zip(found, results[0], strict=True):
            np.testing.assert_array_equal(a, b)


def test_tasks_run_once_wherever_they_are_asked_for() -> None:
    made: list[int] = []
    tasks = [background.Task(lambda k=k: made.append(k) or k) for k in range(20)]  # type: ignore[misc,func-returns-value]
    for task in tasks:
        task.begin()
    assert [task.result() for task in reversed(tasks)] == list(range(20))[::-1]
    assert sorted(made) == list(range(20))

    def fail() -> int:
        raise CompileError("no")

    failing = background.Task(fail)
    for _ in range(2):
        with pytest.raises(CompileError, match="no"):
            failing.result()


PROGRAM = """
import os, sys
import numpy as np
import graphc as gc
from graphc.nn import functional as F
x = gc.tensor(np.random.default_rng(0).standard_normal((700, 400)).astype(np.float32), requires_grad=True)
F.gelu(x)
assert "llvmlite" not in sys.modules
seen = []
for _ in range(2):
    y = F.gelu(x)
    seen.append(y._record.op.name)
child = os.fork() if len(sys.argv) > 1 else None
z = F.gelu(x)
F.softmax(x), F.softmax(x)  # still being compiled at the end
made = z._record.op.name
z.sum().backward()
if child:
    assert os.waitpid(child, 0)[1] == 0
print(seen, made, float(x.grad.numpy().astype(np.float64).sum()).hex())
"""


def _output(cache: str, *arguments: str) -> str:
    environment = {**os.environ, "GRAPHC_CACHE_DIR": cache, "PYTHONWARNINGS": "ignore"}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    ).stdout


def test_the_same_program_gives_the_same_bits_with_and_without_cache(tmp_path: Any) -> None:
    cold = _output(str(tmp_path))
    assert cold.startswith("['multiply', 'gelu'] gelu")
    assert _output(str(tmp_path)) == _output("off") == cold


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_compiles_for_itself(tmp_path: Any) -> None:
    first, second = _output(str(tmp_path), "fork").splitlines()
    assert first == second
