"""Python calls of an operation

How many Python functions one operation of `g.user_store` calls in a view, counted with `sys.setprofile`, and how many
files they are in. It is the same on every machine.
"""

import sys
from collections.abc import Callable
from functools import partial

from flask import Flask, g

from flask_dash_store import UserStoreMiddleware

from .bench import Bench
from .measure import summary
from .peers import SECRET_KEY, sqlite_url
from .results import Findings, Table


def frames(operation: Callable[[], object]) -> list[str]:
    """The file of each Python function that is called; those written in C do not count."""
    files: list[str] = []
    sys.setprofile(lambda frame, event, _: files.append(frame.f_code.co_filename) if event == "call" else None)
    operation()
    sys.setprofile(None)
    return files


def measure(bench: Bench) -> Findings:
    app = Flask("frames")
    app.secret_key = SECRET_KEY
    UserStoreMiddleware(app, url=sqlite_url(bench.folder))
    found: dict[str, list[str]] = {}

    @app.get("/")
    def view() -> str:
        store = g.user_store
        for number in range(3):  # The first writes open a connection and begin the session; the last ones count.
            found["new"] = frames(partial(store.__setitem__, f"new {number}", 1))
            found["overwrite"] = frames(partial(store.__setitem__, "new 0", 2))
            found["get"] = frames(partial(store.get, "new 0"))
        return "counted"

    app.test_client().get("/")
    table = Table("One operation", "Python calls", ["calls", "files"])
    for name, files in found.items():
        table.add(name, [len(files)], [len(set(files))])
    return [table], {f"frames_{name}": summary([len(files)]) for name, files in found.items()}
