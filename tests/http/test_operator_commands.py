"""`flask user-store stats`, `list`, `show` and `end` tell how much there is and whose it is, but no value or secret."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw
import pytest
from clocks import HandClock
from flask import Flask, g
from flask.testing import FlaskClient
from sqlitedict import SqliteDict

from flask_dash_store import UserStoreMiddleware, visitor
from flask_dash_store.storage.sqlite import schema
from flask_dash_store.wording import size

SECRET_KEY = "k" * 32
ROOT = Path(__file__).parents[2]
TIMEOUT = 60


class Site:
    """An app with visitors, and its command."""

    def __init__(self, url: str, clock: HandClock) -> None:
        self.app = Flask("operated")
        self.app.secret_key = SECRET_KEY
        self.stores = UserStoreMiddleware(self.app, url=url, ttl=3600, clock=clock)
        self.app.add_url_rule("/put/<key>/<value>", "put", self.put)
        self.app.add_url_rule("/log-in/<user>", "log_in", lambda user: g.user_store.regenerate(user_id=user) or "")
        self.app.add_url_rule("/keys", "keys", lambda: list(g.user_store))
        self.app.add_url_rule("/visitor", "visitor", visitor)

    def put(self, key: str, value: str) -> str:
        g.user_store[key] = value
        return ""

    def visitor(self, **values: str) -> FlaskClient:
        client = self.app.test_client()
        for key, value in values.items():
            client.get(f"/put/{key}/{value}")
        return client

    def fails(self, *args: str) -> str:
        """What a command that cannot go on says."""
        result = self.app.test_cli_runner().invoke(args=["user-store", *args])
        assert result.exit_code == 1, result.output
        return result.output

    def run(self, *args: str) -> str:
        result = self.app.test_cli_runner().invoke(args=["user-store", *args])
        assert result.exit_code == 0, result.output
        return result.output

    def json(self, *args: str) -> Any:
        return json.loads(self.run(*args, "--json"))

    @property
    def names(self) -> list[str]:
        """The names of the sessions, oldest first."""
        return [info["name"] for info in self.json("list", "--sort", "oldest")]


@pytest.fixture
def site(url: str, clock: HandClock) -> Site:
    return Site(url, clock)


@pytest.fixture
def on_sqlite(tmp_path: Path, clock: HandClock) -> Site:
    return Site(f"sqlite:///{tmp_path}/store.sqlite", clock)


def test_stats_say_how_many_sessions_and_users_there_are_and_which_is_the_largest(site: Site, clock: HandClock) -> None:
    began = clock.now
    site.visitor(a="1", b="2")
    clock.step(1)
    site.visitor(a="x" * 1000)
    site.stores.for_user("ann")["cart"] = [1, 2]
    stats = site.json("stats")
    assert (stats["sessions"], stats["users"], stats["keys"]) == (2, 1, 4)
    assert (stats["at"], stats["oldest"], stats["began_last_hour"]) == (clock.now, began, 2)
    assert stats["largest"][0]["name"] == site.names[1]
    assert sum(info["bytes"] for info in stats["largest"]) == stats["bytes"]
    assert set(stats["space"]) == {"used", "free", "log"}
    text = site.run("stats")
    assert "Sessions  2\n" in text
    assert site.names[1] in text


def test_stats_of_an_empty_store_are_zeros(site: Site) -> None:
    assert (site.json("stats")["sessions"], site.json("stats")["largest"], site.json("list")) == (0, [], [])
    assert "Sessions  0\n" in site.run("stats")
    assert site.run("list") == "There are no sessions.\n"


def test_sessions_and_users_are_listed_in_the_order_that_is_asked_for(on_sqlite: Site, clock: HandClock) -> None:
    for number in range(3):
        on_sqlite.visitor(key="x" * 100 * (3 - number))
        clock.step(1)
    on_sqlite.stores.for_user("ann / bob")["cart"] = 1
    oldest = on_sqlite.names
    assert [info["name"] for info in on_sqlite.json("list", "--sort", "largest")] == oldest
    assert [info["name"] for info in on_sqlite.json("list", "--limit", "2")] == [oldest[2], oldest[1]]
    assert [info["name"] for info in on_sqlite.json("list", "--users")] == ["u.ann%20%2F%20bob"]
    [head, *lines] = on_sqlite.run("list", "--sort", "oldest").splitlines()
    assert head.split() == ["Name", "Began", "Expires", "Bytes", "Keys"]
    assert [line.split()[0] for line in lines] == oldest


def test_a_list_of_more_than_a_page_says_which_they_are(on_sqlite: Site, clock: HandClock) -> None:
    for _ in range(5):
        on_sqlite.visitor(key="value")
        clock.step(1)
    names = on_sqlite.names
    page = ("--sort", "oldest", "--limit", "2", "--offset", "2")
    assert [info["name"] for info in on_sqlite.json("list", *page)] == names[2:4]
    [_, *lines, where] = on_sqlite.run("list", *page).splitlines()
    assert ([line.split()[0] for line in lines], where) == (names[2:4], "3-4 of 5")
    assert "of 5" not in on_sqlite.run("list", "--limit", "5")
    assert "There are 5" in on_sqlite.run("list", "--offset", "5")


def test_a_list_of_none_says_so(on_sqlite: Site) -> None:
    assert on_sqlite.run("list") == "There are no sessions.\n"
    on_sqlite.visitor(key="value")
    assert on_sqlite.run("list", "--users") == "There are no users with values.\n"
    assert on_sqlite.run("list", "--search", "zz zz") == "There are no sessions with 'zz zz' in their name.\n"
    assert on_sqlite.json("list", "--users") == []


def test_a_list_can_be_searched(on_sqlite: Site) -> None:
    for user in ("ann@example.com", "bob@example.com", "user 40"):
        on_sqlite.stores.for_user(user)["cart"] = 1
        client = on_sqlite.visitor(key="value")
        client.get("/log-in/ann")
    assert [info["name"] for info in on_sqlite.json("list", "--users", "--search", "ANN@")] == ["u.ann%40example.com"]
    assert [info["name"] for info in on_sqlite.json("list", "--users", "--search", "40")] == ["u.user%2040"]
    [name, *_] = on_sqlite.names
    assert [info["name"] for info in on_sqlite.json("list", "--search", name)] == [name]
    assert [info["name"] for info in on_sqlite.json("list", "--user", "ann", "--search", name)] == [name]
    assert len(on_sqlite.json("list", "--user", "ann", "--offset", "1")) == 2


def test_the_sessions_in_which_a_user_is_logged_in_are_listed(site: Site) -> None:
    clients = [site.visitor(key="value") for _ in range(3)]
    assert len(site.names) == 3
    for client in clients[1:]:
        client.get("/log-in/ann")
    listed = site.json("list", "--user", "ann")
    assert {info["name"] for info in listed} < set(site.names)
    assert [info["keys"] for info in listed] == [1, 1]
    assert site.json("list", "--user", "bob") == []


def test_show_tells_keys_and_sizes_but_no_value_and_no_session_id(site: Site, clock: HandClock) -> None:
    client = site.visitor(cart="topsecret")
    cookie = client.get_cookie("user_store")
    assert cookie is not None
    [name] = site.names
    shown = site.json("show", name)
    [key] = shown["keys"]
    assert (shown["name"], shown["expires"], key["key"]) == (name, clock.now + 3600, "cart")
    assert (key["bytes"], key["expires"], key["large"]) == (shown["bytes"], None, False)
    said = site.run("show", name) + json.dumps(shown) + site.run("list") + site.run("stats")
    assert "'cart'" in said
    assert "topsecret" not in said
    assert cookie.value.split(".")[0] not in said
    assert cookie.value[22:64] not in said


def test_show_finds_a_user_and_what_visitor_names(site: Site) -> None:
    site.stores.for_user("ann / bob").set("cart", 1, ttl=60)
    client = site.visitor(key="value")
    site.visitor(other="value")
    assert site.json("show", "--user", "ann / bob") == site.json("show", "u.ann%20%2F%20bob")
    assert site.json("show", "--user", "ann / bob")["expires"] is None
    assert [key["key"] for key in site.json("show", client.get("/visitor").text)["keys"]] == ["key"]


def test_to_look_at_a_session_keeps_it_alive_no_longer(site: Site, clock: HandClock) -> None:
    site.visitor(key="value")
    [name] = site.names
    clock.step(3000)
    site.run("show", name)
    site.run("stats")
    clock.step(601)
    assert site.json("list") == []
    assert "Nothing is stored for" in site.fails("show", name)


def test_a_name_that_there_is_not_is_an_error(site: Site) -> None:
    for name in ("s.AAAAAAAAAAAAAAAAAAAA", "A" * 22, "nonsense"):
        assert "`flask user-store list`" in site.fails("show", name)
        assert "`flask user-store list`" in site.fails("end", name)
    assert site.json("stats")["ended"] == 0
    assert site.app.test_cli_runner().invoke(args=["user-store", "show"]).exit_code == 2


def test_end_logs_one_visitor_out_and_no_other(site: Site) -> None:
    client, other = site.visitor(key="value"), site.visitor(other="value")
    name = site.json("show", client.get("/visitor").text)["name"]
    assert site.json("end", name) == {"ended": 1}
    assert (client.get("/keys").json, other.get("/keys").json) == ([], ["other"])
    assert "ended on" in site.fails("end", name)
    assert "ended on" in site.fails("show", name)
    assert site.json("stats")["ended"] == 1


def test_end_logs_a_user_out_everywhere_and_leaves_what_is_stored_for_the_user(site: Site) -> None:
    clients = [site.visitor(key="value") for _ in range(3)]
    for client in clients[1:]:
        client.get("/log-in/ann")
    site.stores.for_user("ann")["cart"] = 1
    assert site.run("end", "--user", "ann") == "Ended 2 sessions.\n"
    assert [client.get("/keys").json for client in clients] == [["key"], [], []]
    assert site.stores.for_user("ann") == {"cart": 1}
    assert site.json("end", "u.ann") == {"ended": 0}


def test_stats_and_lists_look_at_no_value(on_sqlite: Site, tmp_path: Path) -> None:
    on_sqlite.visitor(key="value")
    args = {
        "now": 1.0,
        "hour": 1.0,
        "day": 1.0,
        "prefix": "",
        "end": "z",
        "name": "",
        "part": "",
        "limit": 5,
        "offset": 5,
    }
    connection = apsw.Connection(str(tmp_path / "store.sqlite"))
    for query in (schema.TOTALS, schema.LARGEST, *schema.FIRST_PAGES.values(), *schema.SORTED_PAGES.values()):
        plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}", args))
        assert "sessions" in plan
        assert "values" not in plan
    connection.close()


@pytest.mark.parametrize(
    ("nbytes", "text"),
    {
        0: "0 bytes", 999: "999 bytes", 1000: "1 kB", 1234: "1.23 kB", 99_960: "100 kB", 999_400: "999 kB",
        999_600: "1 MB", 10**9: "1 GB", 5 * 10**15: "5,000 TB",
    }.items(),
)  # fmt: skip
def test_bytes_are_shown_with_three_digits(nbytes: int, text: str) -> None:
    assert size(nbytes) == text


# Answers for programs


def test_each_command_that_reports_answers_in_json(on_sqlite: Site, tmp_path: Path, clock: HandClock) -> None:
    on_sqlite.visitor(key="value")
    assert on_sqlite.json("check") == {"problems": []}
    copy = str(tmp_path / "copy")
    assert on_sqlite.json("backup", copy) == {"file": copy, "left_out": []}
    assert on_sqlite.json("re-sign") == {"signed": 0, "left_out": []}
    urls = f"sqlite:///{tmp_path}/store.sqlite", f"sqlite:///{tmp_path}/other.sqlite"
    assert on_sqlite.json("copy", *urls) == {"copied": 1, "there_already": 0, "left_out": []}
    file = tmp_path / "dash_database.sqlite"
    SqliteDict(str(file), autocommit=True).close()
    assert on_sqlite.json("import", str(file)) == {"imported": 0, "left_out": []}
    clock.step(3601)
    assert on_sqlite.json("purge") == {"removed": 1}


def test_damage_is_reported_in_json_with_an_exit_status(on_sqlite: Site, tmp_path: Path) -> None:
    on_sqlite.visitor(key="value")
    connection = apsw.Connection(str(tmp_path / "store.sqlite"))
    connection.execute("UPDATE \"values\" SET value = CAST(value || 'x' AS BLOB)")
    connection.close()
    result = on_sqlite.app.test_cli_runner().invoke(args=["user-store", "check", "--json"])
    assert result.exit_code == 1
    assert len(json.loads(result.stdout)["problems"]) == 1


# Backups


def test_a_backup_makes_no_directories(on_sqlite: Site, tmp_path: Path) -> None:
    on_sqlite.visitor(key="value")
    assert f"The directory {tmp_path}/mistyped of the backup does not exist" in on_sqlite.fails(
        "backup", str(tmp_path / "mistyped" / "copy")
    )
    assert not (tmp_path / "mistyped").exists()


def test_a_restore_looks_at_the_backup_before_it_asks(on_sqlite: Site, tmp_path: Path) -> None:
    client = on_sqlite.visitor(key="value")
    on_sqlite.stores.for_user("ann")["cart"] = 1
    copy = tmp_path / "copy"
    on_sqlite.run("backup", str(copy))
    on_sqlite.visitor(key="value")
    runner = on_sqlite.app.test_cli_runner()
    refused = runner.invoke(args=["user-store", "restore", str(copy)], input="n\n")
    assert refused.exit_code == 1
    assert f"{copy} holds 1 session and 1 user that are live.\nNow there are 2 sessions and 1 user.\n" in refused.output
    assert len(on_sqlite.names) == 2
    assert runner.invoke(args=["user-store", "restore", str(copy)], input="y\n").exit_code == 0
    assert (len(on_sqlite.names), client.get("/keys").json) == (1, ["key"])
    copy.write_bytes(b"no database" * 1000)
    for missing in (copy, tmp_path / "none"):
        assert "Replace all" not in on_sqlite.fails("restore", str(missing))


# Commands in a process of their own


def python(folder: Path, *args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *args], cwd=folder, env=os.environ | environ, capture_output=True, text=True,
        timeout=TIMEOUT, check=False,
    )  # fmt: skip


def on_terminal(folder: Path, *args: str, **environ: str) -> str:
    """What a command shows on a terminal."""
    terminal, theirs = pty.openpty()
    command = [sys.executable, "-m", *args]
    environ = os.environ | {"TERM": "xterm"} | environ
    with subprocess.Popen(command, cwd=folder, env=environ, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # On Linux that is how the end is told.
            while part := os.read(terminal, 4096):
                shown += part
        assert process.wait(TIMEOUT) == 0, shown
    os.close(terminal)
    return shown.decode()


def test_a_store_is_looked_after_by_its_url_without_the_app(on_sqlite: Site, tmp_path: Path) -> None:
    client = on_sqlite.visitor(key="value")
    url = "sqlite:///store.sqlite"
    stats = python(tmp_path, "flask_dash_store", url, "stats", "--json")
    assert json.loads(stats.stdout)["sessions"] == 0, "It has expired by the clock of the system."
    assert "FLASK_SECRET_KEY" in python(tmp_path, "flask_dash_store", url, "check").stderr
    checked = python(tmp_path, "flask_dash_store", url, "check", FLASK_SECRET_KEY=SECRET_KEY)
    assert checked.stdout == "No damage found.\n"
    missing = python(tmp_path, "flask_dash_store", "sqlite:///mistyped.sqlite", "stats")
    assert (missing.returncode, "does not exist" in missing.stderr) == (1, True)
    listed = python(tmp_path, "flask_dash_store", "sqlite:///mistyped.sqlite", "--help")
    assert (listed.returncode, "re-sign" in listed.stdout) == (0, True)
    assert not (tmp_path / "mistyped.sqlite").exists()
    assert client.get("/keys").json == ["key"]


def test_a_bar_shows_on_a_terminal_how_far_a_backup_a_check_a_restore_and_a_purge_are(
    on_sqlite: Site, tmp_path: Path
) -> None:
    on_sqlite.visitor(key="value", large="x" * 1000)
    on_sqlite.stores.for_user("ann")["large"] = "x" * 200_000
    run = ("flask_dash_store", "sqlite:///store.sqlite")
    for command, label in {
        ("backup", "copy"): "Backing up",
        ("check",): "Checking",
        ("restore", "copy", "--yes"): "Restoring",
        ("purge",): "Removing",
    }.items():
        shown = on_terminal(tmp_path, *run, *command, FLASK_SECRET_KEY=SECRET_KEY)
        assert label in shown
        assert "100%" in shown


def test_the_commands_are_found_in_an_app_without_the_middleware_and_say_what_to_do(tmp_path: Path) -> None:
    entry_points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["flask.commands"]
    installed = tmp_path / "site" / "flask_dash_store_commands-1.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: flask_dash_store_commands\nVersion: 1\n")
    (installed / "entry_points.txt").write_text(
        "\n".join(["[flask.commands]", *(f"{name} = {target}" for name, target in entry_points.items())])
    )
    (tmp_path / "bare.py").write_text("from flask import Flask\napp = Flask('bare')\n")
    path = os.pathsep.join([str(installed.parent), str(ROOT)])
    done = python(tmp_path, "flask", "--app", "bare", "user-store", "stats", PYTHONPATH=path)
    assert done.returncode == 1
    assert "The app 'bare' has no user store. Install UserStoreMiddleware on it" in done.stderr
