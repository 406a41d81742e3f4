"""The shortcut gives what the long way gives, is taken where it should be, and notices all that the guards do."""

from __future__ import annotations

import gc as collector
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn
from graphc.errors import AliasError, IndexingError
from graphc.nn import functional as F
from graphc.runtime import shortcut
from graphc.runtime.compile import CompiledFunction
from graphc.runtime.shortcut import MISS

pytestmark = pytest.mark.skipif(not shortcut.usable(), reason="this interpreter's objects are laid out otherwise")


def T(a: Any, **options: Any) -> gc.Tensor:
    return gc.tensor(np.array(a, np.float32), **options)


def warm(compiled: Any, *args: Any) -> Any:
    """Call until there is a shortcut that fits; returns its result."""
    for _ in range(3):
        result = compiled(*args)
    assert taken(compiled, *args) is not MISS
    return result


def taken(compiled: CompiledFunction[..., Any], *args: Any) -> Any:
    """What the shortcut alone gives."""
    return compiled._shortcut(args)


def numbers(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)(map(numbers, value))
    return value.detach().numpy().tolist() if isinstance(value, gc.Tensor) else value


def test_results_nest_and_hold_arguments_constants_and_fresh_tensors() -> None:
    def f(x: Any, y: Any, k: int, s: float) -> Any:
        return [x * k, (y, s * y, "told"), [], None, (), [(x + y, x + y)]]

    compiled = gc.compile(f)
    x, y = T([1, 2]), T([3, 4])
    result = warm(compiled, x, y, 3, 0.5)
    assert numbers(result) == numbers(f(x, y, 3, 0.5))
    assert result[1][0] is y
    again = compiled(x, y, 3, 2.5)  # a float is an input, an int part of the kind
    assert numbers(again) == numbers(f(x, y, 3, 2.5))
    assert again[0]._data is not result[0]._data
    assert taken(compiled, x, y, 4, 0.5) is MISS
    assert taken(compiled, x, y, True, 0.5) is MISS
    assert numbers(compiled(x, y, 4, 0.5)) == numbers(f(x, y, 4, 0.5))


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (0, 2)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "bool"])
def test_each_dtype_and_shape(dtype: str, shape: tuple[int, ...]) -> None:
    compiled = gc.compile(lambda x, a: (gc.where(x == a, x, a), x == a))
    rng = np.random.default_rng(0)
    given = [rng.integers(0, 2, shape).astype(dtype) for _ in range(2)]
    one, two = warm(compiled, gc.asarray(given[0]), given[1])
    np.testing.assert_array_equal(one.numpy(), given[1], strict=True)
    np.testing.assert_array_equal(two.numpy(), given[0] == given[1], strict=True)


def test_what_the_arguments_may_not_be() -> None:
    compiled = gc.compile(lambda x, y: x * 2 + y)
    x, y = T([[1, 2], [3, 4]]), T([[5, 6], [7, 8]])
    warm(compiled, x, y)
    wide = T(np.arange(8).reshape(2, 4))
    traced_away = T([[1, 2], [3, 4]])
    traced_away._grad = T([[0, 0], [0, 0]])
    for bad in (
        (x,), (x, y, y), (x, x), (x.mT, y), (wide[:, ::2], y), (x.astype("float64"), y), (T([1, 2]), y), (x.numpy(), y),
        (x, 1.0), (x, None), (T([[1, 2], [3, 4]], requires_grad=True), y), (traced_away, y), (nn.Parameter(x), y),
    ):  # fmt: skip
        assert taken(compiled, *bad) is MISS, bad
    for good in ((x, x), (x.mT, y), (wide[:, ::2], y), (x, 1.0)):
        np.testing.assert_array_equal(compiled(*good).numpy(), (good[0] * 2 + good[1]).numpy())


def test_each_form_has_a_record_and_old_ones_are_dropped() -> None:
    compiled = gc.compile(lambda x: x.sum() * 2, background=False)
    given = [T(np.ones(n)) for n in range(1, 15)]
    for _ in range(3):
        for n, x in enumerate(given, 1):
            assert float(compiled(x)) == 2 * n
    chain = next(iter(compiled._chains.values()))
    assert len(chain._shortcuts) == 8
    hits = [taken(compiled, x) is not MISS for x in given]
    assert sum(hits) == 8
    dropped = weakref.ref(chain._shortcuts[-1])
    fresh = T(np.ones(99))
    warm(compiled, fresh)
    collector.collect()
    assert dropped() is None
    assert len(compiled.specialisations) == 15


