"""The suite: every work at a small size, graphc's results against the peers'; the table, JSON and plot; the command."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from . import __main__ as command
from . import chains, latency, memory
from .libraries import installed
from .measure import Times
from .report import duration, lines, markdown, merged, plot, read_json, row, write_json
from .suite import Outcome, all_works, check, chosen, difference
from .work import LINES, Work
from .works import KINDS

QUICK = ("graphc", "graphc eager", "numpy", "torch")  # the other peers compile for seconds


@pytest.mark.parametrize("work", all_works("SMALL"), ids=lambda work: work.name)
def test_agrees(work: Work) -> None:
    libraries = installed(2, QUICK)
    runs, _, _ = check(work, libraries, work.dtype or "float32")
    assert runs


def outcome(ours: float, peer: float, work: Work) -> Outcome:
    """A made-up measurement of three rounds."""
    rounds = {"graphc": [ours * f for f in (1, 1, 1.5)], "numpy": [peer] * 3, "torch": [2 * peer] * 3}
    return Outcome(work, "float32", "graphc", Times(rounds), ours / 4, 0.0, {"jax": "NotImplementedError: no"})


def test_results_that_differ_are_refused() -> None:
    work = chosen(["polynomial-trig"], "SMALL")[0]

    def wrong(library: object, x: np.ndarray, y: np.ndarray) -> object:
        return lambda: x

    with pytest.raises(AssertionError, match=r"polynomial-trig .* numpy differ by"):
        check(dataclasses.replace(work, own={"numpy": wrong}), installed(1, ("graphc", "numpy")), "float32")


def test_difference_sees_shapes_and_nan() -> None:
    one = np.ones(3)
    assert difference({"graphc": [one], "numpy": [one]}, "graphc") == (0.0, "")
    assert difference({"graphc": [one], "numpy": [one[:2]]}, "graphc")[0] == np.inf
    assert not difference({"graphc": [one * np.nan], "numpy": [one]}, "graphc")[0] <= 1.0
    holed = np.where(np.arange(one.size) == 1, np.inf, one)
    assert difference({"graphc": [holed], "numpy": [holed]}, "graphc") == (0.0, "")
    assert difference({"graphc": [one], "numpy": [holed]}, "graphc") == (np.inf, "numpy")
    assert difference({"graphc": [one], "numpy": [holed]}, "graphc", chaotic=1 / one.size) == (0.0, "")


def test_the_table(tmp_path: Path) -> None:
    first, second = all_works()[:2]
    outcomes = [outcome(1e-3, 2e-3, first), outcome(1e-3, 8e-3, second)]
    assert [o.best for o in outcomes] == ["numpy", "numpy"]
    assert "2.00 (1.33-2.00)" in row(outcomes[0])
    assert "limit  25 %" in row(outcomes[0])
    assert "jax has no time: NotImplementedError" in row(outcomes[0])
    (line,) = lines(outcomes)
    assert line["ratio"] == pytest.approx(4.0)
    assert (line["least"], line["of"]) == (pytest.approx(2.0), first.name)
    assert f"| {LINES[first.line].title} | 1.5 | 4.00 | 2.00 ({first.name}) |" in markdown(outcomes)
    write_json(outcomes, 2, tmp_path / "out.json")
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["works"][1]["seconds"]["torch"] == [16e-3] * 3
    (again, other) = merged(read_json(tmp_path / "out.json", 2), [outcome(1e-3, 9e-3, second)])
    assert (again.work, again.times, again.failed) == (first, outcomes[0].times, outcomes[0].failed)
    assert (other.work, other.ratio) == (second, pytest.approx(9.0))
    with pytest.raises(ValueError, match="on 2 threads, not 1"):
        read_json(tmp_path / "out.json", 1)
    plot(outcomes, tmp_path / "out.png")
    assert (tmp_path / "out.png").stat().st_size > 1000


def test_durations() -> None:
    assert [duration(s) for s in (2.0, 0.0123, 4.5e-6, 3e-10)] == ["2 s", "12.3 ms", "4.5 us", "0.3 ns"]


def test_every_file_of_works_is_listed() -> None:
    files = {path.stem for path in (Path(__file__).parent / "works").glob("*.py")} - {"__init__"}
    assert {kind.__name__.rpartition(".")[2] for kind in KINDS} == files, "works/__init__.py lists them all"


def test_every_work_has_a_line_and_names_are_unique() -> None:
    works = all_works()
    assert {work.line for work in works} <= set(LINES)
    assert len({work.name for work in works}) == len(works)


def test_the_command() -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "graphc", "bench", *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    listed = run("--list", "elementwise-small")
    assert listed.returncode == 0
    assert "Black-Scholes" in listed.stdout
    unknown = run("no such work")
    assert unknown.returncode == 2
    assert "--list shows all" in unknown.stderr
    measured = run("Black-Scholes 1e3 float32", "--peers", "numpy", "--rounds", "3", "--threads", "1")
    assert measured.returncode == 0, measured.stderr
    assert "| geometric mean of the lines | 2 |" in measured.stdout


def test_a_work_whose_results_differ_fails_the_command_and_not_the_other_works(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def one_differs(work: Work, *_: object) -> Outcome:
        assert "float32" in work.name, f"{work.name}: graphc and numpy differ"
        return outcome(1e-3, 2e-3, work)

    monkeypatch.setattr(command, "measure", one_differs)
    with pytest.raises(SystemExit, match="1 of 2 works give different results"):
        command.main(["Black-Scholes 1e3", "--peers", "numpy"])
    told = capsys.readouterr().out
    assert "Black-Scholes 1e3 float64: graphc and numpy differ" in told
    assert "| 2.00 (Black-Scholes 1e3 float32) |" in told


def test_compile_times_of_chains(tmp_path: Path) -> None:
    assert chains.growth((10, 100, 1000), {10: 1.0, 100: 10.0, 1000: 1000.0}) == pytest.approx([1.0, 2.0])
    curves = chains.report((8, 64), ("graphc",))
    assert set(curves["graphc"]) == {8, 64}
    chains.plot(curves, tmp_path / "out.png")
    assert (tmp_path / "out.png").stat().st_size > 1000
    assert chains.first_call("no such library", 8) is None


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are watched on Linux only")
@pytest.mark.parametrize(("name", "most"), [("lenet", 120e6), ("gpt384", 56e6), ("gpt128", 19e6)])
def test_a_training_step_grows_by_its_planned_arena(name: str, most: float) -> None:
    """most: bytes, of which PyTorch needed over 1.4 times as much when this was written."""
    assert name in memory.STEPS
    grown = memory.in_fresh_process("graphc", name)
    assert abs(grown.step - grown.planned) <= memory.PLAN * grown.planned
    assert grown.planned <= most


def test_first_calls(tmp_path: Path) -> None:
    names = [work.name for work in all_works()]
    assert all(any(name.startswith(start) for name in names) for start in latency.WORKS)
    cold, warm = (latency.first_call("polynomial-trig 1e3 float32", "graphc", tmp_path / "caches") for _ in range(2))
    assert cold is not None
    assert warm is not None
    assert "llvmlite" in cold[2]
    assert cold[0] > cold[1] > warm[1]
    assert warm[2] == []
    assert latency.first_call("no such work", "graphc", tmp_path) is None
    found = {"graphc": latency.Latency(0.3, 0.04), "jax": latency.Latency(0.6, 0.2), "torch.compile": None}
    other = latency.other_size("polynomial-trig 1e3 float32", 1, tmp_path)
    assert 0 < other.ready < 60
    assert 0 < other.after < other.first
    told = latency.row("w", found, latency.Other(0.012, 0.72, 0.01, 1e-4))
    assert told == "| w | 0.30 | 0.50 | 40 | jax 0.60 / 0.20 | neither | 12 | 0.7: 10, 0.1 |"
