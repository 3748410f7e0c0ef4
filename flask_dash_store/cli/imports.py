"""``flask user-store import``: imports from dash_database and Flask-Session."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import click
from flask import current_app
from flask.cli import with_appcontext

from ..apps.inheritance import key_prefix
from ..codec import PickleCodec
from ..errors import InvalidKey, QuotaExceeded, TooManyKeys, UnreadableValue, UnstorableValue, ValueTooLarge
from ..owner import check_key, user_owner
from ..storage.sqlite import dash_database_file
from . import flask_session_source
from .app import fail, opened_extension
from .flask_session_source import FoundSession
from .output import json_option, say_json


class _Source(click.Path):
    """An existing file or folder, or a URL."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if "://" in value else super().convert(value, param, ctx)


@click.command("import")
@click.argument("source", type=_Source(path_type=Path, exists=True))
@click.option("--user-ids", type=click.File(), help="dash_database: a file with the user ids, one a line.")
@click.option("--allow-pickle", is_flag=True, help="Flask-Session: read pickles, too, which runs the code in them.")
@json_option
@with_appcontext
def import_command(source: Path | str, user_ids: TextIO | None, allow_pickle: bool, as_json: bool) -> None:
    """Import what another package has stored.

    SOURCE is a file of dash_database, or the place of Flask-Session's sessions: a redis://… URL, or the folder of its
    files.

    The values of dash_database become those of `for_user(user_id)`. Its rows are named {user_id}_{key}. If user ids or
    keys contain a "_", list the ids with --user-ids. The values are pickles, which run code when the app reads them, so
    only import files that you trust.

    The sessions of Flask-Session keep the cookies that browsers have, so no visitor is logged out. Leave
    SESSION_KEY_PREFIX and SESSION_USE_SIGNER in the app's config. Stop the app, import, and start it with
    flask_session=True. Sessions that were imported before are not changed. Files are pickles, and so is what versions
    before 0.7 stored in Redis. With --allow-pickle, anyone who can write to them can run code in this process.
    """
    if isinstance(source, Path) and source.is_file():
        _import_values(source, user_ids, as_json)
    else:
        _import_sessions(source, allow_pickle, as_json)


def _import_values(file: Path, user_ids: TextIO | None, as_json: bool) -> None:
    extension = opened_extension(needs_key=True)
    codec, storage = extension.codec, extension.storage
    if not isinstance(codec, PickleCodec):
        fail("dash_database's values are pickles, which an app with USER_STORE_CODEC = 'json' cannot read.")
    imported, left_out = 0, list[tuple[str, str]]()
    for row in dash_database_file.read(file, (line.strip() for line in user_ids or () if line.strip())):
        try:
            owner, key, pickled = user_owner(_known(row.user_id)), check_key(row.key), _pickle(row.pickled)
            storage.set(owner, key, codec.adopt(owner.name, key, pickled), extension.access_of_users())
            imported += 1
        except (InvalidKey, UnreadableValue, QuotaExceeded, TooManyKeys, ValueTooLarge) as error:
            left_out.append((row.name, str(error)))
    if as_json:
        say_json({"imported": imported, "left_out": [{"row": row, "reason": reason} for row, reason in left_out]})
    else:
        for row_name, reason in left_out:
            click.echo(f"Left out {row_name!r}: {reason}")
        click.echo(f"Imported {imported} values.")
    if left_out:
        fail(f"{len(left_out)} values were left out.")


def _known(user_id: str | None) -> str:
    if user_id is None:
        raise InvalidKey("its name does not show where the user id ends; list the ids with --user-ids.")
    return user_id


def _pickle(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise UnreadableValue("it is not a pickle.")
    return value


def _import_sessions(source: Path | str, allow_pickle: bool, as_json: bool) -> None:
    extension = opened_extension()
    if not extension.settings.flask_session:
        fail("Imported sessions need flask.session in the store: set USER_STORE_FLASK_SESSION (flask_session=True).")
    now = extension.now()
    imported, there, left_out = 0, 0, Counter[str]()
    for found in _sessions(source, allow_pickle, now):
        try:
            values = flask_session_source.load(found.payload, allow_pickle)
            is_new = extension.imported_sessions.add(found.name, values, found.expires)
        except (InvalidKey, UnreadableValue, UnstorableValue, QuotaExceeded, ValueTooLarge) as error:
            left_out[str(error)] += 1
        else:
            imported, there = imported + is_new, there + (not is_new)
    if as_json:
        say_json({"imported": imported, "there_already": there, "left_out": left_out})
    else:
        click.echo(f"Imported {imported} sessions; {there} were there already.")
        for reason, number in left_out.items():
            click.echo(f"Left out {number}: {reason}")
    if left_out:
        fail(f"{left_out.total()} sessions were left out, and their visitors begin new ones.")


def _sessions(source: Path | str, allow_pickle: bool, now: float) -> Iterator[FoundSession]:
    if isinstance(source, str):
        return flask_session_source.in_redis(source, key_prefix(current_app), now)
    if not allow_pickle:
        fail(
            "Flask-Session's files are pickles, and reading a pickle runs the code in it. If only the app can write to "
            f"{source}, use --allow-pickle."
        )
    return flask_session_source.in_files(source, now)
