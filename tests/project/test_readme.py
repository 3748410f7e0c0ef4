"""What the documents say is so: the code runs as written, the tables are complete, the links lead somewhere."""

from __future__ import annotations

import ast
import inspect
import os
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable
from dataclasses import fields
from graphlib import TopologicalSorter
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest
from documents import ROOT, blocks, run_as_module, sections
from flask import Flask
from flask.testing import FlaskClient
from sqlitedict import SqliteDict

import flask_dash_store
from flask_dash_store import DashDatabase, UserStore, UserStoreError, UserStoreMiddleware
from flask_dash_store.settings import PREFIX, Settings

PACKAGE = ROOT / "flask_dash_store"
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
SECRET_KEY = "only for tests, where there is nothing to protect"

Load = Callable[..., ModuleType]


def table(document: str, heading: str) -> list[list[str]]:
    """The rows of the table under a heading."""
    lines = [line for line in sections(document)[heading].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def code_spans(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Runs the Python code under some of README's headings as one file, app.py, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET_KEY", SECRET_KEY)
    monkeypatch.setenv("FLASK_SECRET_KEY", SECRET_KEY)

    def load(*headings: str) -> ModuleType:
        python = blocks("README.md", "python")
        # Forgotten with the test.
        monkeypatch.setitem(sys.modules, "app", ModuleType("app"))
        return run_as_module((code for heading in headings for code in python[heading]), tmp_path)

    return load


def call_back(client: FlaskClient, output: str, **inputs: Any) -> Any:
    """Call a Dash callback as a browser does."""
    component, prop = output.split(".")
    body = {
        "output": output,
        "outputs": {"id": component, "property": prop},
        "inputs": [{"id": key, "property": "value", "value": value} for key, value in inputs.items()],
        "changedPropIds": [f"{key}.value" for key in inputs],
    }
    response = client.post("/_dash-update-component", json=body)
    assert response.status_code == 200, response.text
    return response.json["response"][component][prop]


# The code


def test_the_first_app_keeps_each_visitors_name_over_a_restart(load: Load) -> None:
    server = load("Use it").server
    ann, ben = server.test_client(), server.test_client()
    assert "HttpOnly" in ann.get("/").headers["Set-Cookie"]
    ben.get("/")

    assert call_back(ann, "greeting.children", name=None) == "Hello stranger"
    assert call_back(ann, "greeting.children", name="Ann") == "Hello Ann"
    assert ann.get("/name").json == {"name": "Ann"}
    assert ben.get("/name").json == {"name": None}

    ann.application = load("Use it").server
    assert ann.get("/name").json == {"name": "Ann"}
    assert call_back(ann, "greeting.children", name=None) == "Hello Ann"


def test_the_operations_of_using_a_store_do_what_is_said_of_them(load: Load) -> None:
    buy = load("Using a store").buy
    app = Flask("app")
    app.secret_key = SECRET_KEY
    stores = UserStoreMiddleware(app)
    app.add_url_rule("/buy/<item>/<int:price>", "buy", lambda **order: {"count": buy(**order)})
    app.add_url_rule("/id", "id", lambda: flask_dash_store.user_store.session_id)

    client = app.test_client()
    assert client.get("/buy/apple/2").json == {"count": 1}
    assert client.get("/buy/pear/3").json == {"count": 2}
    assert stores.open(client.get("/id").text) == {
        "offer": "pear", "purchases": 2, "cart": ["apple", "pear"], "balance": 95, "last": "pear"
    }  # fmt: skip


def test_login_keeps_the_values_and_logout_ends_the_session(load: Load) -> None:
    app = load("Log in, log out").app
    app.add_url_rule("/visits", "visits", lambda: str(flask_dash_store.user_store.increment("visits")))
    app.add_url_rule("/user", "user", lambda: flask_dash_store.user_store.get("user", "nobody"))
    browser, thief = app.test_client(), app.test_client()
    browser.get("/visits")
    thief.set_cookie("user_store", browser.get_cookie("user_store").value)

    assert browser.post("/login", data={"user": "ann"}).status_code == 302
    assert browser.get("/user").text == "ann"
    assert browser.get("/visits").text == "2"
    assert thief.get("/user").text == "nobody"

    elsewhere = app.test_client()
    elsewhere.post("/login", data={"user": "ann"})
    assert browser.post("/logout-elsewhere").json == {"ended": 1}
    assert elsewhere.get("/user").text == "nobody"
    assert browser.get("/user").text == "ann"

    browser.post("/logout")
    assert browser.get("/user").text == "nobody"
    assert browser.get("/visits").text == "1"


def test_users_and_threads_have_stores_outside_of_requests(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    module = load("Log in, log out", "Users, and work outside of requests")
    module.app.add_url_rule("/seen", "seen", lambda: flask_dash_store.user_store.get("report", ""))
    browser = module.app.test_client()
    browser.post("/login", data={"user": "ann"})

    assert browser.get("/theme/dark").json == {"theme": "dark"}
    lines = [record.getMessage() for record in caplog.records]
    assert [re.sub("^[A-Za-z0-9_-]{22} ", "", line) for line in lines] == ["POST 302", "GET 200"]
    assert module.stores.for_user("ann") == {"theme": "dark"}
    assert module.stores.for_user("ann").expires_at is None

    before = set(threading.enumerate())
    assert browser.post("/report").status_code == 202
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
    assert browser.get("/seen").text == "ready"


def test_receivers_of_signals_are_told_of_a_login_and_a_logout(load: Load) -> None:
    module = load("Signals")
    store = flask_dash_store.user_store
    module.app.add_url_rule("/in", "in", lambda: store.regenerate(user_id="ann") or store.get("cart", "none"))
    module.app.add_url_rule("/cart", "cart", lambda: store["cart"])
    module.app.add_url_rule("/out", "out", lambda: store.destroy() or "")
    client = module.app.test_client()
    assert client.get("/in").text == "none"
    assert client.get("/cart").json == []
    client.get("/out")
    assert module.ended == {"destroyed": 1}


def test_a_layout_function_shows_each_visitor_their_own_value(load: Load) -> None:
    server = load("Layout functions").app.server
    server.add_url_rule("/set/<name>", "set", lambda name: flask_dash_store.user_store.update(name=name) or "")
    ann, ben = server.test_client(), server.test_client()
    ann.get("/set/Ann")
    assert ann.get("/_dash-layout").json["props"]["value"] == "Ann"
    assert ben.get("/_dash-layout").json["props"]["value"] == ""


def test_flasks_session_is_in_the_store_with_one_cookie(load: Load) -> None:
    browser = load("Flask's own session").app.test_client()
    assert browser.post("/cart/apple").json == ["apple"]
    assert browser.post("/cart/pear").json == ["apple", "pear"]
    assert browser.get_cookie("user_store") is None


def test_dash_database_prints_what_was_stored(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    load("DashDatabase")
    assert capsys.readouterr().out.splitlines() == ["monkey", "['animal', 'code']", "['123']"]


def test_the_values_of_dash_database_move(load: Load) -> None:
    move = load("DashDatabase").move
    old_values = {"1_a": 1, "12_a": 2, "1_2_a": 3, "ann_long_name": 4, "gone_a": 5}
    with SqliteDict("old.sqlite", autocommit=True) as old:
        old.update(old_values)
    move("old.sqlite", "new.sqlite", [1, 12, "1_2", "ann"])
    with DashDatabase("new.sqlite") as db:
        moved = {
            user: {key: db.get_user_value(user, key) for key in db.list_stored_user_keys(user)} for user in db.users()
        }
    assert moved == {"1": {"a": 1}, "12": {"a": 2}, "1_2": {"a": 3}, "ann": {"long_name": 4}}


def test_no_python_code_is_left_out() -> None:
    run = {
        "Use it",
        "Using a store",
        "Log in, log out",
        "Users, and work outside of requests",
        "Signals",
        "Layout functions",
    }
    in_chromium = {"Log out while a callback runs"}  # tests/browser/test_dash_sessions.py
    assert set(blocks("README.md", "python")) == run | in_chromium | {"Flask's own session", "DashDatabase"}


# The commands


def shell(command: str, folder: Path) -> str:
    """Run a command as README says it, where ``python`` is the Python that the package is installed in."""
    environ = os.environ | {"SECRET_KEY": SECRET_KEY, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-ec", command], cwd=folder, env=environ, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def command_with(word: str) -> str:
    codes = [code for under_heading in blocks("README.md", "sh").values() for code in under_heading]
    lines = [line.strip() for code in codes for line in code.splitlines()]
    (command,) = [line for line in lines if word in line]
    return command


@pytest.mark.parametrize("script", ["scripts/demo", "scripts/test", ".ci/run"])
def test_the_scripts_that_are_named_can_be_run(script: str) -> None:
    assert script in (ROOT / "README.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    assert os.access(ROOT / script, os.X_OK)


def test_the_secret_key_that_is_made_is_long_enough(tmp_path: Path) -> None:
    assert len(shell(f'{command_with("export SECRET_KEY")} && echo -n "$SECRET_KEY"', tmp_path)) >= 32


def test_gunicorn_finds_the_app(load: Load, tmp_path: Path) -> None:
    load("Use it")
    shell(f"{command_with('gunicorn')} --check-config", tmp_path)


def test_the_backup_is_whole_and_private_and_can_be_restored(load: Load, tmp_path: Path) -> None:
    browser = load("Use it").server.test_client()
    browser.get("/")
    call_back(browser, "greeting.children", name="Ann")  # still open, and not yet out of the WAL
    shell(command_with("user-store backup"), tmp_path)
    assert (tmp_path / "backup.sqlite").stat().st_mode & 0o777 == 0o600
    call_back(browser, "greeting.children", name="Anna")
    shell(f"{command_with('user-store restore')} --yes", tmp_path)
    assert browser.get("/name").json == {"name": "Ann"}


def app_with_file(file: Path) -> Flask:
    app = Flask("app")
    app.config.update(SECRET_KEY=SECRET_KEY, USER_STORE_URL=f"sqlite:///{file}")
    return app


def test_sqlitedict_reads_the_file_as_the_readme_says(tmp_path: Path) -> None:
    file = tmp_path / "store.sqlite"
    UserStoreMiddleware(app_with_file(file)).for_user("ann")["name"] = "Ann"
    (call,) = re.findall(r"`(SqliteDict\(path[^`]+)`", (ROOT / "README.md").read_text())
    program = f"from sqlitedict import SqliteDict; path = {str(file)!r}; print(dict({call}))"
    assert shell(f"python -c {shlex.quote(program)}", tmp_path) == "{'u.ann/name': 'Ann'}\n"


def test_the_measurement_runs(tmp_path: Path) -> None:
    assert "1 loop" in shell(command_with("timeit").replace("timeit", "timeit -n 1 -r 1"), tmp_path)


# The tables


def test_the_table_of_settings_is_complete_and_its_defaults_are_right() -> None:
    documented = {}
    for key, option, default, _ in table("README.md", "Settings"):
        assert key == f"`{PREFIX}{code_spans(option)[0].upper()}`"
        documented[code_spans(option)[0]] = eval(code_spans(default)[0], {"__builtins__": {}})
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
    documented = table("README.md", "Errors")
    assert {code_spans(name)[0] for name, *_ in documented} == set(errors) - {"UserStoreError"}
    for name, also, _ in documented:
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


# The rest


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_to_a_file_leads_to_one(document: str) -> None:
    text = (ROOT / document).read_text()
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    assert [target for target in targets if not (ROOT / target.partition("#")[0]).exists()] == []


def test_the_picture_is_well_formed_and_has_a_title_and_a_description() -> None:
    picture = ElementTree.parse(ROOT / "docs" / "how-it-works.svg").getroot()
    assert [each.tag.partition("}")[2] for each in picture][:2] == ["title", "desc"]


def test_the_changelog_tells_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert any(heading.startswith(f"[{version}]") for heading in sections("CHANGELOG.md"))


@pytest.mark.parametrize("name", sorted(set(flask_dash_store.__all__) - {"user_store"}))
def test_every_public_name_has_a_docstring(name: str) -> None:
    assert getattr(flask_dash_store, name).__doc__


@pytest.mark.parametrize("public", [UserStore, UserStoreMiddleware, DashDatabase])
def test_every_public_method_has_a_docstring(public: type) -> None:
    names = [name for name in dir(public) if not name.startswith("_")]
    assert [name for name in names if not inspect.getdoc(getattr(public, name))] == []
