"""With Flask-Login, a user who logs in reads nothing of the former user, and nothing in flask.session goes wrong."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from flask import Flask, Response, g, session, stream_with_context
from flask.testing import FlaskClient
from flask_login import (
    LoginManager,
    UserMixin,
    confirm_login,
    current_user,
    fresh_login_required,
    login_user,
    logout_user,
)
from shop import make_shop, twin

from flask_dash_store import UserStoreMiddleware, user_store

SECRET = "0123456789abcdef0123456789abcdef"


class User(UserMixin):
    def __init__(self, name: str) -> None:
        self.id = name


class Shop:
    """An app whose visitors log in, and have a cart."""

    def __init__(self, manager_comes_first: bool = True, **options: Any) -> None:
        self.app = Flask("shop")
        self.app.config.update(SECRET_KEY=SECRET, USER_STORE_URL="memory://", TESTING=True)
        manager = LoginManager()
        manager.user_loader(User)
        if manager_comes_first:
            manager.init_app(self.app)
        self.stores = UserStoreMiddleware(self.app, **options)
        if not manager_comes_first:
            manager.init_app(self.app)
        self.app.add_url_rule("/in/<name>", "in", lambda name: str(log_in(name)))
        self.app.add_url_rule("/out", "out", lambda: str(logout_user()))
        self.app.add_url_rule("/who", "who", who)
        self.app.add_url_rule("/stream", "stream", lambda: Response(stream_with_context(f"I am {who()}" for _ in "1")))
        self.app.add_url_rule("/cart", "cart", lambda: str(user_store.get("cart")))
        self.app.add_url_rule("/cart/<text>", "put", put)
        self.app.add_url_rule("/switch/<name>", "switch", lambda name: str(logout_user() and log_in(name)) + put(name))
        self.app.add_url_rule("/out-and-write", "write", lambda: str(logout_user()) + put("late"))


def log_in(name: str) -> bool:
    return login_user(User(name), remember=True, duration=timedelta(days=365))


def who() -> str:
    return current_user.get_id() or "nobody"


def put(text: str) -> str:
    g.user_store["cart"] = text
    return "ok"


def cookie(client: FlaskClient) -> str:
    found = client.get_cookie("user_store")
    assert found is not None
    return found.value


def get(client: FlaskClient, path: str) -> str:
    response = client.get(path)
    assert response.status_code == 200, response.text
    return response.text


@pytest.mark.parametrize("manager_comes_first", [True, False])
def test_after_logout_and_another_login_in_one_browser_nothing_of_the_first_user_is_read(
    manager_comes_first: bool,
) -> None:
    shop = Shop(manager_comes_first)
    browser = shop.app.test_client()
    get(browser, "/in/ada")
    get(browser, "/cart/books")
    adas = cookie(browser)
    get(browser, "/out")
    assert get(browser, "/cart") == "None"
    get(browser, "/in/bob")
    assert [get(browser, path) for path in ("/who", "/cart")] == ["bob", "None"]
    assert cookie(browser) != adas
    thief = shop.app.test_client()
    thief.set_cookie("user_store", adas)
    assert get(thief, "/cart") == "None"


def test_another_login_without_a_logout_reads_nothing_of_the_first_user_either() -> None:
    shop = Shop()
    browser = shop.app.test_client()
    get(browser, "/in/ada")
    get(browser, "/cart/books")
    get(browser, "/in/bob")
    assert [get(browser, path) for path in ("/who", "/cart")] == ["bob", "None"]
    assert shop.stores.sessions("ada") == []


def test_nor_when_the_values_had_expired_and_the_first_user_has_stored_others(clock: Any) -> None:
    shop = Shop(clock=clock, ttl=100)
    browser = shop.app.test_client()
    get(browser, "/in/ada")
    get(browser, "/cart/books")
    clock.step(100)
    get(browser, "/cart/pens")
    get(browser, "/in/bob")
    assert [get(browser, path) for path in ("/who", "/cart")] == ["bob", "None"]


def test_another_login_of_the_same_user_keeps_the_cart() -> None:
    shop = Shop()
    browser = shop.app.test_client()
    get(browser, "/in/ada")
    get(browser, "/cart/books")
    get(browser, "/in/ada")
    assert get(browser, "/cart") == "books"


def test_a_login_keeps_the_cart_of_before_and_makes_the_id_of_before_worthless() -> None:
    shop = Shop()
    browser, thief = shop.app.test_client(), shop.app.test_client()
    get(browser, "/cart/books")
    thief.set_cookie("user_store", cookie(browser))
    get(browser, "/in/ada")
    assert get(browser, "/cart") == "books"
    assert get(thief, "/cart") == "None"


def test_the_sessions_of_a_user_are_listed_and_ended() -> None:
    shop = Shop()
    browsers = [shop.app.test_client() for _ in range(2)]
    for browser in browsers:
        get(browser, "/in/ada")
        get(browser, "/cart/books")
    assert len(shop.stores.sessions("ada")) == 2
    assert shop.stores.end_sessions("ada") == 2
    assert [get(browser, "/cart") for browser in browsers] == ["None", "None"]


def test_out_and_in_by_one_response_end_one_session_and_begin_the_other_in_both_cookies() -> None:
    shop = Shop()
    browser = shop.app.test_client()
    get(browser, "/in/ada")
    get(browser, "/cart/books")
    get(browser, "/switch/bob")
    assert [get(browser, path) for path in ("/who", "/cart")] == ["bob", "bob"]
    assert shop.stores.sessions("ada") == []
    assert len(shop.stores.sessions("bob")) == 1


def test_one_response_brings_the_cookies_of_flask_of_flask_login_and_of_the_store() -> None:
    shop = Shop()
    browser = shop.app.test_client()
    response = browser.get("/in/ada")
    names = [header.partition("=")[0] for header in response.headers.getlist("Set-Cookie")]
    assert sorted(names) == ["remember_token", "session", "user_store"]
    assert response.headers["Vary"] == "Cookie"


def come_back(browser: FlaskClient, shop: Shop) -> FlaskClient:
    """The browser, after it was closed: Flask's session cookie has gone."""
    again = shop.app.test_client()
    for name in ("user_store", "remember_token"):
        found = browser.get_cookie(name)
        assert found is not None
        again.set_cookie(name, found.value)
    return again


