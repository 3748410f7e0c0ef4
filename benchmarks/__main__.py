"""The command: ``python -m benchmarks``."""

import argparse
import tempfile
from importlib import import_module
from pathlib import Path

from . import report
from .bench import Bench
from .results import Result
from .servers import redis_server

MEASUREMENTS = (
    "frames", "small_values", "requests_in_process", "requests_on_asgi", "requests_over_http", "parallel_callbacks",
    "flask_sessions", "dataframes", "text_columns", "scale", "many_keys", "purging", "stalls", "capacity",
)  # fmt: skip
DOCS = Path(__file__).parent.parent / "docs"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Compares flask_dash_store with others.")
    parser.add_argument("--quick", action="store_true", help="a minute or two: fewer rounds, smaller sizes")
    parser.add_argument("--only", metavar="NAME", action="append", choices=MEASUREMENTS, help=", ".join(MEASUREMENTS))
    parser.add_argument("--output", metavar="FOLDER", type=Path, help="where to write; docs, or with --quick nowhere")
    options = parser.parse_args()
    docs = options.output or (None if options.quick else DOCS)
    results = []
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder, redis_server(Path(folder)):
        for name in options.only or MEASUREMENTS:
            results.append(measure(Bench(name, Path(folder, name), options.quick)))
            print(report.on_terminal(results[-1]), flush=True)
            if docs:
                report.save(results[-1], docs)
                report.render(MEASUREMENTS, docs)
    print(f"\n{report.verdicts(results)}")


def measure(bench: Bench) -> Result:
    """What a measurement finds. Its docstring says what it is: a title, and a text."""
    bench.folder.mkdir()
    module = import_module(f".{bench.name}", __package__)
    title, _, about = (module.__doc__ or "").partition("\n\n")
    result = Result(bench.name, title, about.strip(), missing=bench.missing, machine=report.machine())
    result.command = f"python -m benchmarks{' --quick' if bench.is_quick else ''} --only {bench.name}"
    try:
        result.tables, result.bounded = module.measure(bench)
    except ImportError as error:
        bench.missing[title] = str(error)
    return result


if __name__ == "__main__":
    main()
