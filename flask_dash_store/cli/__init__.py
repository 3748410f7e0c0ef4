"""``flask user-store ...``: commands for operators, whether the app is running or not."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import click
from flask.cli import with_appcontext

from .. import operations
from ..errors import SessionEnded, StorageCorrupt, TamperedValue, UnreadableValue, UserStoreError
from ..extension import OpenedExtension
from ..owner import Owner
from ..storage.base import ENDED, SupportsBackup, SupportsExport
from ..storage.statistics import SupportsStatistics
from ..transfer import copy
from ..wording import count
from .app import fail, opened_extension
from .imports import import_command
from .output import json_option, progress_bar, say_json
from .statistics import end_command, list_command, show_command, stats_command


class _Group(click.Group):
    """Shows the package's errors as messages, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserStoreError as error:
            raise click.ClickException(str(error)) from error


@click.group("user-store", cls=_Group)
def user_store() -> None:
    """Manage the visitors' stores."""


for _command in (import_command, stats_command, list_command, show_command, end_command):
    user_store.add_command(_command)


@user_store.command()
@json_option
@with_appcontext
def purge(as_json: bool) -> None:
    """Remove everything that has expired, and free its space.

    The app also does this by itself, a little at a time.
    """
    with progress_bar("Removing") as progress:
        removed = operations.purge(opened_extension(), progress)
    if as_json:
        say_json({"removed": removed})
    else:
        click.echo(f"Removed {removed} expired sessions and users.")


@user_store.command()
@json_option
@with_appcontext
def check(as_json: bool) -> None:
    """Look for damage in the storage, and in each value.

    Every value's MAC is verified; no value is unpickled. The exit status is 1 if anything is damaged.
    """
    extension = opened_extension(needs_key=True)
    with progress_bar("Checking") as progress:
        problems = list(operations.problems(_exportable(extension.storage), extension.codec, progress))
    if as_json:
        say_json({"problems": problems})
    for problem in () if as_json else problems:
        click.echo(problem)
    if problems:
        fail(f"Found {len(problems)} problems.")
    if not as_json:
        click.echo("No damage found.")


@user_store.command()
@click.argument("file", type=click.Path(path_type=Path))
@json_option
@with_appcontext
def backup(file: Path, as_json: bool) -> None:
    """Copy everything that is stored into a new FILE.

    Large values are copied into FILE.buffers. The app may run meanwhile; the copy is of one point in time. The
    directory of FILE must exist.
    """
    with progress_bar("Backing up") as progress:
        damaged = _storage_with_backups("backup").back_up(file, progress)
    left_out = [(owner, key) for owner, _, key in (value.partition("/") for value in damaged)]
    if as_json:
        say_json({"file": str(file), "left_out": _as_dicts(left_out)})
    else:
        click.echo(f"Backed up to {file}.")
    _say_left_out(left_out, quietly=as_json)


@user_store.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--yes", is_flag=True, help="Do not ask.")
@with_appcontext
def restore(file: Path, yes: bool) -> None:
    """Replace everything that is stored by the contents of a backup FILE.

    It checks that the backup is complete, says what it contains, and asks for confirmation. The app may run meanwhile.
    Sessions that have ended since the backup stay ended.
    """
    storage = _storage_with_backups("restore")
    if not yes:
        now = opened_extension().now()
        held = storage.inspect_backup(file, now)
        click.echo(f"{file} holds {count(held.sessions, 'session')} and {count(held.users, 'user')} that are live.")
        if isinstance(storage, SupportsStatistics):
            there = storage.totals(now)
            click.echo(f"Now there are {count(there.sessions, 'session')} and {count(there.users, 'user')}.")
        click.confirm("Replace all that is stored now?", abort=True)
    with progress_bar("Restoring") as progress:
        storage.restore(file, progress)
    click.echo(f"Restored from {file}.")


