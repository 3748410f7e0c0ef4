"""The command: ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import tempfile
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from tqdm import tqdm

from . import (
    dataframes,
    machine,
    parallel_callbacks,
    purging,
    report,
    requests_in_process,
    requests_over_http,
    scale,
    small_values,
)
from .bench import Bench, Place
from .results import Result
from .servers import postgresql_server, redis_server

MEASUREMENTS: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        requests_in_process,
        requests_over_http,
        small_values,
        dataframes,
        scale,
        purging,
        parallel_callbacks,
    )
}
DOCS = Path(__file__).parent.parent / "docs"


def main() -> None:
    options = _parser().parse_args()
    if options.list:
        for name, module in MEASUREMENTS.items():
            print(f"{name:20} {(module.__doc__ or '').splitlines()[0]}")
        return
    docs = options.output or (None if options.quick else DOCS)
    names = [name for name in MEASUREMENTS if not options.only or name in options.only]
    results = []
    # tqdm's watchdog would wake up in the middle of what is measured.
    tqdm.monitor_interval = 0
    with (
        tempfile.TemporaryDirectory(prefix="benchmarks-") as folder,
        redis_server(Path(folder)) as redis_socket,
        postgresql_server(Path(folder)) as postgresql,
    ):
        place = Place(Path(folder), redis_socket, postgresql)
        for name in names:
            result = _measure(name, place, options.quick)
            result.command = _command(name, options.quick)
            result.machine = machine.describe()
            results.append(result)
            print(report.on_terminal(result), flush=True)
            if docs:
                report.save(result, docs)
                report.render(MEASUREMENTS, docs)
    print(f"\n{report.verdicts(results)}")
    if docs:
        print(f"\nWritten: {docs.name}/benchmarks.md")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Compares flask_dash_store with others.")
    parser.add_argument("--quick", action="store_true", help="under a minute: fewer rounds, smaller sizes")
    parser.add_argument("--only", metavar="NAME", action="append", choices=MEASUREMENTS, help="repeatable; see --list")
    parser.add_argument("--list", action="store_true", help="name the measurements")
    parser.add_argument("--output", metavar="FOLDER", type=Path, help="where to write; docs, or with --quick nowhere")
    return parser


def _command(name: str, is_quick: bool) -> str:
    return f"python -m benchmarks{' --quick' if is_quick else ''} --only {name}"


def _measure(name: str, place: Place, is_quick: bool) -> Result:
    module = MEASUREMENTS[name]
    # disable=None: no bar where there is no terminal.
    with tqdm(desc=f"{name:20}", bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed}", disable=None) as bar:
        bench = Bench(place.inside(name), is_quick, lambda steps: bar.reset(steps), lambda: bar.update() and None)
        lacking = [needed for needed in getattr(module, "NEEDS", ()) if find_spec(needed) is None]
        if lacking:
            bench.leave_out(module.TITLE, f"the Python module {lacking[0]} is not installed")
            result = Result(name, module.TITLE, module.ABOUT)
        else:
            result = module.measure(bench)
    result.missing = bench.missing
    return result


if __name__ == "__main__":
    main()
