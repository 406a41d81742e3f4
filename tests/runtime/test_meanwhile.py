"""Other sizes of arrays: called at once, the same numbers and the same state, and a program as soon as there is one."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn
from graphc.errors import CompileError, IndexingError, VerifyError
from graphc.nn import functional as F
from graphc.runtime import meanwhile
from graphc.runtime.backend import CpuBackend
from graphc.runtime.background import Task, busy
from graphc.runtime.compile import CompiledFunction, Specialisation
from graphc.runtime.executable import Executable
from graphc.runtime.meanwhile import Meanwhile
from graphc.trace import trace
from graphc.tree import flatten

ROOT = Path(__file__).resolve().parents[2]


def until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(autouse=True, scope="module")
def _native_calls() -> None:
    """What they need is compiled behind the first program of a process: not during these tests."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("GRAPHC_CACHE_DIR", "off")
        gc.compile(lambda x: x + 1)(numbers(2))
    until(lambda: not busy())


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is compiled yet or being compiled, and no work is too large for NumPy."""
    until(lambda: not busy())
    monkeypatch.setenv("GRAPHC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(meanwhile, "_COMPILING", 1e9)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No program is compiled in the background: only who asks for it gets one."""
    with monkeypatch.context() as patched:
        patched.setattr(Task, "begin", lambda task, urgent=False: None)
        yield


def numbers(*shape: int) -> Any:
    return gc.tensor(np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32))


def forms(compiled: Any) -> list[Specialisation]:
    assert isinstance(compiled, CompiledFunction)
    return compiled.specialisations


def waiting(compiled: Any) -> Meanwhile:
    """What computes the newest form node by node."""
    found = forms(compiled)[-1].waiting
    assert found is not None
    return found


# ------------------------------------------------------------------------------------------- policy


@pytest.mark.usefixtures("held")
def test_another_size_is_computed_node_by_node_until_there_is_a_program() -> None:
    f = gc.compile(lambda x: gc.tanh(x) * 2)
    small, large = numbers(4, 3), numbers(7, 3)
    f(large)
    assert isinstance(forms(f)[0].run, Executable)
    for calls in (1, 2, 3):
        np.testing.assert_allclose(f(small).numpy(), np.tanh(small.numpy()) * 2, rtol=1e-6)
        assert waiting(f).calls == calls
    program = waiting(f).program()
    for _ in range(4):
        np.testing.assert_allclose(f(small).numpy(), np.tanh(small.numpy()) * 2, rtol=1e-6)
    assert forms(f)[-1].waiting is None
    assert forms(f)[-1].run is program
    assert forms(f)[-1].calls <= 2  # then native code calls it
    assert len(forms(f)) == 2


@pytest.mark.usefixtures("held")
def test_only_sizes_of_arrays_are_another_size() -> None:
    f = gc.compile(lambda x, n=1: x * n)
    f(numbers(4, 3))
    f(numbers(5, 3), 2)  # another number
    f(numbers(5))  # of dimensions
    f(gc.tensor(np.zeros((5, 3))))  # dtype
    f(gc.tensor(np.zeros((5, 3), np.float32), requires_grad=True))
    f(numbers(5, 3).numpy())  # kind
    with gc.no_grad():
        f(numbers(5, 3))
    assert all(form.waiting is None for form in forms(f))
    f(numbers(6, 3))
    f(numbers(6, 3).numpy())
    f(numbers(6, 3), 2)
    assert [form.waiting is not None for form in forms(f)[-3:]].count(True) >= 2
    assert sum(form.waiting is not None for form in forms(f)) == 3


@pytest.mark.usefixtures("held")
def test_the_same_sizes_again_with_another_state_wait() -> None:
    layer = nn.Dropout(0.5)
    f = gc.compile(lambda x: layer(x))
    f(numbers(4, 3))
    layer.eval()
    f(numbers(4, 3))
    assert [form.waiting for form in forms(f)] == [None, None]
    f(numbers(5, 3))  # an evaluation's batch
    assert waiting(f).calls == 1


def test_who_wants_equal_bits_waits() -> None:
    f = gc.compile(lambda x: gc.tanh(x), background=False)
    g = gc.compile(background=False)(lambda x: gc.tanh(x))
    for n in (3, 4, 5):
        f(numbers(n)), g(numbers(n))
    assert all(isinstance(form.run, Executable) for form in (*forms(f), *forms(g)))


def test_a_search_isnt_made_in_the_background() -> None:
    f = gc.compile(lambda x: gc.tanh(x), search=0.01)
    f(numbers(3)), f(numbers(4))
    assert all(isinstance(form.run, Executable) for form in forms(f))


