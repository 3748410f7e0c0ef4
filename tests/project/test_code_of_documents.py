"""The code of the README and of each page of docs/ runs as it stands, and does what is said of it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import click
import pytest
from conftest import SECRET_KEY, Load
from documents import PAGES, README, ROOT, blocks, languages, read
from flask import Flask
from gunicorn.config import Config
from sqlitedict import SqliteDict

import flask_dash_store
from flask_dash_store import DashDatabase, UserStoreMiddleware
from flask_dash_store.cli import user_store as command_line

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

# Each of these pages has a test of its own, which runs all of its code.
OWN_TESTS = {
    "docs/testing.md": "tests/http/test_testing.py",
    "docs/write-a-backend.md": "tests/project/test_write_a_backend.py",
}
PROGRAMS = [
    (document, heading)
    for document in [README, *PAGES]
    if document not in OWN_TESTS
    for heading in blocks(document, "python")
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
    # conf and text: what Redis is set to, by tests/project/test_scaling_document.py and tests/redis/test_redis_full.py
    assert languages(document) <= {"python", "sh"} | ({"conf", "text"} if document == "docs/scaling.md" else set())


@pytest.mark.parametrize(("document", "command"), COMMANDS)
def test_each_command_is_one_that_its_program_takes(document: str, command: str) -> None:
    words = shlex.split(command, comments=True)
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    match words:
        case ["pip", "install", *requirements]:
            for requirement in requirements:
                name, extra = re.fullmatch(r"(flask_dash_store|\.)(?:\[(\w+)\])?", requirement).groups()
                assert name
                assert extra in {None, *EXTRAS}
        case ["flask", "--app", app, "user-store", name, *arguments]:
            assert re.fullmatch(r"app:(app|server)", app)
            subcommand = command_line.commands[name]
            found, left, _ = subcommand.make_parser(click.Context(subcommand)).parse_args(arguments)
            assert (left, [each.name for each in subcommand.params if each.required and not found[each.name]]) == (
                [],
                [],
            )
        case ["gunicorn", *arguments]:
            Config().parser().parse_args(arguments)
        case ["python", file] if file.endswith(".py"):
            assert f"`{file}`" in read(document)
        case ["python", "-m", "pytest" | "timeit", *_]:
            pass  # test_write_a_backend.py and a test below run these.
        case ["export", *_]:
            subprocess.run(["bash", "-ec", command], check=True, timeout=60)
        case [script, *_]:
            assert script.startswith("scripts/")
            assert os.access(ROOT / script, os.X_OK)


# Page by page


def test_the_operations_of_using_a_store_do_what_is_said_of_them(load: Load) -> None:
    buy = load("docs/using-a-store.md", "Use a store").buy
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
    app = load("docs/log-in-and-out.md", "Log in and out").app
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


def test_a_users_values_are_there_outside_of_requests_and_logs_name_visitors(
    load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    module = load("docs/users.md", "Names for visitors")
    browser = module.app.test_client()
    browser.post("/login", data={"user": "ann"})
    assert browser.post("/theme/dark").json == {"theme": "dark"}
    lines = [record.getMessage() for record in caplog.records]
    assert [re.sub("^[A-Za-z0-9_-]{22} ", "", line) for line in lines] == ["POST 200", "POST 200"]
    assert module.stores.for_user("ann") == {"theme": "dark"}
    assert module.stores.for_user("ann").expires_at is None


def test_a_thread_writes_to_the_store_of_its_visitor(load: Load) -> None:
    browser = load("docs/background-jobs.md", "Background jobs").app.test_client()
    before = set(threading.enumerate())
    assert browser.post("/report").status_code == 202
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
    assert browser.get("/report").json == {"report": "ready"}


def test_receivers_of_signals_are_called_at_a_login_and_a_logout(load: Load) -> None:
    module = load("docs/signals.md", "Signals")
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
    server = load("docs/dash.md", "Layout functions").app.server
    server.add_url_rule("/set/<name>", "set", lambda name: flask_dash_store.user_store.update(name=name) or "")
    ann, ben = server.test_client(), server.test_client()
    ann.get("/set/Ann")
    assert ann.get("/_dash-layout").json["props"]["value"] == "Ann"
    assert ben.get("/_dash-layout").json["props"]["value"] == ""


def test_flasks_session_is_in_the_store_with_one_cookie(load: Load) -> None:
    browser = load("docs/flask-session.md", "Flask's own session").app.test_client()
    assert browser.post("/cart/apple").json == ["apple"]
    assert browser.post("/cart/pear").json == ["apple", "pear"]
    assert browser.get_cookie("user_store") is None


def test_a_storage_that_fails_is_answered_with_a_503(load: Load) -> None:
    app = load("docs/reliability.md", "Fault by fault").app
    app.add_url_rule("/full", "full", lambda: (_ for _ in ()).throw(flask_dash_store.StorageFull("full")))
    assert app.test_client().get("/full").status_code == 503


def test_dash_database_prints_what_was_stored(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    load("docs/dash-database.md", "DashDatabase")
    assert capsys.readouterr().out.splitlines() == ["monkey", "['animal', 'code']", "['123']"]


def test_the_values_of_dash_database_move(load: Load) -> None:
    move = load("docs/dash-database.md", "Bring old data along").move
    old_values = {"1_a": 1, "12_a": 2, "1_2_a": 3, "ann_long_name": 4, "gone_a": 5}
    with SqliteDict("old.sqlite", autocommit=True) as old:
        old.update(old_values)
    move("old.sqlite", "new.sqlite", [1, 12, "1_2", "ann"])
    with DashDatabase("new.sqlite") as db:
        moved = {
            user: {key: db.get_user_value(user, key) for key in db.list_stored_user_keys(user)} for user in db.users()
        }
    assert moved == {"1": {"a": 1}, "12": {"a": 2}, "1_2": {"a": 3}, "ann": {"long_name": 4}}


# Commands that are run


def shell(command: str, folder: Path) -> str:
    """Run a command as a page says it, where ``python`` is the Python that the package is installed in."""
    environ = os.environ | {"SECRET_KEY": SECRET_KEY, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-ec", command], cwd=folder, env=environ, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def command_with(word: str) -> str:
    [command] = {command for _, command in COMMANDS if word in command}
    return command


def test_gunicorn_finds_the_app(load: Load, tmp_path: Path) -> None:
    load(README, "Use it with Dash")
    shell(f"{command_with('gunicorn')} --check-config", tmp_path)


def test_the_backup_is_whole_and_private_and_can_be_restored(load: Load, tmp_path: Path) -> None:
    stores = load(README, "Use it with Dash").server.extensions["user_store"]
    stores.for_user("ann")["name"] = "Ann"  # still open, and not yet out of the WAL
    shell(command_with("user-store backup"), tmp_path)
    assert (tmp_path / "backup.sqlite").stat().st_mode & 0o777 == 0o600
    stores.for_user("ann")["name"] = "Anna"
    shell(f"{command_with('user-store restore')} --yes", tmp_path)
    assert stores.for_user("ann") == {"name": "Ann"}


def test_values_are_signed_with_the_new_key(load: Load, tmp_path: Path) -> None:
    stores = load("docs/rotate-keys.md", "Rotate keys").app.extensions["user_store"]
    stores.for_user("ann")["name"] = "Ann"
    assert shell(f"SECRET_KEY=another-of-16-bytes-or-more {command_with('re-sign')}", tmp_path).endswith(
        "Signed 1 values.\n"
    )


def test_sqlitedict_reads_the_file_as_the_page_says(tmp_path: Path) -> None:
    app, file = Flask("app"), tmp_path / "store.sqlite"
    app.config.update(SECRET_KEY=SECRET_KEY, USER_STORE_URL=f"sqlite:///{file}")
    UserStoreMiddleware(app).for_user("ann")["name"] = "Ann"
    (call,) = re.findall(r"`(SqliteDict\(path[^`]+)`", read("docs/production.md"))
    code = f"from sqlitedict import SqliteDict; path = {str(file)!r}; print(dict({call}))"
    assert shell(f"python -c {shlex.quote(code)}", tmp_path) == "{'u.ann/name': 'Ann'}\n"


def test_the_measurement_runs(tmp_path: Path) -> None:
    assert "1 loop" in shell(command_with("timeit").replace("timeit", "timeit -n 1 -r 1"), tmp_path)


def test_the_table_of_commands_is_complete() -> None:
    named = re.findall(r"^\| `flask user-store ([\w-]+)", read("docs/command-line.md"), re.MULTILINE)
    assert sorted(named) == sorted(command_line.commands)