def test_keywords_and_nested_arguments_have_records_of_their_own() -> None:
    compiled = gc.compile(lambda pair, scale=None: pair[0] * pair[1] * scale["by"])
    x, y = T([1, 2]), T([3, 4])
    for k in (1.0, 2.0, 3.0, 4.0):
        assert numbers(compiled((x, y), scale={"by": k})) == [3 * k, 8 * k]
    (chain,) = compiled._chains.values()
    assert chain.call((x, y, 5.0)) is not MISS
    assert compiled.specialisations[0].calls == 2


class Settings:
    k = 2.0


GLOBAL = 3.0


def test_python_state_is_noticed() -> None:
    settings, options, numbers_list, array = Settings(), {"a": 1.0}, [1.0, 2.0], np.array([1.0, 1.0], np.float32)
    cell = 1.0

    def helper(x: Any, by: float = 1.0) -> Any:
        return x * by

    def f(x: Any) -> Any:
        total = x * settings.k * GLOBAL * cell + sum(numbers_list) + sum(options.values())
        return helper(total) * float(array.sum())

    def default() -> None:
        helper.__defaults__ = (7.0,)

    def globals_change() -> None:
        globals()["GLOBAL"] = 4.0

    def rebind() -> None:
        nonlocal cell
        cell = 5.0

    changes: list[Callable[[], Any]] = [
        lambda: setattr(settings, "k", 2.5), lambda: setattr(Settings, "k", 9.0), lambda: delattr(settings, "k"),
        lambda: options.update(b=1.0), lambda: options.update(b=2.0), lambda: options.pop("a"),
        lambda: numbers_list.append(1.0), lambda: numbers_list.__setitem__(0, 4.0),
        lambda: array.__setitem__(0, 3.0), default, globals_change, rebind,
    ]  # fmt: skip
    compiled, x = gc.compile(f), T([1, 2])
    try:
        warm(compiled, x)
        for number, change in enumerate(changes):
            change()
            assert taken(compiled, x) is MISS, number
            np.testing.assert_array_equal(compiled(x).numpy(), f(x).numpy())
            warm(compiled, x)
    finally:
        Settings.k = 2.0
        globals()["GLOBAL"] = 3.0


def test_an_equal_number_is_no_change() -> None:
    settings = Settings()
    compiled, x = gc.compile(lambda x: x * settings.k), T([1])
    settings.k = float("2.5")
    warm(compiled, x)
    settings.k = float("2.50")  # another object
    assert taken(compiled, x) is not MISS
    settings.k = 2  # type: ignore[assignment]
    assert taken(compiled, x) is MISS


def test_modes_are_noticed() -> None:
    compiled, x = gc.compile(lambda x: x * 2), T([1])
    warm(compiled, x)
    with gc.no_grad():
        assert taken(compiled, x) is MISS
        warm(compiled, x)
    warm(compiled, x)
    outer = gc.compile(lambda x: compiled(x) + 1)  # traced through: the interpreter is another
    assert numbers(warm(outer, x)) == [3.0]


def training_step() -> tuple[Any, Any, Callable[..., Any]]:
    gc.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = gc.optim.Adam(model.parameters(), lr=1e-2)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return model, optimizer, step


def test_a_training_step_with_a_schedule_is_eager_s() -> None:
    x, y = T(np.random.default_rng(0).normal(size=(5, 3))), gc.asarray(np.array([0, 1, 1, 0, 1]))
    model, optimizer, step = training_step()
    other_model, other, eager = training_step()
    compiled = gc.compile(step)
    for turn in range(8):
        for o in (optimizer, other):
            o.param_groups[0]["lr"] = 1e-2 / (1 + turn)
            o.param_groups[0]["betas"] = (0.9 - turn / 100, 0.999)
        np.testing.assert_allclose(float(compiled(x, y)), float(eager(x, y)), rtol=1e-6)
    assert compiled.specialisations[-1].calls <= 2
    for p, q in zip(model.parameters(), other_model.parameters(), strict=True):
        np.testing.assert_allclose(p.detach().numpy(), q.detach().numpy(), rtol=2e-5, atol=1e-7)
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=2e-5, atol=1e-7)
    before = model[0].weight.grad
    compiled(x, y)
    assert model[0].weight.grad is not before  # the tensor that the user kept isn't overwritten
    model[0].weight.requires_grad_(False)
    assert taken(compiled, x, y) is MISS


def test_writes_are_stamped_for_the_tape() -> None:
    state = T([1, 2])
    compiled = gc.compile(lambda x: state.add_(x).sum())
    x = T([1, 1])
    warm(compiled, x)
    leaf = T([1, 2], requires_grad=True)
    product = (leaf * state).sum()
    assert taken(compiled, x) is not MISS
    with pytest.raises(gc.errors.InplaceError, match="a compiled function"):
        product.backward()