def test_what_numpy_takes_long_for_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meanwhile, "_COMPILING", 2e-3)
    f = gc.compile(lambda x: gc.tanh(x) * 2)
    f(numbers(3)), f(numbers(4))
    assert isinstance(forms(f)[-1].run, Meanwhile)
    f(gc.tensor(np.zeros(20_000_000, np.float32)))
    assert isinstance(forms(f)[-1].run, Executable)


def test_seconds_of_a_product_count_its_multiplications() -> None:
    def seconds(m: int) -> float:
        leaves, structure = flatten(((numbers(m, 300), numbers(300, 200)), {}))
        return meanwhile.seconds_of(trace(lambda a, b: a @ b, leaves, structure).graph)

    assert seconds(2000) - seconds(1000) == pytest.approx(
        1000 * (3 * meanwhile._PRODUCT * 300 * 200 + meanwhile._ELEMENT * (300 + 200))
    )


def test_what_is_in_the_cache_is_taken_from_there() -> None:
    def twice(x: Any) -> Any:
        return gc.tanh(x) * 2

    gc.compile(twice)(numbers(4))
    f = gc.compile(twice)
    f(numbers(5)), f(numbers(4))
    assert [isinstance(form.run, Executable) for form in forms(f)] == [True, True]


# ------------------------------------------------------------------------------------ numbers and state


