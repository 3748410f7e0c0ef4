"""The linters, the types on each system, and tests: ``python scripts/test.py --quick`` on Linux, macOS and Windows.

It runs in the environment of the Python that it is started with, which has what ``pip install --editable '.[quick]'``
brings, or ``'.[dev]'`` for all tests. scripts/test makes that environment first. Other arguments go to pytest. Where CI
is set, a skipped test is a failure.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROCESSES = 2
SYSTEMS = ("linux", "darwin", "win32")
QUICK = (
    "tests/contract/test_storage_contract.py",
    "tests/mapping/test_mapping.py",
    "tests/mapping/test_codec.py",
    "tests/mapping/test_dash_database.py",
    "tests/http/test_cookie.py",
    "tests/http/test_wsgi.py",
    "tests/http/test_session.py",
    "tests/http/test_session_end.py",
    "tests/http/test_caching.py",
)


def quick_arguments() -> list[str]:
    """The quick tests, on the storages that need no server, and without those of what the system lacks."""
    left_out = ["redis", "postgresql"] + ([] if hasattr(os, "fork") else ["fork"])
    return [*QUICK, "-k", " and ".join(f"not {each}" for each in left_out)]


def run(*command: str) -> None:
    print(*command, flush=True)
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT)
    if done.returncode != 0:
        sys.exit(done.returncode)


def check_types(system: str) -> None:
    # Each with a cache of its own, which the next run of it begins with.
    run("mypy", "--no-error-summary", "--platform", system, "--cache-dir", f".mypy_cache/{system}")


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--quick"]:
        arguments = quick_arguments() + arguments[1:]
    if os.environ.get("CI"):
        arguments = ["-p", "tests.support.no_skips", *arguments]
    run("ruff", "check", "--quiet")
    run("ruff", "format", "--check", "--quiet")
    with ThreadPoolExecutor(PROCESSES) as threads:
        list(threads.map(check_types, SYSTEMS))
    # Two at a time, for most tests wait for a server; a file stays together, for its tests share one. The order is that
    # of tests/conftest.py: by itself xdist takes the files with few tests last, which are the long ones.
    run("pytest", "--numprocesses", f"{PROCESSES}", "--dist", "loadfile", "--no-loadscope-reorder", *arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
