"""The tables of the reference are complete and right, and every public name has a docstring."""

from __future__ import annotations

import ast
import inspect
import tomllib
from dataclasses import fields
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from documents import ROOT, code_spans, sections, table

import flask_dash_store
from flask_dash_store import DashDatabase, UserStore, UserStoreError, UserStoreMiddleware
from flask_dash_store.settings import PREFIX, Settings

PACKAGE = ROOT / "flask_dash_store"


def test_the_table_of_settings_is_complete_and_its_defaults_are_right() -> None:
    documented = {}
    for key, default, _ in table("docs/settings.md", "Settings"):
        option = code_spans(key)[0].removeprefix(PREFIX).lower()
        documented[option] = eval(code_spans(default)[0], {"__builtins__": {}})
    actual = {each.name: each.default for each in fields(Settings) if each.name != "config"}
    assert documented == actual
    assert {key: type(value) for key, value in documented.items()} == {
        key: type(value) for key, value in actual.items()
    }


def test_the_table_of_errors_is_complete_and_their_classes_are_right() -> None:
    errors = {
        name: error
        for name in flask_dash_store.__all__
        if inspect.isclass(error := getattr(flask_dash_store, name)) and issubclass(error, UserStoreError)
    }
    documented = table("docs/errors.md", "Errors")
    assert {code_spans(name)[0] for name, *_ in documented} == set(errors) - {"UserStoreError"}
    for name, also, *_ in documented:
        builtin = [base.__name__ for base in errors[code_spans(name)[0]].__bases__ if base.__module__ == "builtins"]
        assert code_spans(also) == builtin, name


def test_the_table_of_files_is_complete_and_imports_point_down_it() -> None:
    floors = [code_spans(files) for files, _ in table("CONTRIBUTING.md", "The rooms")]
    graph = {}
    for file in PACKAGE.rglob("*.py"):
        name = str(file.relative_to(PACKAGE))
        graph[name] = imports_of(file)
        for imported in graph[name]:
            assert floor_of(imported, floors) >= floor_of(name, floors), f"{name} imports {imported}, which is above it"
    TopologicalSorter(graph).prepare()  # raises CycleError


def floor_of(file: str, floors: list[list[str]]) -> int:
    (floor,) = (
        number
        for number, rooms in enumerate(floors)
        if any(file == room or (room.endswith("/") and file.startswith(room)) for room in rooms)
    )
    return floor


def imports_of(file: Path) -> list[str]:
    """The files of the package that a file imports when it runs."""
    found = []
    for node in ast.parse(file.read_text()).body:  # Imports for type checkers alone are inside an `if`.
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = file.parents[node.level - 1]
            for name in [node.module] if node.module else [alias.name for alias in node.names]:
                module = folder.joinpath(*name.split("."))
                path = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
                found.append(str(path.relative_to(PACKAGE)))
    return found


def test_the_changelog_and_the_package_tell_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert any(heading.startswith(f"[{version}]") for heading in sections("CHANGELOG.md"))
    assert flask_dash_store.__version__ == version  # Dash asks for it, to serve a script.


@pytest.mark.parametrize("name", sorted(set(flask_dash_store.__all__) - {"user_store"}))
def test_every_public_name_has_a_docstring(name: str) -> None:
    assert getattr(flask_dash_store, name).__doc__


@pytest.mark.parametrize("public", [UserStore, UserStoreMiddleware, DashDatabase])
def test_every_public_method_has_a_docstring(public: type) -> None:
    names = [name for name in dir(public) if not name.startswith("_")]
    assert [name for name in names if not inspect.getdoc(getattr(public, name))] == []
