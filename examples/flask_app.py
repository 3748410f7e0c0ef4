"""A plain Flask app: a counter, a note pad, and logging in and out.

With `flask_session=True` Flask's own session is in the visitor's store, and so are flashed messages. A counter that
requests in parallel count needs more than a session can: `user_store.increment`.

    python examples/flask_app.py
    gunicorn --chdir examples --workers 2 --threads 4 flask_app:server
"""

import argparse

from flask import Flask, abort, flash, redirect, render_template_string, request, session, url_for
from secret_key import kept_secret_key
from werkzeug.wrappers import Response

from flask_dash_store import UserStoreMiddleware, user_store

app = Flask(__name__, static_folder="assets")
server = app  # the name that gunicorn finds in all the examples
app.config.from_prefixed_env()  # FLASK_SECRET_KEY, FLASK_USER_STORE_URL and any other setting
if not app.secret_key:
    app.secret_key = kept_secret_key(app.instance_path)
UserStoreMiddleware(app, flask_session=True)

# Jinja escapes whatever the visitor has typed.
PAGE = """
<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title>Counter and notes</title>
  <link rel="icon" href="data:,">
  <link rel="stylesheet" href="{{ url_for('static', filename='style.css') }}">
</head>
<body>
<main>
  <h1>Counter and notes</h1>
  <p class="lead">Every visitor of this page has a store of their own, kept on the server.</p>

  <section class="panel">
    {% if session.name %}
    <p>You are logged in as <strong id="name">{{ session.name }}</strong>.</p>
    {# Where no button was before: the second half of a double click on "Log in" must not log out. #}
    <form class="below" method="post" action="{{ url_for('log_out') }}">
      <button>Log out</button>
    </form>
    <p class="hint">Logging out ends your session: the counter and the notes go with it.</p>
    {% else %}
    <form method="post" action="{{ url_for('log_in') }}">
      <label for="login">Your name</label>
      <div class="row">
        <input id="login" name="name" placeholder="Any name will do" maxlength="50" autocomplete="off" required>
        <button>Log in</button>
      </div>
    </form>
    <p class="hint">You keep your counter and your notes when you log in.</p>
    {% endif %}
  </section>

  <section class="panel">
    <h2>Counter</h2>
    <form class="row" method="post" action="{{ url_for('count') }}">
      <output id="count" class="value grow">{{ count }}</output>
      <button>Count</button>
    </form>
  </section>

  <section class="panel">
    <h2>Notes</h2>
    <form method="post" action="{{ url_for('add_note') }}">
      <label for="note">A new note</label>
      <div class="row">
        <input id="note" name="note" maxlength="200" autocomplete="off" required>
        <button>Add</button>
      </div>
    </form>
    <ul id="notes">
      {% for note in session.notes %}
      <li>{{ note }}</li>
      {% else %}
      <li class="hint">No notes yet.</li>
      {% endfor %}
    </ul>
  </section>
  {% for message in get_flashed_messages() %}
  <p class="toast" role="status">{{ message }}</p>
  {% endfor %}
</main>
</body>
</html>
"""


@app.get("/")
def index() -> str:
    return render_template_string(PAGE, count=user_store.get("count", 0))


# What changes anything is a POST: SameSite=Lax, the cookie's default, keeps the visitor's cookie out of what the forms
# of other sites post. Here their posts are refused altogether, so that none can log the visitor in under another name.
@app.before_request
def refuse_other_sites() -> None:
    if request.method == "POST" and request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
        abort(403)


@app.post("/count")
def count() -> Response:
    user_store.increment("count")
    return back()


@app.post("/notes")
def add_note() -> Response:
    session.setdefault("notes", []).append(request.form["note"][:200])  # kept without session.modified = True
    flash("Your note is kept.")
    return back()


@app.post("/login")
def log_in() -> Response:
    name = request.form["name"][:50]  # A real app checks a password here.
    user_store.regenerate(user_id=name)  # An id that was known before the login opens nothing after it.
    session["name"] = name
    flash(f"Welcome, {name}.")
    return back()


@app.post("/logout")
def log_out() -> Response:
    user_store.destroy()
    flash("You are logged out.")
    return back()


def back() -> Response:
    return redirect(url_for("index"), 303)  # so that a reload posts nothing a second time


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve the example on 127.0.0.1.")
    parser.add_argument("--port", type=int, default=8050)
    app.run(host="127.0.0.1", port=parser.parse_args().port)
