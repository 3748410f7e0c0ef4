"""The admin page of an app: what its visitors have stored, for an operator who logs in.

The examples share one file, so the page shows what has been stored in all of them. The operator's password is in
ADMIN_PASSWORD; without that, the server prints one.

    python examples/admin.py
    gunicorn --chdir examples --workers 2 --threads 4 admin:server
"""

import argparse
import hmac
import os
from pathlib import Path

from flask import Flask, redirect, render_template_string, request, url_for
from secret_key import kept_secret_key
from werkzeug.wrappers import Response

from flask_dash_store import UserStoreAdmin, UserStoreMiddleware, user_store

app = Flask(__name__, static_folder="assets")
server = app  # the name that gunicorn finds in all the examples
app.config.from_prefixed_env()  # FLASK_SECRET_KEY, FLASK_USER_STORE_URL and any other setting
if not app.secret_key:
    app.secret_key = kept_secret_key(app.instance_path)
UserStoreMiddleware(app)


def is_operator() -> bool:
    """Whether the visitor may see the admin page. It is called for each of its requests."""
    return user_store.get("is_operator", False) is True


backups = Path(app.instance_path, "backups")
backups.mkdir(parents=True, exist_ok=True)
UserStoreAdmin(app, allow=is_operator, show_values=True, backups=backups)

password = os.environ.get("ADMIN_PASSWORD", "")
if not password:  # One that all workers agree on.
    password = hmac.new(str(app.secret_key).encode(), b"operator", "sha256").hexdigest()[:12]
    print(f"The password of the admin page's example is {password}", flush=True)

PAGE = """
<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title>An admin page</title>
  <link rel="icon" href="data:,">
  <link rel="stylesheet" href="{{ url_for('static', filename='style.css') }}">
</head>
<body>
<main>
  <h1>An admin page</h1>
  <p class="lead">Store something as a visitor. Then see it as the operator of the app.</p>

  <section class="panel">
    <h2>Visitor</h2>
    <form method="post" action="{{ url_for('keep') }}">
      <label for="note">A note</label>
      <div class="row">
        <input id="note" name="note" maxlength="200" autocomplete="off" required>
        <button>Store</button>
      </div>
    </form>
    <p class="hint">Notes that you have stored: <output id="count">{{ count }}</output></p>
  </section>

  <section class="panel">
    <h2>Operator</h2>
    {% if is_operator %}
    <p><a href="{{ url_for('index') }}user-store/">Open the admin page</a></p>
    {% else %}
    <form method="post" action="{{ url_for('log_in') }}">
      <label for="password">Password</label>
      <div class="row">
        <input id="password" name="password" type="password" autocomplete="off" required>
        <button>Log in</button>
      </div>
    </form>
    {% if is_wrong %}<p class="message error" role="alert">That is not the password.</p>{% endif %}
    <p class="hint">The server has printed the password when it started.</p>
    {% endif %}
  </section>
</main>
</body>
</html>
"""


def page(is_wrong: bool = False) -> str:
    return render_template_string(PAGE, count=user_store.get("notes", 0), is_operator=is_operator(), is_wrong=is_wrong)


@app.get("/")
def index() -> str:
    return page()


@app.post("/keep")
def keep() -> Response:
    user_store[f"note {user_store.increment('notes')}"] = request.form["note"][:200]
    return redirect(url_for("index"))


@app.post("/log-in")
def log_in() -> Response | str:
    if not hmac.compare_digest(request.form["password"].encode(), password.encode()):
        return page(is_wrong=True)
    user_store.regenerate()  # Another id, for an attacker may have planted this one.
    user_store["is_operator"] = True
    return redirect(url_for("index"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve the example on 127.0.0.1.")
    parser.add_argument("--port", type=int, default=8050)
    app.run(host="127.0.0.1", port=parser.parse_args().port)