def test_a_record_that_reads_whole_functions_keeps_what_they_read() -> None:
    """Some records remember their operands only; before a call writes to these, they take copies."""
    state = T([1, 2])
    compiled = gc.compile(lambda x: state.add_(x).sum())
    x = T([1, 1])
    warm(compiled, x)
    told: list[str] = []
    assert state._version is not None

    class Reader:
        arrays = ()

        def copy_operands(self, version: Any) -> None:
            told.append(version.what)
            assert state._data[0] == before

    reader, before = Reader(), float(state._data[0])
    state._version.readers.append(weakref.ref(reader))  # type: ignore[arg-type]
    assert taken(compiled, x) is not MISS
    assert told == ["a compiled function"]
    assert state._data[0] == before + 1


def test_memory_that_is_written_is_nobody_else_s() -> None:
    state = T([1, 2, 3, 4])
    compiled = gc.compile(lambda x: state.add_(x).sum())
    x = T([1, 1, 1, 1])
    warm(compiled, x)
    for bad in (state, state.detach()):
        assert taken(compiled, bad) is MISS
        with pytest.raises(AliasError):
            compiled(bad)
    assert taken(compiled, x) is not MISS
    state.numpy().flags.writeable = False
    assert taken(compiled, x) is MISS
    with pytest.raises(gc.errors.ArgumentError, match="read-only"):
        compiled(x)
    state.numpy().flags.writeable = True
    assert taken(compiled, x) is not MISS


def test_an_index_out_of_bounds_is_said() -> None:
    compiled = gc.compile(lambda x, i: gc.take(x, i, axis=0))
    x, good, bad = T([1, 2, 3]), gc.asarray(np.array([0, 2])), gc.asarray(np.array([0, 3]))
    warm(compiled, x, good)
    for _ in range(3):
        with pytest.raises(IndexingError):
            compiled(x, bad)
        assert numbers(compiled(x, good)) == [1.0, 3.0]


def test_large_results_come_from_memory_that_has_died() -> None:
    compiled, x = gc.compile(lambda x: x + 1), T(np.zeros(300_000))
    warm(compiled, x)
    first = compiled(x)
    address = first.numpy().ctypes.data
    kept = compiled(x)
    assert kept.numpy().ctypes.data != address
    del first
    assert compiled(x).numpy().ctypes.data == address
    assert float(kept.sum()) == 300_000


def test_nothing_is_kept_alive() -> None:
    compiled, x = gc.compile(lambda x, y: [x * y, (x + y,)]), T([1, 2])
    warm(compiled, x, T([3, 4]))
    y = T([3, 4])
    result = compiled(x, y)
    died = [weakref.ref(y), weakref.ref(result[0]), weakref.ref(result[1][0]._data)]
    del y, result
    assert [r() for r in died] == [None] * 3


def test_threads_at_once() -> None:
    """Long calls let each other run: one has the shortcut, the others go the long way, with arenas of their own."""
    compiled = gc.compile(lambda x: ((gc.sin(x) @ gc.cos(x)).sum(axis=0), x * 2))
    given = [T(np.full((96, 96), i / 8)) for i in range(4)]
    want = [[r.numpy().copy() for r in compiled(x)] for x in given]
    warm(compiled, given[0])
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(60):
            for got, expected in zip(compiled(given[i]), want[i], strict=True):
                if not np.array_equal(got.numpy(), expected):
                    wrong.append(i)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))  # raises what they raise
    assert not wrong
    assert taken(compiled, given[0]) is not MISS


def test_one_arena_serves_both_ways() -> None:
    compiled, x = gc.compile(lambda x: (x @ x).sum(axis=0) + (x.mT @ x).sum(axis=1)), T(np.eye(64))
    warm(compiled, x)
    run: Any = compiled.specialisations[0].run
    compiled(x.mT)  # strided: the long way
    assert not run._frames
    assert run._reserved[1][0] == 0
    run.release()
    assert taken(compiled, x) is not MISS


def test_a_call_within_a_guard_goes_the_long_way() -> None:
    """Code that runs while guards are checked may call the same function again."""
    depth: list[int] = []

    compiled = gc.compile(lambda x: x + 1)
    x = T([1])
    warm(compiled, x)

    class Float(float):
        def __eq__(self, other: object) -> bool:
            depth.append(len(depth))
            assert numbers(compiled(x)) == [2.0]
            return float(self) == other

        __hash__ = float.__hash__

    settings = Settings()
    settings.k = Float(2.0)
    outer = gc.compile(lambda x: x * float(settings.k))
    warm(outer, x)
    settings.k = Float(2.0)
    assert numbers(outer(x)) == [2.0]
    assert depth
