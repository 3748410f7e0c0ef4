"""What is published: an sdist whose tests run from it, true metadata, and workflows that call what is there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from documents import ROOT, read

PROJECT = tomllib.loads(read("pyproject.toml"))["project"]
REPOSITORY = PROJECT["urls"]["Repository"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MADE_BY_USE = shutil.ignore_patterns(
    ".git", ".venv", ".*_cache", ".hypothesis", "__pycache__", "build", "dist", "instance", "*.egg-info", "*.sqlite*"
)


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """The sdist, unpacked, and the files that it was made of."""
    folder = tmp_path_factory.mktemp("sdist")
    source = folder / "source"
    shutil.copytree(ROOT, source, ignore=MADE_BY_USE)
    files = files_of(source)
    build = f"from setuptools import build_meta; print(build_meta.build_sdist({str(folder)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=source, capture_output=True, text=True, timeout=100, check=True
    )
    with tarfile.open(folder / done.stdout.split()[-1]) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    [top] = (folder / "unpacked").iterdir()
    return top, files


def test_the_sdist_holds_what_the_repository_holds(unpacked: tuple[Path, set[str]]) -> None:
    top, files = unpacked
    made_by_the_build = {"PKG-INFO", "setup.cfg"}
    held = {file for file in files_of(top) if ".egg-info/" not in file}
    assert held ^ files <= made_by_the_build


def test_the_tests_run_from_the_sdist(unpacked: tuple[Path, set[str]]) -> None:
    top, _ = unpacked
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", "tests/http/test_visitor.py"],
        cwd=top, env=os.environ | {"PYTHONPATH": str(top)}, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_is_one_address_of_the_repository() -> None:
    assert [url for url in PROJECT["urls"].values() if not url.startswith(REPOSITORY)] == []
    texts = [*ROOT.glob("*.md"), *(ROOT / ".github").rglob("*.yml"), *(ROOT / "docs").glob("*.md")]
    addresses = {
        address
        for path in texts
        for address in re.findall(r"https://github\.com/[\w.-]+/flask_dash_store\b", path.read_text())
    }
    assert addresses == {REPOSITORY}


def test_an_extra_is_installed_by_the_command_that_errors_name_though_the_package_came_from_a_checkout() -> None:
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--dry-run", "flask_dash_store[redis,postgresql]"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr


# What GitHub runs


def steps(workflow: Path) -> list[dict[str, Any]]:
    jobs = yaml.safe_load(workflow.read_text())["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_calls_scripts_that_are_there(workflow: Path) -> None:
    commands = [step["run"] for step in steps(workflow) if "run" in step]
    scripts = [ROOT / command.split()[0] for command in commands if command.startswith(("scripts/", ".ci/"))]
    modules = [ROOT / command.split()[1] for command in commands if command.startswith("python scripts/")]
    assert scripts
    assert [script for script in scripts if not os.access(script, os.X_OK)] == []
    assert [module for module in modules if not module.is_file()] == []


def test_every_python_that_is_claimed_is_tested_on() -> None:
    [quick] = [job for job in yaml.safe_load(read(".github/workflows/tests.yml"))["jobs"].values() if "strategy" in job]
    tested = quick["strategy"]["matrix"]["python"]
    claimed = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["classifiers"]))
    assert claimed
    assert set(claimed) <= set(tested)


def test_only_the_job_that_publishes_may_ask_pypi_for_a_token() -> None:
    jobs = yaml.safe_load(read(".github/workflows/publish.yml"))["jobs"]
    assert {name for name, job in jobs.items() if "id-token" in job.get("permissions", {})} == {"publish"}
    assert jobs["publish"]["environment"] == "pypi"
