"""`flask user-store check` finds what is damaged, and `purge` leaves nothing of what has expired."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlite_file
from clocks import HandClock
from faults import fork_and_exit
from flask import Flask

from flask_dash_store import UserStoreMiddleware

LARGE = "x" * 200_000


class Site:
    def __init__(self, folder: Path, clock: HandClock) -> None:
        self.database = folder / "store.sqlite"
        self.app = Flask("looking_after")
        self.app.secret_key = "k" * 32
        self.stores = UserStoreMiddleware(self.app, url=f"sqlite:///{self.database}", ttl=60, clock=clock)

    def run(self, command: str) -> tuple[int, list[str]]:
        """The exit status of `flask user-store`, and what it prints."""
        result = self.app.test_cli_runner().invoke(args=["user-store", command])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.output.splitlines()

    def execute(self, sql: str) -> None:
        sqlite_file.execute(self.database, sql)

    def bodies(self) -> list[Path]:
        directory = Path(f"{self.database}.buffers")
        return sorted(directory.iterdir()) if directory.exists() else []

    def stored_bytes(self) -> bytes:
        return b"".join(path.read_bytes() for path in self.database.parent.rglob("*") if path.is_file())


@pytest.fixture
def site(tmp_path: Path, clock: HandClock) -> Site:
    site = Site(tmp_path, clock)
    for user in ("ann", "bob"):
        site.stores.for_user(user).update({f"key{n}": f"{user} {n}" * 100 for n in range(50)}, large=LARGE)
    return site


def flip_a_value(site: Site) -> None:
    site.execute("""UPDATE "values" SET value = CAST('!' || substr(value, 2) AS BLOB) WHERE key = 'u.ann/key7'""")


def swap_two_values(site: Site) -> None:
    site.execute("""UPDATE "values" SET value = (SELECT value FROM "values" WHERE key = 'u.bob/key7')
        WHERE key = 'u.ann/key7'""")


def lose_a_body(site: Site) -> None:
    site.bodies()[0].unlink()


def cut_a_body(site: Site) -> None:
    os.truncate(site.bodies()[0], 1000)


def flip_a_body(site: Site) -> None:
    with site.bodies()[0].open("r+b") as file:
        file.seek(100_000)
        file.write(b"!")


def damage_a_page(site: Site) -> None:
    site.stores.purge()  # Now all of it is in the file itself.
    content = site.database.read_bytes()
    with site.database.open("r+b") as file:
        file.seek(content.index(b"ann 7" * 100) // 4096 * 4096)
        file.write(os.urandom(4096))
    fork_and_exit()  # Now no connection has the page in its memory.


DAMAGES: dict[Callable[[Site], None], str] = {
    flip_a_value: "'key7'",
    swap_two_values: "'key7'",
    lose_a_body: "missing or damaged",
    cut_a_body: "missing or damaged",
    flip_a_body: "missing or damaged",
    damage_a_page: "malformed",
}


def test_check_finds_no_damage_where_there_is_none(site: Site) -> None:
    site.stores.for_user("ann")["key7"] = 1
    site.stores.open("a" * 64)["key"] = 1
    site.stores.open("a" * 64).destroy()
    assert site.run("check") == (0, ["No damage found."])


@pytest.mark.parametrize("damage", DAMAGES)
def test_check_finds_damage_and_fails(site: Site, damage: Callable[[Site], None]) -> None:
    damage(site)
    status, lines = site.run("check")
    assert status == 1
    assert DAMAGES[damage] in lines[0]
    assert lines[-1].startswith("Error: Found ")
    assert "ann 7" not in "\n".join(lines)


def test_check_finds_all_that_is_damaged(site: Site) -> None:
    flip_a_value(site)
    lose_a_body(site)
    site.execute("""UPDATE "values" SET value = x'00' WHERE key = 'u.bob/key8'""")
    status, lines = site.run("check")
    assert (status, lines[-1]) == (1, "Error: Found 3 problems.")


def test_check_tells_no_session_id_and_no_value(site: Site) -> None:
    session_id = "s" * 64
    site.stores.open(session_id)["key"] = "topsecret"
    site.execute("UPDATE \"values\" SET value = CAST(value || 'x' AS BLOB) WHERE key LIKE 's.%'")
    status, lines = site.run("check")
    assert (status, len(lines)) == (1, 2)
    assert session_id not in lines[0]
    assert "topsecret" not in lines[0]


def test_purge_leaves_nothing_of_what_has_expired(site: Site, clock: HandClock) -> None:
    for n in range(3):
        site.stores.open(f"{n}" * 64).update(small="topsecret" * 50, large="topsecret" * 50_000)
    site.stores.for_user("ann").set("passing", "topsecret", ttl=10)
    assert b"topsecret" in site.stored_bytes()
    assert len(site.bodies()) == 5
    clock.step(61)
    assert site.run("purge") == (0, ["Removed 3 expired sessions and users."])
    assert b"topsecret" not in site.stored_bytes()
    assert len(site.bodies()) == 2
    assert len(site.stores.for_user("ann")) == 51
