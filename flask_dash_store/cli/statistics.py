"""``flask user-store stats``, ``list``, ``show`` and ``end``: how much there is, whose it is, and ending sessions.

A session or user is called by its *name*, which opens nothing: ``s.`` and 20 characters for a session, ``u.`` and the
user id, quoted as in URLs, for a user. It is the name under which the storage keeps its values.
"""

from __future__ import annotations

import re
from typing import NoReturn, get_args

import click
from flask.cli import with_appcontext

from ..errors import SessionEnded
from ..extension import OpenedExtension
from ..operations import looking, sessions_of, statistics_of
from ..owner import SESSION_PREFIX, USER_PREFIX, Owner, user_id_of, user_owner
from ..storage.base import ValueInfo
from ..storage.name_search import name_filter
from ..storage.statistics import Order, OwnerInfo, OwnerPage, page_of
from ..wording import count, finite, size, time
from .app import fail, opened_extension
from .output import json_option, say_json, table

LARGEST = 5
DEFAULT_LIMIT = 50

_VISITOR = re.compile("[A-Za-z0-9_-]{22}", re.ASCII)

_name_argument = click.argument("name", required=False)
_user_option = click.option("--user", "user_id", help="A user id, instead of a name.")


@click.command("stats")
@json_option
@with_appcontext
def stats_command(as_json: bool) -> None:
    """Say how much is stored: sessions, users, bytes, the largest, and how full it is.

    On Redis it goes through all owners, 1,000 at a time; elsewhere it is one query. None reads a value.
    """
    extension = opened_extension()
    storage, now = statistics_of(extension), extension.now()
    totals, space = storage.totals(now, LARGEST), storage.space()
    if as_json:
        counts = totals._asdict()
        say_json(
            {
                "at": now,
                "sessions": counts.pop("sessions"),
                "users": counts.pop("users"),
                "bytes": counts.pop("nbytes"),
                **counts,
                "largest": [_as_dict(info) for info in totals.largest],
                "space": space._asdict(),
            }
        )
        return
    rows = [
        ["Sessions", f"{totals.sessions:,}"],
        ["", f"{totals.began_last_hour:,} began in the last hour, {totals.began_last_day:,} in the last day"],
        ["Users", f"{totals.users:,}"],
        ["Stored", f"{size(totals.nbytes)} in {count(totals.keys, 'key')}"],
        ["Oldest", "none" if totals.oldest is None else f"began {time(totals.oldest)}"],
        *(["Largest" if i == 0 else "", _in_words(info)] for i, info in enumerate(totals.largest)),
        ["Database", "not known" if space.used is None else size(space.used)],
        *([["", f"{size(space.log)} of it in the write-ahead log"]] if space.log else []),
        ["Free", "not known" if space.free is None else size(space.free)],
        ["Expired", f"{totals.expired:,}, which maintenance has yet to remove"],
        ["Ended", f"{totals.ended:,}, whose ids are remembered, so that they stay dead"],
    ]
    for line in table(rows):
        click.echo(line)


@click.command("list")
@click.option("--users", is_flag=True, help="Users instead of sessions.")
@click.option("--user", "user_id", help="The sessions in which the user of this id is logged in.")
@click.option("--sort", type=click.Choice(get_args(Order)), default="newest", show_default=True)
@click.option("--limit", type=click.IntRange(1), default=DEFAULT_LIMIT, show_default=True, help="How many at most.")
@click.option("--offset", type=click.IntRange(0), default=0, show_default=True, help="How many to pass over first.")
@click.option("--search", "containing", default="", help="Only those with this text in their name or user id.")
@json_option
@with_appcontext
def list_command(
    users: bool, user_id: str | None, sort: Order, limit: int, offset: int, containing: str, as_json: bool
) -> None:
    """List sessions, or users: when each began and expires, its bytes and keys."""
    extension = opened_extension()
    now = extension.now()
    if user_id is not None:
        is_wanted = name_filter(SESSION_PREFIX, containing)
        sessions = (info for info in sessions_of(extension, user_id) if is_wanted(info.name))
        page = page_of(sessions, sort, limit, offset, now)
    else:
        prefix = USER_PREFIX if users else SESSION_PREFIX
        page = statistics_of(extension).find_owners(prefix, sort, limit, now, offset=offset, containing=containing)
    if as_json:
        say_json([_as_dict(info) for info in page.owners])
        return
    rows = [
        [info.name, time(info.created_at), time(finite(info.expires)), size(info.nbytes), f"{info.keys:,}"]
        for info in page.owners
    ]
    for line in table([["Name", "Began", "Expires", "Bytes", "Keys"], *rows]) if rows else ():
        click.echo(line)
    if not page.total:
        found = f" with {containing!r} in their name" if containing else ""
        click.echo(f"There are no {'users with values' if users else 'sessions'}{found}.")
    if len(rows) < page.total:
        click.echo(_where(page, offset))


