"""A Dash app that shares nothing with the other Dash apps of its process.

Dash keeps callbacks, hooks and settings in globals: `@callback` without an app goes to the app that gets the first
request; a hook adds to every app's page; `dash.get_app()` and `get_asset_url()` know the app that was made last. The
admin page must take none of that from the app that it is for, and add nothing to it. So it is made whole at once, on a
Flask app of its own, while Dash's globals are empty ones, which are then as they were. Nothing of it is made later,
when the other app's threads are running.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from dash import Dash, _callback, _get_app, _get_paths, _pages, dcc
from flask import Flask

ASSETS = Path(__file__).with_name("assets")

_ROOT = "-where-the-browser-sees-it-"
_SCRIPT_OF_OTHERS = re.compile(
    r'<script src="[^"]*_dash-component-suites/(?!plotly/|dash/(?!dash_table/))[^"]*"></script>'
)
_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
{%metas%}
<meta name="color-scheme" content="light dark">
<title>{%title%}</title>
<link rel="icon" href="data:,">
{%css%}
</head>
<body>
{%app_entry%}
<footer>{%config%}{%scripts%}{%renderer%}</footer>
</body>
</html>"""


class OwnDash:
    """A Dash app to which only its own server's requests lead.

    :param build: sets the layout, and the callbacks, of the app that it is given
    :ivar wsgi_app: serves all but the index page
    :ivar script_hashes: of the inline scripts of the index page, as a Content-Security-Policy names them
    """

    def __init__(self, title: str, build: Callable[[Dash], None]) -> None:
        server = Flask("flask_dash_store.admin", static_folder=None)
        with _globals_of_dash_left_alone():
            app = _WithoutHooks(
                "flask_dash_store.admin",
                server=cast(Any, server),
                title=title,
                update_title="",  # The title of a tab must not flicker with each update.
                index_string=_TEMPLATE,
                assets_folder=str(ASSETS),
                use_pages=False,
                pages_folder="",
                routes_pathname_prefix="/",
                requests_pathname_prefix=f"/{_ROOT}/",
                suppress_callback_exceptions=True,
                add_log_handler=False,
            )
            build(app)
            dash: Any = app  # Some of its methods have no types.
            dash._setup_server()  # noqa: SLF001  # It would do so with its first request, and take the globals then.
            with server.test_request_context():
                self._index = _SCRIPT_OF_OTHERS.sub("", dash.index())
            self.script_hashes = list(app.csp_hashes())
        self.wsgi_app = server.wsgi_app

    def index(self, root: str) -> str:
        """The page's HTML.

        :param root: the path under which the browser sees the page, quoted, with a slash at its end
        """
        return self._index.replace(_ROOT, root.strip("/"))


class _WithoutHooks(Dash):
    """A Dash app without the hooks that other packages have registered for all apps."""

    def _setup_hooks(self) -> None:
        self._hooks: Any = _NoHooks


class _NoHooks:
    """What Dash asks of its HooksManager, and of the hooks in it."""

    hooks: type[_NoHooks]
    _js_dist: tuple[Any, ...] = ()
    _css_dist: tuple[Any, ...] = ()

    @staticmethod
    def get_hooks(_hook: str) -> list[Any]:
        return []


_NoHooks.hooks = _NoHooks

_GLOBALS: list[tuple[Any, str]] = [
    *((_callback, name) for name in vars(_callback) if name.startswith("GLOBAL_")),
    (_get_app, "APP"),
    (_get_paths, "CONFIG"),
    (_pages, "CONFIG"),
    (dcc, "_js_dist"),
]


@contextmanager
def _globals_of_dash_left_alone() -> Iterator[None]:
    """A block in which an app is made that takes none of Dash's globals, nor its environment variables, and adds none.

    What is in the globals of callbacks is for the app that is being made, or will be.
    """
    kept = [(module, name, getattr(module, name)) for module, name in _GLOBALS]
    environment = {name: os.environ.pop(name) for name in list(os.environ) if name.upper().startswith("DASH_")}
    try:
        for module, name, value in kept:
            if isinstance(value, (list, dict)):
                setattr(module, name, type(value)() if module is _callback else type(value)(value))
        yield
    finally:
        os.environ.update(environment)
        for module, name, value in kept:
            setattr(module, name, value)