def test_a_remembered_user_who_comes_back_keeps_the_store_and_gets_another_id() -> None:
    shop = Shop()
    browser = shop.app.test_client()
    get(browser, "/in/ada")
    get(browser, "/cart/books")
    again = come_back(browser, shop)
    before = cookie(again)
    assert [get(again, path) for path in ("/who", "/cart")] == ["ada", "books"]
    assert cookie(again) != before
    assert len(shop.stores.sessions("ada")) == 1
    after = cookie(again)
    get(again, "/who")
    assert cookie(again) == after


def test_parallel_requests_of_a_remembered_user_who_comes_back_agree_on_the_id() -> None:
    shop = Shop()
    browser = shop.app.test_client()
    get(browser, "/in/ada")
    get(browser, "/cart/books")
    parallel = [come_back(browser, shop) for _ in range(3)]
    assert [get(each, "/who") for each in parallel] == ["ada"] * 3
    assert len({cookie(each) for each in parallel}) == 1
    assert [get(each, "/cart") for each in parallel] == ["books"] * 3


def test_a_remembered_user_who_is_first_asked_for_once_the_response_has_begun_is_not_an_error() -> None:
    shop = Shop()
    browser = shop.app.test_client()
    get(browser, "/in/ada")
    get(browser, "/cart/books")
    again = come_back(browser, shop)
    assert [get(again, path) for path in ("/stream", "/cart")] == ["I am ada", "books"]


def test_a_remembered_user_who_logs_out_stays_out() -> None:
    shop = Shop()
    browser = shop.app.test_client()
    get(browser, "/in/ada")
    get(browser, "/cart/books")
    again = come_back(browser, shop)
    get(again, "/out")
    assert [get(again, path) for path in ("/who", "/cart")] == ["nobody", "None"]


def test_a_second_logout_is_answered_and_what_is_written_after_one_is_a_conflict() -> None:
    shop = Shop()
    browser = shop.app.test_client()
    get(browser, "/in/ada")
    get(browser, "/out")
    get(browser, "/out")
    assert browser.get("/out-and-write").status_code == 409
    assert [get(browser, path) for path in ("/cart/books", "/cart")] == ["ok", "books"]


def test_a_setting_leaves_the_store_to_the_app() -> None:
    shop = Shop(flask_login=False)
    browser = shop.app.test_client()
    get(browser, "/cart/books")
    before = cookie(browser)
    for path in ("/in/ada", "/out", "/in/bob"):
        get(browser, path)
    assert (get(browser, "/cart"), cookie(browser)) == ("books", before)


def test_the_setting_may_come_after_the_middleware() -> None:
    shop = Shop()
    shop.app.config["USER_STORE_FLASK_LOGIN"] = False
    browser = shop.app.test_client()
    get(browser, "/cart/books")
    get(browser, "/out")
    assert get(browser, "/cart") == "books"