@click.command("show")
@_name_argument
@_user_option
@json_option
@with_appcontext
def show_command(name: str | None, user_id: str | None, as_json: bool) -> None:
    """Show the keys of one session or user, with bytes and expiries. No value is read.

    NAME is what `list` and `stats` show, or what `visitor()` returns in the app.
    """
    extension = opened_extension()
    owner, access = _owner(extension, name, user_id), looking(extension)
    stat, values = extension.storage.stat(owner, access), extension.storage.describe(owner, access)
    if stat.expires is None and not values:
        _fail_as_nothing_is_there(owner.name)
    if as_json:
        keys = [_value_as_dict(value) for value in values]
        say_json({"name": owner.name, "expires": finite(stat.expires), "bytes": stat.nbytes, "keys": keys})
        return
    click.echo(f"{owner.name}: {size(stat.nbytes)}, expires: {time(finite(stat.expires))}")
    rows = [
        [repr(value.key), size(value.nbytes), "" if value.expires is None else f"expires {time(value.expires)}"]
        for value in values
    ]
    for line in table(rows) if rows else ():
        click.echo(f"  {line}")


@click.command("end")
@_name_argument
@_user_option
@json_option
@with_appcontext
def end_command(name: str | None, user_id: str | None, as_json: bool) -> None:
    """End a session, or all in which a user is logged in: log out, there or everywhere.

    A session's values are deleted with it. What is stored for a user id stays. NAME is what `list` and `stats` show, or
    what `visitor()` returns in the app.
    """
    extension = opened_extension()
    owner = _owner(extension, name, user_id)
    if owner.name.startswith(USER_PREFIX):
        ended = extension.end_sessions(user_id_of(owner.name), None)
    elif extension.end_session(owner):
        ended = 1
    else:
        _fail_as_nothing_is_there(owner.name)
    if as_json:
        say_json({"ended": ended})
    else:
        click.echo(f"Ended {count(ended, 'session')}.")


def _owner(extension: OpenedExtension, name: str | None, user_id: str | None) -> Owner:
    """Whose values are meant, with the session that opens them now."""
    if (name is None) == (user_id is None):
        raise click.UsageError("Give a NAME or --user ID.")
    if user_id is not None:
        return user_owner(user_id)
    if name is not None and _VISITOR.fullmatch(name):
        name = opened_extension(needs_key=True).name_of_visitor(name) or _fail_as_nothing_is_there(name)
    try:
        return extension.storage.current(Owner(str(name)), looking(extension))
    except SessionEnded as ended:
        fail(f"The session {name} ended on {time(ended.ended_at)}.")


def _fail_as_nothing_is_there(name: str) -> NoReturn:
    fail(f"Nothing is stored for {name}. `flask user-store list` shows the names of those who have something.")


def _where(page: OwnerPage, offset: int) -> str:
    """Which of all are on a page: "51-100 of 12,345"."""
    if not page.owners:
        return f"There are {page.total:,}, so with --offset {offset} there is none."
    return f"{offset + 1:,}-{offset + len(page.owners):,} of {page.total:,}"


def _as_dict(info: OwnerInfo) -> dict[str, object]:
    return {
        "name": info.name,
        "began": info.created_at,
        "expires": finite(info.expires),
        "bytes": info.nbytes,
        "keys": info.keys,
    }


def _value_as_dict(value: ValueInfo) -> dict[str, object]:
    return {"key": value.key, "bytes": value.nbytes, "expires": value.expires, "large": value.is_large}


def _in_words(info: OwnerInfo) -> str:
    return f"{info.name}: {size(info.nbytes)} in {count(info.keys, 'key')}"