class Net(nn.Module):
    """Running statistics and random numbers are state. No bias before batch_norm: its derivative is rounding alone."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.3)
        )
        self.head = nn.Linear(36, 5)

    def forward(self, x: Any) -> Any:
        return self.head(self.body(x))


def trained(make: Callable[[Any], Any], between: Callable[[Any, int], None] = lambda step, i: None) -> dict[str, Any]:
    """All state after training over batches of 8, 5 and 3, with the losses. between: told after each step."""
    gc.manual_seed(3)
    net = Net()
    optimizer = gc.optim.AdamW(net.parameters(), lr=0.01)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return loss

    run = make(step)
    rng = np.random.default_rng(5)
    losses = []
    for i, size in enumerate([8, 8, 5, 8, 3, 5, 8, 5, 3, 3, 8, 5]):
        x, y = rng.standard_normal((size, 2, 8, 8)).astype(np.float32), rng.integers(0, 5, size)
        losses.append(float(run(gc.tensor(x), gc.tensor(y))))
        between(run, i)
    found = {name: value.numpy().copy() for name, value in net.state_dict().items()}
    for i, p in enumerate(net.parameters()):
        assert p.grad is not None
        found[f"gradient {i}"] = p.grad.numpy().copy()
        found |= {f"{key} {i}": np.array(value.numpy()) for key, value in optimizer.state[p].items()}
    found["generator"] = gc.random.default_generator.get_state().numpy().copy()
    found["losses"] = np.array(losses)
    return found


def assert_same_state(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, want in expected.items():
        if want.dtype.kind == "i":
            np.testing.assert_array_equal(found[name], want, err_msg=name)
        else:
            np.testing.assert_allclose(found[name], want, rtol=2e-4, atol=2e-6, err_msg=name)


@pytest.mark.usefixtures("held")
def test_training_over_changing_sizes_leaves_the_state_of_compiled_and_of_eager_training() -> None:
    expected = trained(lambda step: gc.compile(step, background=False))
    assert_same_state(trained(lambda step: step), expected)
    seen: list[int] = []

    def count(step: Any, i: int) -> None:
        seen[:] = [form.waiting.calls for form in forms(step) if form.waiting is not None]

    assert_same_state(trained(gc.compile, count), expected)
    assert seen == [4, 3]

    def take_over(step: Any, i: int) -> None:
        if i in (5, 8):
            for form in forms(step):
                if form.waiting is not None and form.waiting.calls == (2 if i == 5 else 1):
                    form.waiting.program()

    assert_same_state(trained(gc.compile, take_over), expected)


@pytest.mark.usefixtures("held")
def test_formulas_are_made_stable() -> None:
    """What would be infinite or lost as it is written: in the value and in the derivative."""

    def f(x: Any) -> Any:
        def value(x: Any) -> Any:
            return gc.log(gc.exp(x).sum()) + gc.log(1 + gc.exp(x)).sum() + gc.log(1 + x * 1e-12).sum()

        return gc.value_and_grad(value)(x)

    runs = gc.compile(f), gc.compile(f, background=False)
    for n in (4, 3):
        x = np.linspace(100.0, 120.0, n).astype(np.float32)
        (value, slope), (expected, expected_slope) = (run(gc.tensor(x)) for run in runs)
        assert np.isfinite(float(value))
        np.testing.assert_allclose(float(value), float(expected), rtol=1e-6)
        np.testing.assert_allclose(slope.numpy(), expected_slope.numpy(), rtol=1e-5)
    assert waiting(runs[0]).calls == 1


@pytest.mark.usefixtures("held")
def test_a_result_is_differentiated_further_without_waiting() -> None:
    w = gc.tensor(np.ones(3, np.float32), requires_grad=True)
    f = gc.compile(lambda x: gc.tanh(x * w))
    for n in (4, 6, 6):
        w.grad = None
        x = numbers(n, 3)
        y = f(x)
        (y * y).sum().backward()
        t = np.tanh(x.numpy())
        assert w.grad is not None
        np.testing.assert_allclose(w.grad.numpy(), (2 * t * (1 - t * t) * x.numpy()).sum(0), rtol=1e-4, atol=1e-5)
    (gradient,) = forms(f)[-1].gradients._gradients.values()  # type: ignore[union-attr]
    assert isinstance(gradient._run, Meanwhile)
    assert gradient._run.calls == 2


@pytest.mark.usefixtures("held")
def test_arguments_written_in_place_and_results_that_are_views() -> None:
    def f(x: Any, total: Any) -> Any:
        total += x.sum(0)
        x[0] = 1.0
        return x.reshape(-1), x, total.permute(1, 0)

    run = gc.compile(f)
    for n in (3, 4, 4):
        x, total = numbers(n, 2, 3), numbers(2, 3)
        same_x, same_total = gc.tensor(x.numpy().copy()), gc.tensor(total.numpy().copy())
        flat, itself, turned = run(x, total)
        expected = f(same_x, same_total)
        assert itself is x
        for got, want in zip((flat, itself, turned, x, total), (*expected, same_x, same_total), strict=True):
            np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-6)
    assert waiting(run).calls == 2


# ------------------------------------------------------------------------------------------- errors


def test_a_program_that_cant_be_compiled_says_so_at_the_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    f = gc.compile(lambda x: gc.tanh(x) * 3)
    f(numbers(4))

    def refused(*_: Any) -> Any:
        raise CompileError("LLVM refuses the module: no such thing")

    monkeypatch.setattr("graphc.runtime.worker.worker.compile", lambda order: False)
    monkeypatch.setattr("graphc.runtime.backend.build", refused)
    assert f(numbers(5)).shape == (5,)
    until(lambda: waiting(f).done)
    for _ in range(2):
        with pytest.raises(CompileError, match="no such thing"):
            f(numbers(5))
    assert f(numbers(4)).shape == (4,)


@pytest.mark.usefixtures("held")
def test_an_error_is_the_programs_and_nothing_is_written() -> None:
    seen = gc.tensor(np.zeros(1, np.float32))

    def f(table: Any, at: Any) -> Any:
        seen.add_(1)
        return gc.take(table, at, axis=0)

    runs = gc.compile(f), gc.compile(f, background=False)
    table = numbers(4, 3)
    messages = []
    for run in runs:
        run(table, gc.tensor([0, 1]))
        with pytest.raises(IndexingError) as told:
            run(table, gc.tensor([0, 1, 4]))
        messages.append(str(told.value))
    assert messages[0] == messages[1]
    seen.fill_(0)
    np.testing.assert_array_equal(runs[0](table, gc.tensor([0, 1, 3])).numpy(), table.numpy()[[0, 1, 3]])
    assert float(seen[0]) == 1


@pytest.mark.usefixtures("held")
def test_what_fails_node_by_node_runs_as_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    f = gc.compile(lambda x: gc.tanh(x) * 4)
    f(numbers(4))

    def broken(*_: Any) -> Any:
        raise VerifyError("can't be computed")

    monkeypatch.setattr("graphc.runtime.nodewise._run", broken)
    np.testing.assert_allclose(f(numbers(5)).numpy(), np.tanh(numbers(5).numpy()) * 4, rtol=1e-6)
    f(numbers(5))
    assert isinstance(forms(f)[-1].run, Executable)


# ----------------------------------------------------------------------------------- telling the user


@pytest.mark.usefixtures("held")
def test_the_report_tells_how_calls_are_computed() -> None:
    f = gc.compile(lambda x: gc.tanh(x) * 5)
    f(numbers(4)), f(numbers(5)), f(numbers(5))
    told = "other arguments: f32[5] (in the background: not ready yet; calls computed node by node: 2)"
    assert f.history[1] == told
    assert told in str(f.explain())
    assert "passes that numbers need" in f.explain().seconds
    waiting(f).program()
    f(numbers(5))
    assert f.history[1].startswith("other arguments: f32[5] (in the background: 0.")
    assert f.history[1].endswith(" s; calls computed node by node: 2)")
    assert f.history[0].startswith("first call (")


# ------------------------------------------------------------------ the background, threads and processes


def test_the_program_takes_over_when_it_is_compiled() -> None:
    f = gc.compile(lambda x: gc.tanh(x) * 6 + x)
    f(numbers(4, 3))
    x = numbers(5, 3)
    expected = np.tanh(x.numpy()) * 6 + x.numpy()
    np.testing.assert_allclose(f(x).numpy(), expected, rtol=1e-6)
    until(lambda: waiting(f).done)
    np.testing.assert_allclose(f(x).numpy(), expected, rtol=1e-6)
    run = forms(f)[-1].run
    assert isinstance(run, Executable)
    assert run.from_cache  # another process compiled it


def test_without_a_cache_a_thread_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_CACHE_DIR", "off")
    f = gc.compile(lambda x: gc.tanh(x) * 7)
    f(numbers(4)), f(numbers(5))
    until(lambda: waiting(f).done)
    f(numbers(5))
    run = forms(f)[-1].run
    assert isinstance(run, Executable)
    assert not run.from_cache


def test_only_what_recurs_is_compiled_when_there_is_much_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    f = gc.compile(lambda x: gc.tanh(x) * 8)
    f(numbers(3))
    begun, gate, order = threading.Event(), threading.Event(), []

    def build(self: Any, seconds: Any) -> Any:
        begun.set()
        gate.wait(60)
        order.append(self.graph.inputs[0].shape[0])
        return lambda *arrays: [np.zeros(arrays[0].shape, np.float32)]

    monkeypatch.setattr("graphc.runtime.worker.worker.compile", lambda order: False)
    monkeypatch.setattr("graphc.runtime.backend._CpuOrder.build", build)
    f(numbers(4))
    assert begun.wait(60)
    for n in (5, 6, 7, 6, 7):
        f(numbers(n))
    gate.set()
    until(lambda: not busy())
    assert order == [4, 7, 6]  # the last one that came back first
    f(numbers(5))
    until(lambda: order == [4, 7, 6, 5])


def test_threads_call_while_the_program_takes_over() -> None:
    f = gc.compile(lambda x: gc.tanh(x) * 9)
    f(numbers(3))
    wrong: list[Any] = []

    def work(n: int) -> None:
        x = numbers(n)
        expected = np.tanh(x.numpy()) * 9
        end = time.monotonic() + 60
        while time.monotonic() < end:
            settled = all(form.waiting is None for form in forms(f)) and len(forms(f)) == 3
            if not np.allclose(f(x).numpy(), expected, rtol=1e-5):
                wrong.append(n)
            if settled:
                return
        wrong.append("not ready")

    workers = [threading.Thread(target=work, args=(n,)) for n in (4, 5, 4, 5)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def _output(program: str) -> str:
    environment = {**os.environ, "PYTHONWARNINGS": "error,ignore:This process:DeprecationWarning"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stderr == ""
    return done.stdout


BEGUN = """
import os, sys, time
import numpy as np
import graphc as gc
f = gc.compile(lambda x: gc.tanh(x) * 2 + x)
x = gc.tensor(np.ones((50, 40), np.float32))
f(x)
y = f(x[:30])
form = f.specialisations[-1]
assert form.waiting is not None
"""


def test_a_program_ends_while_one_is_compiled() -> None:
    start = time.perf_counter()
    assert _output(BEGUN + "print(float(y.sum()))").startswith("3027")
    assert time.perf_counter() - start < 30


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_compiles_for_itself() -> None:
    both = """
child = os.fork()
while form.waiting is not None:
    assert abs(float(f(x[:30]).sum()) - float(y.sum())) < 1e-2
    time.sleep(0.01)
if child:
    assert os.waitpid(child, 0)[1] == 0
    print(len(f.specialisations))
"""
    assert _output(BEGUN + both) == "2\n"


def test_a_backend_without_orders_builds_at_once() -> None:
    leaves, structure = flatten(((numbers(4),), {}))
    graph = trace(lambda x: gc.tanh(x), leaves, structure).graph
    run, none = meanwhile.begun(CpuBackend(0.01), graph, {}, {})
    assert none is None
    np.testing.assert_allclose(run(numbers(4).numpy())[0], np.tanh(numbers(4).numpy()), rtol=1e-6)
