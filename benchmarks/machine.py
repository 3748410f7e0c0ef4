"""The machine as far as it explains the numbers; nothing that names it."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import apsw

from . import load_generator
from .servers import find_redis_server

PACKAGES = (
    "flask-dash-store", "flask", "werkzeug", "gunicorn", "apsw", "sqlitedict", "flask-session", "flask-sqlalchemy",
    "cachelib", "diskcache", "dash-extensions", "redis", "numpy", "pandas", "pyarrow",
)  # fmt: skip


def describe() -> dict[str, str]:
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "machine": f"{os.cpu_count()} cores ({_processor()}), {gigabytes:.0f} GB, {platform.system()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": ", ".join(filter(None, map(_package, PACKAGES))),
        "SQLite": f"{apsw.sqlite_lib_version()} in APSW, {sqlite3.sqlite_version} in sqlite3",
        "Redis": _redis(),
        "load generator": load_generator.version(),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _package(name: str) -> str | None:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return None


def _redis() -> str:
    server = find_redis_server()
    if server is None:
        return "none"
    printed = subprocess.run([server, "--version"], capture_output=True, text=True, check=True).stdout
    return next(word.removeprefix("v=") for word in printed.split() if word.startswith("v="))
