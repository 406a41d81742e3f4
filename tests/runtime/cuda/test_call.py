"""gc.compile(device="cuda"), on the emulated device: the numbers of eager mode, up to a whole training step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, optim
from graphc.errors import AliasError, ArgumentError, DeviceError, DTypeError, IndexingError, ShapeError
from graphc.ir.graph import Graph
from graphc.ir.node import fresh_input
from graphc.nn import functional as F
from graphc.ops import elementwise, reduction
from graphc.passes import pipeline
from graphc.runtime.cuda import build
from graphc.runtime.cuda.call import CudaCall, default_device
from graphc.runtime.cuda.device import CupyDevice
from graphc.runtime.cuda.launch import print_program
from graphc.runtime.cuda.toolchain import compile_cuda
from graphc.types import TensorType, float32, float64, int64
from tests.cuda.devices import DEVICES, device_named, needs_nvrtc
from tests.cuda.emulator import EmulatedArray, EmulatedDevice
from tests.cuda.harness import assert_lean

Step = Callable[[gc.Tensor, gc.Tensor], gc.Tensor]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """device="cuda" means the emulator."""
    found = device_named(request.param)
    monkeypatch.setattr(build, "default_device", lambda: found)
    return found


def test_a_function(device: EmulatedDevice) -> None:
    @gc.compile(device="cuda")
    def f(x: gc.Tensor, w: gc.Tensor, k: float) -> Any:
        y = gc.tanh(x @ w) * k
        return y, gc.sum(y, axis=0), gc.argmax(y, axis=1)

    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((5, 7)).astype(np.float32), rng.standard_normal((7, 3)).astype(np.float32)
    for k in (2.0, -3.0):
        y, sums, best = f(gc.tensor(x), gc.tensor(w), k)
        wanted = np.tanh(x @ w) * np.float32(k)
        np.testing.assert_allclose(y.numpy(), wanted, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(sums.numpy(), wanted.sum(0), rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(best.numpy(), wanted.argmax(1))
    assert len(f.specialisations) == 1


def test_index_out_of_bounds(device: EmulatedDevice) -> None:
    pick = gc.compile(lambda table, rows: gc.take(table, rows, axis=0), device="cuda")
    table = gc.tensor(np.arange(12, dtype=np.float32).reshape(4, 3))
    np.testing.assert_array_equal(pick(table, gc.tensor([1, -1])).numpy(), table.numpy()[[1, 3]])
    with pytest.raises(IndexingError, match="out of bounds"):
        pick(table, gc.tensor([1, 4]))


def test_random_numbers_are_those_of_eager_mode(device: EmulatedDevice) -> None:
    def draw() -> gc.Tensor:
        return F.dropout(gc.ones((50,)), 0.5) + gc.random.uniform((50,))

    gc.manual_seed(3)
    eager = [draw().numpy() for _ in range(2)]
    gc.manual_seed(3)
    compiled = gc.compile(draw, device="cuda")
    np.testing.assert_array_equal([compiled().numpy() for _ in range(2)], eager)


def lenet() -> tuple[nn.Module, Step]:
    gc.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10),
    )  # fmt: skip
    optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def step(x: gc.Tensor, y: gc.Tensor) -> gc.Tensor:
        optimizer.zero_grad()
        loss = F.nll_loss(F.log_softmax(model(x), dim=1), y)
        loss.backward()
        optimizer.step()
        return loss

    return model, step


def images(batch: int) -> tuple[gc.Tensor, gc.Tensor]:
    rng = np.random.default_rng(7)
    return gc.tensor(rng.standard_normal((batch, 1, 28, 28)).astype(np.float32)), gc.tensor(rng.integers(0, 10, batch))


def check_lenet(steps: int, batch: int) -> None:
    """Losses and parameters after training steps, compiled against eager."""
    x, y = images(batch)
    model, eager = lenet()
    other, plain = lenet()
    compiled = gc.compile(plain, device="cuda")
    for _ in range(steps):
        wanted, got = eager(x, y).item(), compiled(x, y).item()
        assert got == pytest.approx(wanted, rel=1e-5)
    for (name, a), (_, b) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        want, have = a.detach().numpy(), b.detach().numpy()
        scale = np.abs(want).max()
        np.testing.assert_allclose(have, want, rtol=0, atol=1e-6 * scale, err_msg=name)
    assert len(compiled.specialisations) == 1


def test_lenet_training_step(device: EmulatedDevice) -> None:
    check_lenet(steps=2, batch=4)


@pytest.mark.gpu
def test_lenet_training_on_a_gpu() -> None:
    device_named("gpu")
    check_lenet(steps=20, batch=64)


def traced(function: Callable[..., Any], *arguments: Any) -> tuple[Graph, dict[int, int]]:
    """The fused graph of one call, and its state."""
    compiled = gc.compile(function, device="cpu")
    compiled(*arguments)
    trace = compiled.specialisations[0].trace
    return pipeline.run(trace.graph)[-1].graph, {output: number for number, output in trace.writes}


@needs_nvrtc
@pytest.mark.parametrize("batch", [4, 64])
def test_lenet_compiled_for_hopper(batch: int) -> None:
    _, step = lenet()
    graph, state = traced(step, *images(batch))
    compiled = compile_cuda(print_program(build.program(graph, state)).text)
    assert len(compiled.resources) >= 10
    assert_lean(compiled)


def transformer() -> tuple[list[gc.Tensor], Step]:
    """A block with tied embeddings: gather and its scatter, layer norm, attention, GELU, AdamW."""
    gc.manual_seed(0)
    table, norm = nn.Embedding(30, 16), nn.LayerNorm(16)
    up, down = nn.Linear(16, 64), nn.Linear(64, 16)
    parameters = [*table.parameters(), *norm.parameters(), *up.parameters(), *down.parameters()]
    optimizer = optim.AdamW(parameters, lr=0.01)

    def step(tokens: gc.Tensor, targets: gc.Tensor) -> gc.Tensor:
        optimizer.zero_grad()
        x = table(tokens)
        scores = norm(x) @ gc.matrix_transpose(norm(x)) * 0.25
        h = F.softmax(scores, dim=-1) @ x
        h = h + down(F.gelu(up(norm(h))))
        loss = F.cross_entropy(gc.reshape(h @ gc.matrix_transpose(table.weight), (-1, 30)), gc.reshape(targets, (-1,)))
        loss.backward()
        optimizer.step()
        return loss

    return parameters, step


def sentences() -> tuple[gc.Tensor, gc.Tensor]:
    tokens = np.random.default_rng(0).integers(0, 30, (4, 25))
    return gc.tensor(tokens[:, :-1].copy()), gc.tensor(tokens[:, 1:].copy())


def test_transformer_training_step(device: EmulatedDevice) -> None:
    tokens, targets = sentences()
    parameters, eager = transformer()
    others, plain = transformer()
    compiled = gc.compile(plain, device="cuda")
    for _ in range(3):
        wanted, got = eager(tokens, targets).item(), compiled(tokens, targets).item()
        assert got == pytest.approx(wanted, rel=1e-5)
    # AdamW divides by the gradient's own size: where that is near 0, its rounding moves a parameter by up to lr
    for a, b in zip(parameters, others, strict=True):
        np.testing.assert_allclose(b.detach().numpy(), a.detach().numpy(), rtol=0, atol=2e-4)


@needs_nvrtc
def test_transformer_compiled_for_hopper() -> None:
    _, step = transformer()
    graph, state = traced(step, *sentences())
    assert_lean(compile_cuda(print_program(build.program(graph, state)).text))


# ---------------------------------------------------------------- arrays in, arrays out


def counter() -> tuple[Graph, dict[int, int]]:
    """x (4, 3), total (): y = 2 x; total += sum of x, in place."""
    x, total = fresh_input("x", TensorType((4, 3), float32)), fresh_input("total", TensorType((), float32))
    graph = Graph([x, total], [elementwise.multiply(x, 2.0), elementwise.add(total, reduction.sum(x))])
    return pipeline.run(graph)[-1].graph, {1: 1}


def made(device: Any) -> CudaCall:
    graph, state = counter()
    return CudaCall(graph, build.program(graph, state), state, device)


def test_host_arrays(device: EmulatedDevice) -> None:
    call = made(device)
    x, total = np.ones((3, 4), np.float32).T, np.zeros((), np.float32)
    for turn in (1, 2):
        y, returned = call(x, total)
        np.testing.assert_array_equal(y, np.full((4, 3), 2.0))
        assert returned is total
        assert total == 12 * turn
    assert "__global__" in call.source


def test_arrays_of_the_device_stay_there(device: EmulatedDevice) -> None:
    call = made(device)
    resident, view = device.empty(TensorType((4, 3), float32))
    device.upload(view, np.ones((4, 3), np.float32))
    total = np.zeros((), np.float32)
    y, returned = call(resident, total)
    assert isinstance(y, EmulatedArray)
    got = np.empty((4, 3), np.float32)
    device.download(y.view, got)
    np.testing.assert_array_equal(got, np.full((4, 3), 2.0))
    assert returned is total  # state of the host is brought home
    assert total == 12


def test_arguments_that_do_not_fit(device: EmulatedDevice) -> None:
    call = made(device)
    x, total = np.ones((4, 3), np.float32), np.zeros((), np.float32)
    with pytest.raises(ArgumentError, match="takes 2 arrays, not 1"):
        call(x)
    with pytest.raises(ShapeError, match=r"argument 0 .*: shape \(3, 4\) instead of \(4, 3\)"):
        call(x.T, total)
    with pytest.raises(DTypeError, match=r"argument 0 .*: dtype float64 instead of float32"):
        call(x.astype(float64.numpy), total)
    with pytest.raises(DTypeError, match=r"argument 1 .*: dtype int64 instead of float32"):
        call(x, np.zeros((), int64.numpy))


def two_counters() -> tuple[Graph, dict[int, int]]:
    """a and b (3,), both incremented in place by x (3,)."""
    a, b, x = (fresh_input(name, TensorType((3,), float32)) for name in "abx")
    return pipeline.run(Graph([a, b, x], [elementwise.add(a, x), elementwise.add(b, x)]))[-1].graph, {0: 0, 1: 1}


def test_shared_memory(device: EmulatedDevice) -> None:
    graph, state = two_counters()
    call = CudaCall(graph, build.program(graph, state), state, device)
    memory = np.zeros(5, np.float32)
    for second in (memory[:3], memory[2:]):
        with pytest.raises(AliasError, match="arguments 0 and 1 .* share memory"):
            call(memory[:3], second, np.ones(3, np.float32))
    evens_and_odds = np.zeros(6, np.float32)
    call(evens_and_odds[::2], evens_and_odds[1::2], np.ones(3, np.float32))
    np.testing.assert_array_equal(evens_and_odds, np.ones(6))
    a, b = np.ones(3, np.float32), np.zeros(3, np.float32)
    call(a, b, a)  # the old numbers count, as on the CPU
    np.testing.assert_array_equal((a, b), [[2, 2, 2], [1, 1, 1]])
    resident, view = device.empty(TensorType((3,), float32))
    device.upload(view, a)
    with pytest.raises(AliasError, match="arguments 0 and 2 .* share memory"):
        call(resident, b, resident)


def test_without_a_gpu_it_says_so() -> None:
    try:
        CupyDevice()
    except DeviceError:
        pass
    else:
        pytest.skip("there is a GPU")
    default_device.cache_clear()
    with pytest.raises(DeviceError, match=r"needs cupy .*pip install|there is no GPU that CUDA can use"):
        gc.compile(lambda x: x + 1, device="cuda")(gc.tensor([1.0]))
