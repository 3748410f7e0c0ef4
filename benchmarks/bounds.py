"""The bounds: what must be reached. The measurements give the numbers; this says how large they may be."""

from typing import NamedTuple

from .measure import Summary


class Bound(NamedTuple):
    """One number, mostly a ratio within one run, and its limit: at most, or at least."""

    key: str
    text: str
    limit: float
    at_least: bool = False


BOUNDS = (
    Bound("frames_new", 'Python calls that `store["new"] = 1` makes', 40),
    Bound("frames_overwrite", "Python calls that an overwrite of the same size makes", 20),
    Bound("frames_get", "Python calls that `store.get(key)` makes", 15),
    Bound("new", "`store[new key] = v` small / a raw SQLite upsert with pickle", 3.0),
    Bound("other", "`store[key] = v` small, of another size than before / the same upsert", 2.5),
    Bound("same", "`store[key] = v` small, of the same size / the same upsert", 1.8),
    Bound("get", "`store[key]` small / a raw SELECT with pickle", 2.5),
    Bound("get_sqlitedict", "`store[key]` small / stock sqlitedict", 0.15),
    Bound("same_sqlitedict", "`store[key] = v` small / stock sqlitedict", 0.10),
    Bound("threads", "8 threads that read in one process / 1 thread, operations per second", 0.9, at_least=True),
    Bound("untouched", "request that does not touch the store / the same on bare Flask", 1.10),
    Bound("read", "request that reads a key / the same view by hand on raw SQLite", 1.20),
    Bound("write", "request that reads and writes a key / the same view by hand on raw SQLite", 1.25),
    Bound("asgi_untouched", "request on ASGI that does not touch the store / the same on bare Starlette", 1.8),
    Bound("asgi_read", "request on ASGI that reads a key / the same on Starlette's cookie session", 1.2),
    Bound("asgi_write", "request on ASGI that reads and writes a key / the same on Starlette's cookie session", 1.2),
    Bound("write_redis", "request that reads and writes a key on Redis / Flask-Session on the same Redis", 0.5),
    Bound("session_kept_keys", "keys of flask.session kept of those that 8 requests in flight set", 8, at_least=True),
    Bound("session_kept_messages", "messages kept of those that 8 requests in flight flash", 8, at_least=True),
    Bound("session_kept_logged in", "browsers that a request in flight at the logout leaves logged in", 0),
    Bound("session_kept_planted", "sessions that a cookie planted before the login opens after it", 0),
    Bound("session_untouched", "request that does not touch flask.session / the same on Flask's own cookie", 1.05),
    Bound("session_read", "request that reads a key of flask.session / the same on Flask's own cookie", 1.1),
    Bound(
        "session_write", "request that reads and writes a key of flask.session / the same on Flask's own cookie", 1.2
    ),
    Bound("flask_session_untouched", "the same untouched on Flask-Session's faster backend / ours", 2.5, at_least=True),
    Bound("flask_session_read", "the same read on Flask-Session's faster backend / ours", 2.5, at_least=True),
    Bound("flask_session_write", "the same write on Flask-Session's faster backend / ours", 2.5, at_least=True),
    Bound("http_read", "requests per second that read, through gunicorn / raw SQLite by hand", 0.9, at_least=True),
    Bound("http_write", "requests per second that read and write / raw SQLite by hand", 0.9, at_least=True),
    Bound("callbacks", "results kept of 8 parallel callbacks", 8, at_least=True),
    Bound("dataframe_get", "get of a 50 MB numeric DataFrame / `pickle.load` of it from a file", 0.15),
    Bound("dataframe_set", "set of a 50 MB numeric DataFrame / `pickle.dump` of it to a file", 1.3),
    Bound("scale_get", "get of a small value with 1,000,000 sessions / with 100", 2.0),
    Bound("scale_set", "set of a small value with 1,000,000 sessions / with 100", 2.0),
    Bound("bool_SQLite", "`bool(store)` with 100,000 keys / with 10, SQLite", 1.5),
    Bound("first_SQLite", "`next(iter(store))` with 100,000 keys / with 10, SQLite", 2.0),
    Bound("popitem_SQLite", "`store.popitem()` with 100,000 keys / with 10, SQLite", 1.5),
    Bound("bool_Redis", "`bool(store)` with 100,000 keys / with 10, Redis", 1.5),
    Bound("first_Redis", "`next(iter(store))` with 100,000 keys / with 10, Redis", 2.0),
    Bound("popitem_Redis", "`store.popitem()` with 100,000 keys / with 10, Redis", 1.5),
    Bound("purge_after", "p99 of a request while the app purges 100,000 sessions after responses / without", 2.0),
    Bound("purge_beside", "p99 of a request while another process purges 100,000 sessions / without", 2.0),
    Bound("stalls", "ms of the longest write of another visitor while one does something large on SQLite", 50),
)


def verdict(bound: Bound, measured: Summary) -> str:
    """Whether it is met. One that was not measured is neither met nor missed, and says why."""
    if isinstance(measured, str):
        return measured
    is_met = measured.median >= bound.limit if bound.at_least else measured.median <= bound.limit
    return "met" if is_met else "not met"