def test_an_app_with_flask_login_and_no_middleware_is_left_alone() -> None:
    Shop()  # another app in the process
    app = Flask("plain")
    app.secret_key = SECRET
    LoginManager(app).user_loader(User)
    app.add_url_rule("/in", view_func=lambda: str(login_user(User("ada"))))
    assert app.test_client().get("/in").text == "True"


def test_a_login_in_a_test_request_context_binds_that_requests_session() -> None:
    shop = Shop()
    with shop.app.test_request_context():
        login_user(User("ada"))
        user_store["cart"] = "books"
        assert len(shop.stores.sessions("ada")) == 1
        logout_user()
        assert "cart" not in user_store


# With flask.session in the store, and in Flask's own cookie


def add_users(app: Flask, protection: str | None = "basic") -> Flask:
    manager = LoginManager(app)
    manager.user_loader(User)
    manager.session_protection = protection
    app.add_url_rule("/in/<name>", "in", lambda name: str(log_in(name)))
    app.add_url_rule("/confirm", "confirm", lambda: str(confirm_login()))
    app.add_url_rule("/out", "out", lambda: str(logout_user()))
    app.add_url_rule("/who", "who", who)
    app.add_url_rule("/cart", "cart", lambda: str(user_store.get("cart")))
    app.add_url_rule("/cart/<text>", "put", put)
    app.add_url_rule("/pay", "pay", fresh_login_required(lambda: "paid"))
    return app


def test_a_remembered_user_is_not_fresh_until_the_login_is_confirmed(app: Flask) -> None:
    browser = add_users(app).test_client()
    get(browser, "/in/ada")
    get(browser, "/cart/books")
    assert get(browser, "/pay") == "paid"
    browser.delete_cookie("session")
    assert browser.get("/pay").status_code == 401
    assert get(browser, "/who") == "ada"
    get(browser, "/confirm")
    assert get(browser, "/pay") == "paid"


def test_a_remembered_user_who_comes_back_is_logged_in_with_one_session_that_counts_as_theirs() -> None:
    app = add_users(make_shop())
    browser = app.test_client()
    get(browser, "/in/ada")
    browser.delete_cookie("session")
    assert [get(browser, path) for path in ("/who", "/cart/pens", "/cart")] == ["ada", "ok", "pens"]
    before = browser.get_cookie("session")
    assert (get(browser, "/who"), browser.get_cookie("session")) == ("ada", before)
    get(browser, "/out")
    assert [get(browser, path) for path in ("/who", "/cart")] == ["nobody", "None"]
    assert browser.get_cookie("remember_token") is None


def test_a_login_that_is_not_fresh_keeps_the_session_and_another_login_refreshes_it(app: Flask) -> None:
    browser = add_users(app).test_client()
    get(browser, "/in/ada")
    get(browser, "/cart/books")
    browser.environ_base["HTTP_USER_AGENT"] = "another"  # "basic" protection: not fresh any more
    assert browser.get("/pay").status_code == 401
    get(browser, "/in/ada")
    assert [get(browser, path) for path in ("/pay", "/cart")] == ["paid", "books"]


def test_strong_protection_opens_nothing_to_a_browser_that_is_another() -> None:
    app = add_users(make_shop(), "strong")
    browser = app.test_client()
    get(browser, "/in/ada")
    get(browser, "/cart/books")
    assert [get(browser, path) for path in ("/who", "/cart")] == ["ada", "books"]
    thief = twin(browser)
    thief.environ_base["HTTP_USER_AGENT"] = "another"
    assert [get(thief, path) for path in ("/who", "/cart")] == ["nobody", "None"]
    assert app.extensions["user_store"].sessions("ada") == []


def test_strong_protection_of_flasks_own_cookie_leaves_the_store_as_it_is() -> None:
    browser = add_users(make_shop(flask_session=False), "strong").test_client()
    get(browser, "/in/ada")
    get(browser, "/cart/books")
    browser.environ_base["HTTP_USER_AGENT"] = "another"
    assert [get(browser, path) for path in ("/who", "/cart")] == ["nobody", "books"]


def test_strong_protection_leaves_a_visitor_who_has_not_logged_in_their_values(app: Flask) -> None:
    browser = add_users(app, "strong").test_client()
    app.add_url_rule("/visit", "visit", lambda: str(session.setdefault("visited", "yes")))
    for _ in range(2):
        assert [get(browser, path) for path in ("/visit", "/who", "/cart/books", "/cart")][1:] == [
            "nobody",
            "ok",
            "books",
        ]
