"""The code of the README and of each page of docs/ runs as it stands, and does what is said of it."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import tomllib

import click
import pytest
from documents import PAGES, README, ROOT, blocks, languages, read, sides
from flask.cli import FlaskGroup
from gunicorn.config import Config
from programs import Load
from waitress.adjustments import Adjustments

from flask_dash_store.cli import user_store as command_line

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

# Each of these pages has a test of its own, which runs all of its code.
OWN_TESTS = {
    "docs/testing.md": "tests/http/test_testing.py",
    "docs/tutorial.md": "tests/project/test_tutorial.py",
    "docs/write-a-backend.md": "tests/project/test_write_a_backend.py",
}
PROGRAMS = [
    (document, heading)
    for document in [README, *PAGES]
    if document not in OWN_TESTS
    for heading in [*blocks(document, "python"), *blocks(document, "diff")]
]
COMMANDS = [
    (document, command)
    for document in [README, *PAGES]
    for codes in blocks(document, "sh").values()
    for code in codes
    for command in code.replace("\\\n", "").splitlines()
]


# All of it


@pytest.mark.parametrize(("document", "heading"), PROGRAMS)
def test_all_python_code_runs(document: str, heading: str, load: Load) -> None:
    load(document, heading)


@pytest.mark.parametrize(("document", "test"), OWN_TESTS.items())
def test_a_page_that_is_left_out_has_a_test_of_its_own(document: str, test: str) -> None:
    assert document in read(test)


@pytest.mark.parametrize("document", [README, *PAGES, "CONTRIBUTING.md"])
def test_all_code_is_in_a_language_that_is_run_or_checked(document: str) -> None:
    checked_here = {"python", "diff", "sh", "nginx", "dockerfile", "yaml"}
    # What Redis is set to: tests/project/test_scaling_document.py and tests/redis/test_redis_full.py.
    checked_elsewhere = {"docs/scaling.md": {"ini", "text"}, "docs/api.md": {"eval-rst"}, "docs/index.md": {"toctree"}}
    assert languages(document) <= checked_here | checked_elsewhere.get(document, set())


@pytest.mark.parametrize("document", [page for page in PAGES if blocks(page, "diff")])
def test_what_a_diff_takes_away_was_a_program_too(document: str) -> None:
    for diffs in blocks(document, "diff").values():
        for diff in diffs:
            ast.parse(sides(diff)[0])


@pytest.mark.parametrize(("document", "command"), COMMANDS)
def test_each_command_is_one_that_its_program_takes(document: str, command: str) -> None:
    words = shlex.split(command, comments=True)
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    match words:
        case ["pip" | ".release/bin/pip", "install", *requirements]:
            assert [each for each in requirements if not is_installable(each)] == []
        case ["flask", "--app", "app:app" | "app:server", "user-store", name, *arguments]:
            check_arguments(command_line.commands[name], arguments)
        case ["flask", "--app", "app:server", *arguments]:
            check_arguments(FlaskGroup().commands[arguments[0]], arguments[1:])
        case ["gunicorn", *arguments]:
            Config().parser().parse_args(arguments)
        case ["waitress-serve", *arguments]:
            assert Adjustments.parse_args(arguments)[1] == ["app:server"]
        case ["python", file] if file.endswith(".py"):
            assert f"`{file}`" in read(document)
        case ["python", "-m", module, *_]:
            assert importlib.util.find_spec(module)
        case ["export", *_]:
            subprocess.run(["bash", "-ec", command], check=True, timeout=60)
        case ["source", file]:
            assert file == ".venv/bin/activate"
        case [script]:
            assert script.startswith("scripts/")
            assert os.access(ROOT / script, os.X_OK)


def is_installable(requirement: str) -> bool:
    """Whether it names this package, and an extra of it, or a package that the tests have."""
    if ours := re.fullmatch(r"(?:.*flask_dash_store|\.)(?:\[(\w+)\]|-\*\.whl)?", requirement):
        return ours[1] in {None, *EXTRAS}
    return importlib.util.find_spec(requirement) is not None


def check_arguments(command: click.Command, arguments: list[str]) -> None:
    found, left, _ = command.make_parser(click.Context(command)).parse_args(arguments)
    missing = [each.name for each in command.params if each.required and found[each.name] is None]
    assert (left, missing) == ([], [])
