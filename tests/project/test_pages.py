"""What the pages of docs/ show does what is said of it: each app, and the commands that can be run here."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest
import yaml
from documents import README, ROOT, blocks, read
from flask import Flask
from gunicorn.config import Config
from programs import SECRET_KEY, Load
from sqlitedict import SqliteDict

import flask_dash_store
from flask_dash_store import DashDatabase, UserStoreMiddleware
from flask_dash_store.cli import user_store as command_line
from flask_dash_store.testing import user_store_context

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


# Apps


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


def test_an_app_of_dash_database_moves_by_its_import(load: Load) -> None:
    assert load("docs/dash-database.md", "From the package dash_database").animal == "monkey"


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


def test_an_upload_is_kept_and_one_that_is_too_large_says_the_limit(load: Load) -> None:
    module = load("docs/upload-a-dataframe.md", "Large files")
    csv = "data:text/csv;base64," + base64.b64encode(b"x,y\n1,2\n3,4\n").decode()
    with user_store_context(module.app):
        assert module.upload(csv, "numbers.csv") == "numbers.csv: 2 rows"
        assert "3" in module.head("numbers.csv")
        assert module.upload("data:,", "empty.csv") == "This is not a CSV file."
    with user_store_context(module.app) as store, pytest.raises(flask_dash_store.ValueTooLarge) as raised:
        store["data"] = bytes(201 * 2**20)
    assert raised.value.limit == 200 * 2**20

    module.server.add_url_rule("/rows", "rows", lambda: str(len(flask_dash_store.user_store["data"])))
    browser = module.server.test_client()
    file = {"file": (io.BytesIO(b"x\n1\n"), "numbers.csv")}
    assert browser.post("/upload", data=file).status_code == 302
    assert browser.get("/rows").text == "1"


def test_each_tab_has_values_of_its_own_and_a_change_of_the_cart_is_counted(load: Load) -> None:
    module = load("docs/dash.md", "Tabs")
    with user_store_context(module.app) as store:
        assert module.keep("blue") == "This tab keeps blue"
        assert module.layout().children[0].value == "blue"
        assert dict(store) == {}
    module = load("docs/dash.md", "React to a change")
    with user_store_context(module.app):
        assert module.buy(1) == "Bought an apple"
        assert module.count(None) == "1 in your cart, in all of your tabs"


def test_a_declared_key_has_its_default_until_it_is_set(load: Load) -> None:
    module = load("docs/dash.md", "Declare keys")
    app = Flask("app")
    app.secret_key = SECRET_KEY
    UserStoreMiddleware(app)
    with user_store_context(app):
        assert (module.buy("apple"), module.buy("pear"), module.discount.get()) == (1, 2, 0.0)
        module.empty()
        assert (module.cart.get(), module.discount.get()) == ([], 0.1)


def test_behind_nginx_the_cookie_is_secure_when_the_visitor_came_by_https(load: Load) -> None:
    client = load("docs/behind-a-proxy.md", "Behind a proxy").app.test_client()
    assert "; Secure" not in client.get("/count").headers["Set-Cookie"]
    new = load("docs/behind-a-proxy.md", "Behind a proxy").app.test_client()
    assert "; Secure" in new.get("/count", headers={"X-Forwarded-Proto": "https"}).headers["Set-Cookie"]


def test_nginx_takes_its_configuration(tmp_path: Path) -> None:
    [[location]] = blocks("docs/behind-a-proxy.md", "nginx").values()
    configuration = tmp_path / "nginx.conf"
    paths = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration.write_text(
        f"pid {tmp_path}/pid; events {{}} http {{ access_log off; {paths} server {{ {location} }} }}"
    )
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    assert nginx is not None
    command = [nginx, "-t", "-c", str(configuration), "-e", str(tmp_path / "error.log")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_the_container_installs_and_starts_what_there_is_and_sets_what_the_app_reads(
    load: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = "docs/docker.md"
    [[dockerfile]], [[compose]] = blocks(page, "dockerfile").values(), blocks(page, "yaml").values()
    service = yaml.safe_load(compose)["services"]["app"]
    environment = dict(re.findall(r"^ENV (\w+)=(\S+)$", dockerfile, re.MULTILINE))
    assert set(service["environment"]) == {"FLASK_SECRET_KEY"}
    assert [volume.partition(":")[2] for volume in service["volumes"]] == ["/data"]
    assert environment == {"FLASK_USER_STORE_URL": "sqlite:////data/user_store.sqlite"}
    [extra] = re.findall(r"'flask_dash_store\[(\w+)\]'", dockerfile)
    assert extra in EXTRAS
    [command] = re.findall(r"^CMD (.+)$", dockerfile, re.MULTILINE)
    assert Config().parser().parse_args(json.loads(command)[1:]).args == ["app:server"]

    monkeypatch.setenv("FLASK_USER_STORE_URL", environment["FLASK_USER_STORE_URL"].replace("/data", f"{tmp_path}/data"))
    client = load(page, "In Docker").server.test_client()
    assert ["Visit 1" in client.get("/_dash-layout").text, "Visit 2" in client.get("/_dash-layout").text] == [
        True,
        True,
    ]
    assert (tmp_path / "data" / "user_store.sqlite").exists()


@pytest.mark.parametrize("page", ["docs/coming-from-flask-session.md", "docs/coming-from-flask-caching.md"])
def test_who_came_from_another_session_or_cache_has_a_cart(page: str, load: Load) -> None:
    [heading] = blocks(page, "diff")
    ann, ben = (load(page, heading).app.test_client() for _ in range(2))
    assert [ann.post(f"/cart/{item}").json for item in ("apple", "pear")] == [["apple"], ["apple", "pear"]]
    assert ben.post("/cart/plum").json == ["plum"]


@pytest.mark.parametrize("page", ["docs/coming-from-dcc-store.md", "docs/coming-from-serverside.md"])
def test_who_came_from_data_in_the_browser_charts_what_is_on_the_server(page: str, load: Load) -> None:
    [heading] = blocks(page, "diff")
    module = load(page, heading)
    with user_store_context(module.app) as store:
        assert module.load(1) == 1
        assert store["data"].shape == (100_000, 2)
        assert module.chart(1).data[0].type.startswith("scatter")


# Commands that are run


def shell(command: str, folder: Path) -> str:
    """Run a command as a page says it, where ``python`` is the Python that the package is installed in."""
    environ = os.environ | {"SECRET_KEY": SECRET_KEY, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-ec", command], cwd=folder, env=environ, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def command_of(page: str, word: str) -> str:
    codes = [code for under_heading in blocks(page, "sh").values() for code in under_heading]
    [command] = [line for code in codes for line in code.splitlines() if word in line]
    return command


def test_gunicorn_finds_the_app(load: Load, tmp_path: Path) -> None:
    load(README, "Use it with Dash")
    shell(f"{command_of('docs/production.md', 'gunicorn')} --check-config", tmp_path)


def test_the_backup_is_whole_and_private_and_can_be_restored(load: Load, tmp_path: Path) -> None:
    stores = load(README, "Use it with Dash").server.extensions["user_store"]
    stores.for_user("ann")["name"] = "Ann"  # still open, and not yet out of the WAL
    shell(command_of("docs/production.md", "backup backup.sqlite"), tmp_path)
    assert (tmp_path / "backup.sqlite").stat().st_mode & 0o777 == 0o600
    stores.for_user("ann")["name"] = "Anna"
    shell(f"{command_of('docs/production.md', 'restore backup.sqlite')} --yes", tmp_path)
    assert stores.for_user("ann") == {"name": "Ann"}


def test_values_are_signed_with_the_new_key(load: Load, tmp_path: Path) -> None:
    stores = load("docs/rotate-keys.md", "Rotate keys").app.extensions["user_store"]
    stores.for_user("ann")["name"] = "Ann"
    assert shell(
        f"SECRET_KEY=another-of-16-bytes-or-more {command_of('docs/rotate-keys.md', 're-sign')}", tmp_path
    ).endswith("Signed 1 values.\n")


def test_sqlitedict_reads_the_file_as_the_page_says(tmp_path: Path) -> None:
    app, file = Flask("app"), tmp_path / "store.sqlite"
    app.config.update(SECRET_KEY=SECRET_KEY, USER_STORE_URL=f"sqlite:///{file}")
    UserStoreMiddleware(app).for_user("ann")["name"] = "Ann"
    (call,) = re.findall(r"`(SqliteDict\(path[^`]+)`", read("docs/production.md"))
    code = f"from sqlitedict import SqliteDict; path = {str(file)!r}; print(dict({call}))"
    assert shell(f"python -c {shlex.quote(code)}", tmp_path) == "{'u.ann/name': 'Ann'}\n"


def test_the_measurement_runs(tmp_path: Path) -> None:
    assert "1 loop" in shell(command_of("docs/limits.md", "timeit").replace("timeit", "timeit -n 1 -r 1"), tmp_path)


def test_the_table_of_commands_is_complete() -> None:
    named = re.findall(r"^\| `flask user-store ([\w-]+)", read("docs/command-line.md"), re.MULTILINE)
    assert sorted(named) == sorted(command_line.commands)


def test_the_view_of_health_answers_200_while_all_is_well(load: Load) -> None:
    answer = load("docs/operate.md", "Health").app.test_client().get("/health")
    assert (answer.status_code, answer.json["ok"]) == (200, True)


def test_the_view_of_metrics_serves_them_to_prometheus(load: Load) -> None:
    client = load("docs/operate.md", "Metrics").app.test_client()
    client.get("/metrics")
    assert "user_store_operation_duration_seconds_bucket" in client.get("/metrics").text
