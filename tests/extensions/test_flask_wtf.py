"""Flask-WTF: forms are accepted from the session that they were sent to, from it alone, and after a double click."""

from __future__ import annotations

import re
from typing import Any

import pytest
from flask import Flask, g, render_template_string, request, session
from flask.testing import FlaskClient
from flask_login import LoginManager, UserMixin, login_user, logout_user
from flask_wtf import CSRFProtect, FlaskForm
from flask_wtf.csrf import generate_csrf
from shop import in_flight, make_shop, twin
from wtforms import StringField


class User(UserMixin):
    def __init__(self, name: str) -> None:
        self.id = name


class LoginForm(FlaskForm):
    user = StringField()


def log_in() -> Any:
    form = LoginForm()
    if form.validate_on_submit():
        login_user(User(str(form.user.data)))
        if "renew" in request.args:
            session.pop("csrf_token", None)
        return f"Hello {form.user.data}"
    return render_template_string("{{ form.csrf_token }} {{ form.errors }}", form=form)


def add_forms(app: Flask) -> Flask:
    LoginManager(app).user_loader(User)
    CSRFProtect(app)
    app.add_url_rule("/in", "in", log_in, methods=["GET", "POST"])
    app.add_url_rule("/buy", "buy", lambda: str(session.setdefault("bought", True)), methods=["POST"])
    app.add_url_rule("/begin", "begin", lambda: str(session.setdefault("begun", True)))
    app.add_url_rule("/regenerate", "regenerate", lambda: str(g.user_store.regenerate()))
    app.add_url_rule("/enter", "enter", lambda: str(login_user(User("ada"))))
    app.add_url_rule("/out", "out", lambda: str(logout_user()))
    app.add_url_rule("/out-with-a-form", "out-form", lambda: str(logout_user()) and generate_csrf())
    return app


@pytest.fixture
def browser(app: Flask) -> FlaskClient:
    return add_forms(app).test_client()


def token_in(client: FlaskClient) -> str:
    found = re.search('value="([^"]+)"', client.get("/in").text)
    assert found is not None
    return found[1]


def status_of_buying(client: FlaskClient, token: str) -> int:
    return client.post("/buy", data={"csrf_token": token}).status_code


def test_a_form_is_accepted_in_a_second_request_and_from_no_other_visitor(browser: FlaskClient) -> None:
    token = token_in(browser)
    stranger = browser.application.test_client()
    token_in(stranger)
    assert [status_of_buying(each, token) for each in (browser, browser, stranger)] == [200, 200, 400]
    assert status_of_buying(browser, "another") == 400
    assert browser.application.test_client().post("/buy").status_code == 400


def test_a_form_is_accepted_after_regenerate_and_after_a_login_and_not_after_a_logout(browser: FlaskClient) -> None:
    token = token_in(browser)
    browser.get("/regenerate")
    assert status_of_buying(browser, token) == 200
    assert browser.post("/in", data={"csrf_token": token, "user": "ada"}).text == "Hello ada"
    assert status_of_buying(browser, token) == 200


def test_a_form_of_before_a_logout_is_refused_after_it() -> None:
    browser = add_forms(make_shop()).test_client()
    token = token_in(browser)
    browser.post("/in", data={"csrf_token": token, "user": "ada"})
    browser.get("/out")
    assert status_of_buying(browser, token) == 400
    assert status_of_buying(browser, token_in(browser)) == 200


def test_a_form_that_comes_with_a_logout_is_the_next_sessions() -> None:
    browser = add_forms(make_shop()).test_client()
    browser.get("/enter")
    token = token_in(browser)
    next_token = browser.get("/out-with-a-form").text
    assert [status_of_buying(browser, each) for each in (token, next_token)] == [400, 200]


def test_forms_that_are_fetched_in_parallel_have_one_token() -> None:
    app = add_forms(make_shop())
    browser = app.test_client()

    def view() -> dict[str, Any]:
        assert session["begun"]
        other = re.findall('value="([^"]+)"', in_flight(browser, "GET", "/in").text)
        return {"tokens": [generate_csrf(), *other]}

    app.add_url_rule("/two", view_func=view)
    browser.get("/begin")
    tokens = browser.get("/two").get_json()["tokens"]
    assert [status_of_buying(browser, token) for token in tokens] == [200, 200]


@pytest.mark.parametrize("has_visited", [True, False])
def test_a_double_click_on_log_in_is_accepted_twice_and_ends_in_one_session(has_visited: bool, url: str) -> None:
    app = add_forms(make_shop(USER_STORE_URL=url))
    browser = app.test_client()
    if has_visited:
        browser.get("/begin")
    form = {"csrf_token": token_in(browser), "user": "ada"}
    second_click = twin(browser)
    assert browser.post("/in", data=form).text == "Hello ada"
    assert second_click.post("/in", data=form).text == "Hello ada"
    assert [status_of_buying(each, form["csrf_token"]) for each in (browser, second_click)] == [200, 200]
    assert len(app.extensions["user_store"].sessions("ada")) == 1
    app.extensions["user_store"].close()


def test_an_app_that_removes_the_token_at_a_login_refuses_those_of_before_it(app: Flask) -> None:
    browser = add_forms(app).test_client()
    planted = token_in(browser)
    second_click = twin(browser)
    for client in (browser, second_click):
        assert client.post("/in?renew", data={"csrf_token": planted, "user": "ada"}).text == "Hello ada"
        assert status_of_buying(client, planted) == 400
        assert status_of_buying(client, token_in(client)) == 200


def test_to_ask_for_the_token_of_a_visitor_who_has_no_session_stores_nothing_without_a_form() -> None:
    app = add_forms(make_shop())
    response = app.test_client().post("/buy")
    assert response.status_code == 400
    assert "Set-Cookie" not in response.headers
