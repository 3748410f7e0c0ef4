"""All examples on one server, with a page that leads to them: scripts/demo.

    python examples/demo.py
    gunicorn --chdir examples --workers 2 --threads 4 demo:server

Each app is under a path of its own, and so are its cookies: a visitor has a session in each. Several Dash apps in one
process need `@app.callback`, for `@dash.callback` does not say which app is meant, and one SECRET_KEY.
"""

import argparse
import os
from importlib import import_module
from typing import Any

from flask import Flask, render_template_string
from werkzeug.middleware.dispatcher import DispatcherMiddleware

EXAMPLES = {
    "upload_csv": (
        "Explore a CSV file",
        "Upload 20 MB once, then filter and chart it in several tabs. The table stays on the server.",
    ),
    "background_report": (
        "A long report",
        "A background callback with progress and a cancel button. Two visitors at once each get their own.",
    ),
    "parallel_callbacks": (
        "Eight callbacks at once",
        "What eight parallel callbacks write to the store, beside what is left of it in Flask's session.",
    ),
    "dash_app": (
        "One value each",
        "The smallest Dash app: a value for all of a visitor's tabs, and one for this tab alone.",
    ),
    "flask_app": (
        "Counter and notes",
        "A plain Flask app: its session is in the store, and a login gives it a new id.",
    ),
    "admin": (
        "An admin page",
        "What the visitors of all examples have stored, with plots, a search and backups, for an operator.",
    ),
    "dash_database_app": (
        "One value for each tab",
        "The example of the package dash_database, whose session ids are the page's own, with DashDatabase.",
    ),
}

PAGE = """
<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title>flask_dash_store</title>
  <link rel="icon" href="data:,">
  <link rel="stylesheet" href="{{ url_for('static', filename='style.css') }}">
</head>
<body>
<main>
  <h1>flask_dash_store</h1>
  <p class="lead">A store of its own for every visitor of a Flask or Dash app, kept on the server. Open an
    example twice, in two tabs and in a private window, to see who shares what.</p>
  {% for name, (title, about) in examples.items() %}
  <a class="panel card" href="{{ name }}/">
    <h2>{{ title }}</h2>
    <p>{{ about }}</p>
    <code>examples/{{ name }}.py</code>
  </a>
  {% endfor %}
  <p class="hint">
    Dash on FastAPI needs a server of its own: <code>.venv/bin/python examples/fastapi_app.py --port 8051</code>
  </p>
</main>
</body>
</html>
"""

server = Flask(__name__, static_folder="assets")


@server.get("/")
def index() -> str:
    return render_template_string(PAGE, examples=EXAMPLES)


def mounted(name: str) -> Any:
    """The example's app. Dash reads from the environment under which path the browser sees it."""
    os.environ["DASH_REQUESTS_PATHNAME_PREFIX"] = f"/{name}/"
    app: Flask = import_module(name).server
    app.config["SESSION_COOKIE_PATH"] = f"/{name}"
    # Dash prepares itself with the first request, and fails those that come meanwhile, or to another worker:
    # https://github.com/plotly/dash/issues/3971
    app.test_client().get("/", base_url=f"http://localhost/{name}")
    return app


server.wsgi_app = DispatcherMiddleware(  # type: ignore[method-assign]
    server.wsgi_app, {f"/{name}": mounted(name) for name in EXAMPLES}
)
del os.environ["DASH_REQUESTS_PATHNAME_PREFIX"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve all examples on 127.0.0.1.")
    parser.add_argument("--port", type=int, default=8050)
    server.run(host="127.0.0.1", port=parser.parse_args().port)
