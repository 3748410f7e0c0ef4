"""``flask user-store ...``: looking after an app's storage, while the app runs or while it does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import click
from flask import current_app
from flask.cli import with_appcontext

from .codec import Codec
from .errors import StorageCorrupt, TamperedValue, UserStoreError
from .installation import EXTENSION, Installation
from .storage import Storage
from .storage.sqlite import SqliteStorage


class _Group(click.Group):
    """Shows what goes wrong as a message, not as a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserStoreError as error:
            raise click.ClickException(str(error)) from error


@click.group("user-store", cls=_Group)
def user_store() -> None:
    """Look after the visitors' stores."""


@user_store.command()
@with_appcontext
def purge() -> None:
    """Remove all that has expired, and give its space back.

    The app does so by itself, a little at a time.
    """
    removed = _installation().wsgi.housekeeping.run_to_the_end()
    click.echo(f"Removed {removed} expired sessions and users.")


@user_store.command()
@with_appcontext
def check() -> None:
    """Look for damage: in the storage, and in each value.

    Every value's MAC is verified; none is unpickled. The exit status is 1 when anything is damaged.
    """
    installation = _installation()
    found = 0
    for problem in _problems(installation.storage, installation.codec):
        click.echo(problem)
        found += 1
    if found:
        _fail(f"Found {found} problems.")
    click.echo("No damage found.")


@user_store.command()
@click.argument("file", type=click.Path(path_type=Path))
@with_appcontext
def backup(file: Path) -> None:
    """Copy all that is stored into a new FILE, and FILE.buffers for large values.

    The app goes on meanwhile; the copy is of one point in time.
    """
    _sqlite_storage("backup").back_up(file)
    click.echo(f"Backed up to {file}.")


@user_store.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.confirmation_option(prompt="Replace all that is stored now?")
@with_appcontext
def restore(file: Path) -> None:
    """Put what a backup FILE holds in the place of all that is stored now.

    The app may go on meanwhile. Who has logged out since the backup stays logged out.
    """
    _sqlite_storage("restore").restore(file)
    click.echo(f"Restored from {file}.")


def _problems(storage: Storage, codec: Codec) -> Iterator[str]:
    yield from storage.problems()
    for owner in storage.everyone():
        with suppress(StorageCorrupt):  # That was said already.
            yield from _tampered_values(storage, codec, owner)


def _tampered_values(storage: Storage, codec: Codec, owner: str) -> Iterator[str]:
    dump = storage.dump(owner)
    for key, (payload, _), _ in dump.values if dump else ():
        try:
            codec.reseal(owner, owner, key, payload)
        except TamperedValue as error:
            yield str(error)


def _installation() -> Installation:
    installation = current_app.extensions.get(EXTENSION)
    if not isinstance(installation, Installation):
        _fail("This app has no user store: UserStoreMiddleware is not installed on it.")
    return installation


def _sqlite_storage(command: str) -> SqliteStorage:
    storage = _installation().storage
    if not isinstance(storage, SqliteStorage):
        _fail(f"{command} is for SQLite files; the server that keeps this app's store has its own tools for it.")
    return storage


def _fail(message: str) -> NoReturn:
    raise click.ClickException(message)
