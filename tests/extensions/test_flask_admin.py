"""Flask-Admin: its forms, their CSRF tokens and its messages go through the session, and its views know the user."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, g, redirect, session
from flask.testing import FlaskClient
from flask_admin import Admin, AdminIndexView, expose
from flask_admin.contrib.fileadmin import FileAdmin
from flask_admin.form import SecureForm
from flask_login import LoginManager, UserMixin, current_user, login_user, logout_user
from shop import in_flight, make_shop


class User(UserMixin):
    def __init__(self, name: str) -> None:
        self.id = name


class Files(FileAdmin):
    form_base_class = SecureForm

    def is_accessible(self) -> bool:
        return bool(current_user.is_authenticated)

    def inaccessible_callback(self, name: str, **kwargs: Any) -> Any:
        return redirect("/in/nobody")


class Home(AdminIndexView):
    @expose("/")
    def index(self) -> str:
        return f"{current_user.get_id()} has seen this {g.user_store.increment('seen')} times"


def add_admin(app: Flask, folder: Path) -> Flask:
    LoginManager(app).user_loader(User)
    admin = Admin(app, index_view=Home())
    admin.add_view(Files(str(folder), name="Files", endpoint="files"))
    app.add_url_rule("/in/<name>", "in", lambda name: str(login_user(User(name))))
    app.add_url_rule("/out", "out", lambda: str(logout_user()))
    return app


@pytest.fixture
def browser(app: Flask, tmp_path: Path) -> FlaskClient:
    return add_admin(app, tmp_path).test_client()


def token_in(page: str) -> str:
    found = re.search('name="csrf_token"[^>]* value="([^"]+)"', page)
    assert found is not None
    return found[1]


def make_folder(client: FlaskClient, name: str, token: str) -> str:
    form = {"name": name, "csrf_token": token}
    return client.post("/admin/files/mkdir/", data=form, follow_redirects=True).text


def test_a_form_is_accepted_and_its_message_is_shown_once(browser: FlaskClient, tmp_path: Path) -> None:
    browser.get("/in/ada")
    page = make_folder(browser, "letters", token_in(browser.get("/admin/files/mkdir/").text))
    assert "Successfully created directory: letters" in page
    assert "Successfully created" not in browser.get("/admin/files/").text
    assert (tmp_path / "letters").is_dir()


def test_a_form_without_the_sessions_token_is_refused(browser: FlaskClient, tmp_path: Path) -> None:
    browser.get("/in/ada")
    other = browser.application.test_client()
    other.get("/in/bob")
    page = make_folder(browser, "letters", token_in(other.get("/admin/files/mkdir/").text))
    assert "CSRF failed" in page
    assert list(tmp_path.iterdir()) == []


def test_its_views_share_the_store_with_all_others_until_the_logout(browser: FlaskClient) -> None:
    assert browser.get("/admin/files/").headers["Location"] == "/in/nobody"
    browser.get("/in/ada")
    assert [browser.get("/admin/").text for _ in range(2)] == [f"ada has seen this {n} times" for n in (1, 2)]
    assert browser.get("/admin/files/").status_code == 200
    browser.get("/out")
    assert browser.get("/admin/files/").status_code == 302
    assert browser.get("/admin/").text == "None has seen this 1 times"


def test_forms_that_are_fetched_in_parallel_are_both_accepted(tmp_path: Path) -> None:
    app = add_admin(make_shop(), tmp_path)
    browser = app.test_client()
    app.add_url_rule("/begin", "begin", lambda: str(session.setdefault("begun", True)))

    @app.get("/two")
    def two() -> dict[str, Any]:
        assert session["begun"]
        other = in_flight(browser, "GET", "/admin/files/mkdir/").text
        return {"tokens": [token_in(other), SecureForm()["csrf_token"].current_token]}

    browser.get("/in/ada")
    browser.get("/begin")
    tokens = browser.get("/two").get_json()["tokens"]
    assert len(tokens) == 2
    assert all("Successfully" in make_folder(browser, f"n{n}", token) for n, token in enumerate(tokens))
