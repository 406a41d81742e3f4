"""The plan of the house, kept true: an import only ever points down.

Floors: 1 graphc (the language), 2 graphc.passes, 3 graphc.runtime, 4 graphc.runtime.inspect, and the face
(graphc/__init__.py, graphc/__main__.py) above. What is checked are the real imports, read from the syntax trees.
"""

from __future__ import annotations

import ast
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import networkx
import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {"graphc": "graphc", "passes": "graphc.passes", "runtime": "graphc.runtime"}
FACE = 5
LATE_IMPORTS = "graphc.forking"  # what imports by name for the others

# Imported by one module each, inside the function that needs it: they are heavy, or extras that may be absent.
DRIVEN = ("cuda", "cupy", "llvmlite", "matplotlib", "networkx", "pooch", "safetensors")
# Extras that may be absent, and what is slow to import for the little that is asked of it: imported when used.
EXTRAS = ("platformdirs", "rich", "tqdm")


# The compiler's own parts: imported when something must be compiled, since a call whose machine code is cached
# takes less time than importing them. They obey the floors like any other import.
LATE = frozenset(
    {
        *("graphc.passes.pipeline", "graphc.runtime.cpu.build", "graphc.runtime.cuda.build"),
        *("graphc.runtime.explain", "graphc.runtime.meanwhile", "graphc.runtime.worker"),
    }
)


@dataclass(frozen=True)
class Import:
    """One import statement. target: the module it loads. local: it stands inside a function."""

    module: str
    target: str
    line: int
    local: bool

    @property
    def library(self) -> str:
        return self.target.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