@user_store.command("copy")
@click.argument("from_url")
@click.argument("to_url")
@json_option
@with_appcontext
def copy_command(from_url: str, to_url: str, as_json: bool) -> None:
    """Copy everything from the storage FROM_URL into the storage TO_URL.

    Both are URLs as in USER_STORE_URL. Each copy is read and compared; no value is unpickled. An interrupted copy
    continues where it stopped. To move an app with little downtime, copy while it runs, stop it, copy again, and start
    it with the new URL.
    """
    extension = opened_extension()
    with (
        closing(extension.open_storage(from_url, must_exist=True)) as source,
        closing(extension.open_storage(to_url)) as target,
    ):
        owners, left_out = list(_exportable(source).all_owners()), list[tuple[str, str]]()
        steps = copy(owners, _exportable(source), _exportable(target), lambda owner, key: left_out.append((owner, key)))
        copied = 0
        with progress_bar("Copying") as progress:
            for number, was_copied in enumerate(steps, 1):
                copied += was_copied
                progress(number, len(owners))
    if as_json:
        say_json({"copied": copied, "there_already": len(owners) - copied, "left_out": _as_dicts(left_out)})
    else:
        click.echo(f"Copied {copied} sessions and users; {len(owners) - copied} were there already.")
    _say_left_out(left_out, quietly=as_json)


@user_store.command("re-sign")
@json_option
@with_appcontext
def re_sign_command(as_json: bool) -> None:
    """Sign everything that is stored with the new SECRET_KEY, after it was changed.

    The former key must be in SECRET_KEY_FALLBACKS. The app may run meanwhile, and an interrupted run can be repeated.
    Each visitor who comes back gets a cookie with the new signature. Once you remove the former key, a browser that has
    not been back is a new visitor.
    """
    extension = opened_extension(needs_key=True)
    storage = _exportable(extension.storage)
    names, signed, left_out = list(storage.all_owners()), 0, list[tuple[str, str]]()
    with progress_bar("Signing") as progress:
        for number, name in enumerate(names, 1):
            signed += _re_sign_all(extension, storage, name, left_out)
            progress(number, len(names))
    if as_json:
        say_json({"signed": signed, "left_out": _as_dicts(left_out)})
    else:
        click.echo(f"Signed {signed} values." if signed or left_out else "There was nothing to sign.")
    _say_left_out(left_out, as_json, "it is damaged, or SECRET_KEY_FALLBACKS lacks the key that signed it")


def _re_sign_all(
    extension: OpenedExtension, storage: SupportsExport, name: str, left_out: list[tuple[str, str]]
) -> int:
    """Sign an owner's values again. Returns how many were signed. Others are added to ``left_out``."""
    dump = storage.dump(name)
    if dump is None or dump.session == ENDED:
        return 0
    signed, failed = 0, list[tuple[str, str]]()
    for key, _, _ in dump.values:
        try:
            signed += _re_sign(extension, Owner(name, dump.session), key)
        except SessionEnded:  # It has another id now, or has ended.
            return signed + _re_sign_all(extension, storage, name, left_out)
        except (TamperedValue, UnreadableValue, StorageCorrupt):
            failed.append((name, key))
    left_out += failed
    return signed


def _re_sign(extension: OpenedExtension, owner: Owner, key: str) -> bool:
    """Sign a value again, unless it is signed with the current key. Returns whether it was signed."""
    codec, storage = extension.codec, extension.storage
    access = operations.looking(extension)
    with storage.transaction(owner):
        stored = storage.get(owner, key, access)
        if stored is None:
            return False
        payload, buffers = stored
        signed = codec.re_sign(owner.name, key, payload)
        if signed == payload:
            return False
        # The name of buffers is signed, and only used once. So a large value is encoded again, with new buffers.
        large = buffers and codec.encode(owner.name, key, codec.decode(owner.name, key, stored))
        storage.set(owner, key, large or (signed, None), access, "keep")
    return True


def _as_dicts(left_out: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"name": owner, "key": key} for owner, key in left_out]


def _say_left_out(damaged: list[tuple[str, str]], quietly: bool = False, why: str = "it is damaged") -> None:
    """Print which values were left out, and fail if any were.

    :param quietly: whether they have been printed already
    :param why: why each of them was left out
    """
    for owner, key in () if quietly else damaged:
        click.echo(f"Left out {key!r} of {owner[:10]}…: {why}.")
    if damaged:
        fail(f"{len(damaged)} values were left out; `flask user-store check` says what is damaged.")


def _exportable(storage: object) -> SupportsExport:
    if not isinstance(storage, SupportsExport):
        fail(f"The storage {type(storage).__name__} does not support this command: it cannot export its contents.")
    return storage


def _storage_with_backups(command: str) -> SupportsBackup:
    storage = opened_extension().storage
    if not isinstance(storage, SupportsBackup):
        fail(f"{command} is only for SQLite files. Use the tools of the server that keeps this app's store.")
    return storage
