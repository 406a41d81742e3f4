"""python -m graphc: doctor, cache, bench."""

import argparse
import runpy
import sys
from pathlib import Path

from graphc.runtime.cache import disk_cache
from graphc.runtime.inspect import doctor


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m graphc", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser(
        "doctor", help="versions, BLAS, CPU features, threads, cache, GPU; what is missing, how to get it"
    )
    cache = commands.add_parser("cache", help="show the machine code cached on disk")
    cache.add_argument("--clear", action="store_true", help="remove it")
    commands.add_parser(
        "bench",
        add_help=False,
        help="time graphc against the peers that are installed (in a checkout; --help says more)",
    )
    options, rest = parser.parse_known_args()
    if options.command == "bench":
        _bench(rest)
        return
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if options.command == "doctor":
        print(doctor.report())
        return
    if options.clear:
        print(f"removed {disk_cache().clear()} programs")
    usage = disk_cache().usage()
    print(f"{usage.folder or usage.reason}: {usage.entries} programs, {usage.size / 1e6:.1f} MB")


def _bench(arguments: list[str]) -> None:
    """The suite is not installed with the package: it stands under tests/bench in a checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / "tests" / "bench" / "__main__.py").exists():
        sys.exit("graphc bench: the suite is in tests/bench of a source checkout, and this is an installed package; "
                 "clone graphc's repository and run `python -m graphc bench` there")  # fmt: skip
    sys.path.insert(0, str(root))
    sys.argv = ["python -m graphc bench", *arguments]
    runpy.run_module("tests.bench", run_name="__main__")


if __name__ == "__main__":
    main()