@cache
def modules() -> dict[str, Path]:
    """Dotted name -> file, for each module of graphc. The links graphc/passes and graphc/runtime aren't followed."""
    found = {}
    for folder, prefix in ROOMS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            if folder == "graphc" and parts[0] in ("passes", "runtime"):
                continue
            found[".".join((prefix, *parts)).removesuffix(".__init__")] = path
    return found


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def statements(tree: ast.AST, local: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Every node that runs, with whether it stands inside a function. `if TYPE_CHECKING:` never runs."""
    for node in tree.orelse if is_type_checking(tree) else ast.iter_child_nodes(tree):  # type: ignore[attr-defined]
        yield node, local
        yield from statements(node, local or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))


def targets(node: ast.AST, module: str, package: str, known: frozenset[str]) -> list[str]:
    """The modules that a syntax node loads; a submodule named by `from a import b` is a.b."""
    match node:
        case ast.Import():
            return [alias.name for alias in node.names]
        case ast.ImportFrom():
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            return [full if (full := f"{base}.{alias.name}") in known else base for alias in node.names]
        case ast.Call(func=ast.Name(id="__import__" | "import_module") | ast.Attribute(attr="import_module")):
            name = node.args[0] if node.args else None
            if (floor(module) == FACE or module == LATE_IMPORTS) and not isinstance(name, ast.Constant):
                return []  # the face stands above every room, and opens some of them when they are first asked for
            assert isinstance(name, ast.Constant), f"{module}:{node.lineno}: the name of an imported module is computed"
            return [str(name.value)]
        case _:
            return []


def imports_of(module: str, path: Path, known: frozenset[str]) -> list[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return [
        Import(module, target, getattr(node, "lineno", 0), local)
        for node, local in statements(tree)
        for target in dict.fromkeys(targets(node, module, package, known))
    ]


@cache
def imports() -> tuple[Import, ...]:
    known = frozenset(modules())
    return tuple(i for name, path in modules().items() for i in imports_of(name, path, known))


def floor(module: str) -> int:
    if module in ("graphc", "graphc.__main__"):
        return FACE
    for prefix, number in (("graphc.runtime.inspect", 4), ("graphc.runtime", 3), ("graphc.passes", 2)):
        if module == prefix or module.startswith(f"{prefix}."):
            return number
    return 1


def listed(found: list[Import]) -> str:
    return "\n".join(map(str, found))


def test_the_walk_reads_every_form_of_import() -> None:
    source = (
        "import a.b, c\nfrom graphc import ops\nfrom . import two\nfrom .two import x\nfrom ..far import y\n"
        "if TYPE_CHECKING:\n    import never\nelse:\n    import other\n"
        "def f():\n    import local\n    importlib.import_module('named')\n"
    )
    known = frozenset({"graphc.ops", "graphc.one.two"})
    found = [
        (target, local)
        for node, local in statements(ast.parse(source))
        for target in targets(node, "graphc.one.me", "graphc.one", known)
    ]
    names = ["a.b", "c", "graphc.ops", "graphc.one.two", "graphc.one.two", "graphc.far", "other"]
    assert found == [(name, False) for name in names] + [("local", True), ("named", True)]


def test_the_house_has_its_rooms_and_links() -> None:
    assert {floor(m) for m in modules()} >= {1, 2, 3}
    assert (ROOT / "graphc/passes").readlink() == Path("../passes")
    assert (ROOT / "graphc/runtime").readlink() == Path("../runtime")


def test_no_import_points_up() -> None:
    known = modules()
    up = [i for i in imports() if i.target in known and floor(i.target) > floor(i.module)]
    assert not up, f"these imports point to a floor above:\n{listed(up)}"


def test_no_cycle_of_imports() -> None:
    known = modules()
    graph = networkx.DiGraph((i.module, i.target) for i in imports() if i.target in known)
    cycles = [sorted(c) for c in networkx.strongly_connected_components(graph) if len(c) > 1]
    cycles += [[m] for m in networkx.nodes_with_selfloops(graph)]
    assert not cycles, f"modules that import each other in a circle: {cycles}"


def test_imports_stand_at_the_top() -> None:
    hidden = [i for i in imports() if i.local and i.library not in (*DRIVEN, *EXTRAS) and i.target not in LATE]
    assert not hidden, f"these imports stand inside a function:\n{listed(hidden)}"


@pytest.mark.parametrize("library", DRIVEN)
def test_a_heavy_library_is_driven_by_one_module_and_only_when_used(library: str) -> None:
    found = [i for i in imports() if i.library == library]
    assert len({i.module for i in found}) <= 1, f"{library} is imported by several modules:\n{listed(found)}"
    early = [i for i in found if not i.local]
    assert not early, f"{library} must be imported where it is used, inside the function:\n{listed(early)}"


def test_the_generic_names_are_never_imported_bare() -> None:
    known = frozenset(modules())
    bare = [i for i in imports() if i.library in ("passes", "runtime")]
    for folder in ("tests", "examples"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = str(path.relative_to(ROOT))
            bare += [i for i in imports_of(name, path, known) if i.library in ("passes", "runtime")]
    assert not bare, f"write graphc.passes and graphc.runtime:\n{listed(bare)}"


def python(code: str, byte_code: Path | None = None) -> str:
    """What a fresh interpreter prints. It stands outside the checkout's folder of tests, with warnings as errors.

    byte_code: a folder for the byte code of all modules, whatever the environment says about writing it.
    """
    environment = dict(os.environ)
    if byte_code is not None:
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        environment["PYTHONPYCACHEPREFIX"] = str(byte_code)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_graphc_loads_nothing_heavy() -> None:
    loaded = python("import sys, graphc; print(*{m.partition('.')[0] for m in sys.modules})").split()
    assert "graphc" in loaded
    assert not set(loaded) & {*DRIVEN, *EXTRAS, "scipy", "torch"}


def test_importing_every_module_loads_nothing_heavy() -> None:
    names = [m for m in modules() if not m.endswith("__main__")]
    code = f"import sys, importlib; [importlib.import_module(m) for m in {names!r}]; print(*sys.modules)"
    loaded = {m.partition(".")[0] for m in python(code).split()}
    assert not loaded & {*DRIVEN, *EXTRAS, "scipy", "torch"}


def test_a_cached_call_imports_no_compiler(tmp_path: Path) -> None:
    code = (
        "import os, sys; os.environ['GRAPHC_CACHE_DIR'] = " + repr(str(tmp_path)) + "; import graphc as gc;"
        "f = gc.compile(gc.grad(lambda x: (x * x).sum())); x = gc.tensor([1.0, 2.0]);"
        "assert f(x).tolist() == [2.0, 4.0]; print(*sys.modules)"
    )
    heavy = {*LATE, "graphc.runtime.cpu.llvm", "llvmlite", "networkx"} - {"graphc.runtime.cuda.build"}
    assert set(python(code).split()) & heavy
    assert not set(python(code).split()) & heavy


def test_importing_graphc_takes_at_most_twice_numpys_time(tmp_path: Path) -> None:
    """Processor time, so that other work on the machine doesn't count; both in one process; medians of many."""
    code = (
        "from time import process_time as now; a = now(); import numpy; b = now(); import graphc; c = now();"
        "print(b - a, c - a)"
    )
    python(code, tmp_path)  # writes the byte code
    runs = [tuple(map(float, python(code, tmp_path).split())) for _ in range(11)]
    numpy, graphc = (statistics.median(column) for column in zip(*runs, strict=True))
    assert graphc <= 2 * numpy, f"numpy {numpy * 1e3:.1f} ms, graphc with numpy {graphc * 1e3:.1f} ms"


@pytest.mark.parametrize("command", [("check", "--output-format=concise"), ("format", "--check")], ids=" ".join)
def test_ruff_is_clean(command: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "--quiet", "."], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy_strict_is_clean() -> None:
    done = subprocess.run([sys.executable, "-m", "mypy", "-p", "graphc"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_importing_graphc_makes_it_ready_to_compute() -> None:
    assert python("import graphc as gc; print((gc.tensor([1.0]) + 1).tolist())").split() == ["[2.0]"]
