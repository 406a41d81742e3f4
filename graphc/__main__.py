"""python -m graphc: doctor, cache."""

import argparse

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
    options = parser.parse_args()
    if options.command == "doctor":
        print(doctor.report())
        return
    if options.clear:
        print(f"removed {disk_cache().clear()} programs")
    usage = disk_cache().usage()
    print(f"{usage.folder or usage.reason}: {usage.entries} programs, {usage.size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
