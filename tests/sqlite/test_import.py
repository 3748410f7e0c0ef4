"""`flask user-store import` brings in what the package dash_database wrote: rows `{user_id}_{key}` of one table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw
import pandas as pd
import pytest
from click.testing import Result
from flask import Flask
from sqlitedict import SqliteDict

from flask_dash_store import UserStoreMiddleware
from flask_dash_store.codec import BUFFER_THRESHOLD

FRAME = pd.DataFrame({"number": range(50_000), "text": [f"row {n}" for n in range(50_000)]})


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return tmp_path / "old.sqlite"


def fill(old: Path, rows: dict[str, Any]) -> None:
    """Write as dash_database does."""
    with SqliteDict(str(old), autocommit=True) as database:
        for name, value in rows.items():
            database[name] = value


class App:
    def __init__(self, url: str, **options: Any) -> None:
        self.flask = Flask("importing")
        self.flask.secret_key = "k" * 32
        self.stores = UserStoreMiddleware(self.flask, url=url, **options)

    def run(self, *args: object) -> Result:
        result = self.flask.test_cli_runner().invoke(args=["user-store", "import", *map(str, args)])
        assert "Traceback" not in result.output
        assert isinstance(result.exception, (SystemExit, type(None))), result.exception
        return result

    def of(self, user_id: str | int) -> dict[str, Any]:
        return self.stores.for_user(user_id).copy()


@pytest.fixture
def app(url: str) -> App:
    return App(url)


def test_values_become_those_of_their_users_in_the_order_of_their_rows(app: App, old: Path) -> None:
    fill(old, {"123_animal": "monkey", "7_code": [1], "123_a key": None, "ann@example.com_ü": {"x": 1}})
    result = app.run(old)
    assert (result.exit_code, result.output) == (0, "Imported 4 values.\n")
    assert list(app.of(123).items()) == [("animal", "monkey"), ("a key", None)]
    assert (app.of(7), app.of("ann@example.com")) == ({"code": [1]}, {"ü": {"x": 1}})
    assert app.stores.for_user(123).expires_at is None


def test_large_values_come_back_equal(app: App, old: Path) -> None:
    text = "é" * BUFFER_THRESHOLD
    fill(old, {"1_frame": FRAME, "1_text": text})
    assert app.run(old).exit_code == 0
    values = app.of(1)
    pd.testing.assert_frame_equal(values.pop("frame"), FRAME)
    assert values == {"text": text}


def test_what_is_there_already_is_replaced_and_the_rest_is_left(app: App, old: Path) -> None:
    app.stores.for_user(1).update(a="now", b="now")
    fill(old, {"1_a": "old"})
    for _ in range(2):
        assert app.run(old).exit_code == 0
        assert app.of(1) == {"a": "old", "b": "now"}


def test_names_with_several_readings_are_listed_and_left_out(app: App, old: Path) -> None:
    fill(old, {"1_a": 1, "1_2_b": 2, "nothing": 3})
    result = app.run(old)
    assert result.exit_code == 1
    assert app.of(1) == {"a": 1}
    left = [line for line in result.output.splitlines() if line.startswith("Left out")]
    assert [line.split("'")[1] for line in left] == ["1_2_b", "nothing"]
    assert all("--user-ids" in line for line in left)
    assert result.output.splitlines()[-1] == "Error: 2 values were left out."
    assert "Imported 1 values." in result.output


def test_the_user_ids_tell_how_a_name_is_read(app: App, old: Path, tmp_path: Path) -> None:
    fill(old, {"1_a": 1, "1_2_b": 2, "1_b_c": 3, "user_9_a": 4})
    ids = tmp_path / "ids"
    ids.write_text("1\n1_2\n\n user_9 \n")
    result = app.run(old, "--user-ids", ids)
    assert (result.exit_code, result.output) == (0, "Imported 4 values.\n")
    assert (app.of(1), app.of("1_2"), app.of("user_9")) == ({"a": 1, "b_c": 3}, {"b": 2}, {"a": 4})


def test_keys_that_a_store_refuses_are_named_and_left_out(app: App, old: Path) -> None:
    fill(old, {"1_": 0, "1_a/b": 1, "1_100%": 2, f"1_{'k' * 513}": 3, f"{'u' * 513}_k": 4, "1_good": 5})
    result = app.run(old)
    assert (result.exit_code, app.of(1)) == (1, {"good": 5})
    for name in ("'1_'", "'1_a/b'", "'1_100%'", "kkk'", "uuu_k'"):
        assert name in result.output
    assert result.output.splitlines()[-1] == "Error: 5 values were left out."


def test_a_file_that_dash_database_did_not_write_is_an_error_that_names_it(tmp_path: Path) -> None:
    app = App(f"sqlite:///{tmp_path}/store.sqlite")
    with SqliteDict(str(tmp_path / "other.sqlite"), tablename="other", autocommit=True) as other:
        other["1_a"] = 1
    (tmp_path / "text").write_text("no database at all, but a text of some length" * 100)
    for name in ("other.sqlite", "text", "not there"):
        result = app.run(tmp_path / name)
        assert result.exit_code != 0
        assert name in result.output


def test_an_app_that_reads_no_pickles_takes_none(old: Path, tmp_path: Path) -> None:
    fill(old, {"1_a": 1})
    app = App(f"sqlite:///{tmp_path}/store.sqlite", codec="json")
    result = app.run(old)
    assert (result.exit_code, app.of(1)) == (1, {})
    assert "USER_STORE_CODEC" in result.output


def test_a_value_beyond_the_limits_is_named(old: Path, tmp_path: Path) -> None:
    fill(old, {"1_a": "a" * 5000})
    result = App(f"sqlite:///{tmp_path}/store.sqlite", max_bytes=2000).run(old)
    assert result.exit_code == 1
    assert "'a'" in result.output
    assert "USER_STORE_MAX_BYTES" in result.output


def test_a_row_that_holds_no_pickle_costs_itself_alone(old: Path, tmp_path: Path) -> None:
    fill(old, {"1_a": 1, "1_b": 2, "1_c": 3})
    connection = apsw.Connection(str(old))
    connection.execute("UPDATE unnamed SET value = 'a text' WHERE key = '1_b'")
    connection.close()
    app = App(f"sqlite:///{tmp_path}/store.sqlite")
    result = app.run(old)
    assert (result.exit_code, app.of(1)) == (1, {"a": 1, "c": 3})
    assert "'1_b'" in result.output
