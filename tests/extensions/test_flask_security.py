"""Flask-Security: logins, logouts and changed passwords do to the store what they do to the session."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask, g, session
from flask.testing import FlaskClient
from flask_security import RoleMixin, Security, UserDatastore, UserMixin, auth_required, hash_password, password_changed
from shop import make_shop, twin

from flask_dash_store import UserStoreMiddleware


class Role(RoleMixin):
    name = "role"
    permissions: tuple[str, ...] = ()


class User(UserMixin):
    fs_uniquifier = ""

    def __init__(self, **columns: Any) -> None:
        vars(self).update(columns)


class InMemory(UserDatastore):
    """Users in a list."""

    def __init__(self) -> None:
        super().__init__(User, Role)
        self.users: list[User] = []

    def put(self, model: User) -> User:
        if model not in self.users:
            self.users.append(model)
        return model

    def commit(self) -> None:
        pass

    def find_user(self, case_insensitive: bool = False, **kwargs: Any) -> User | None:
        ((column, value),) = kwargs.items()
        return next((user for user in self.users if str(getattr(user, column)) == str(value)), None)

    def find_role(self, role: str) -> None:
        return None


def add_users(app: Flask) -> Flask:
    app.config.update(
        SECURITY_PASSWORD_HASH="plaintext",
        SECURITY_PASSWORD_SALT="1",
        SECURITY_CHANGEABLE=True,
        SECURITY_SEND_PASSWORD_CHANGE_EMAIL=False,
        SECURITY_EMAIL_VALIDATOR_ARGS={"check_deliverability": False},
        WTF_CSRF_ENABLED=False,
    )
    users = InMemory()
    app.extensions["test.security"] = Security(app, users)
    with app.app_context():
        for number, name in enumerate(("ada", "bob")):
            users.create_user(id=number, email=f"{name}@example.org", password=hash_password("the old password"))
    app.add_url_rule("/who", "who", auth_required("session")(lambda: "known"))
    app.add_url_rule("/cart", "cart", lambda: {"store": g.user_store.get("cart"), "session": session.get("cart")})
    app.add_url_rule("/put", "put", lambda: str(g.user_store.update(cart=1)) + str(session.update(cart=1)))
    return app


@pytest.fixture
def browser(app: Flask) -> FlaskClient:
    return add_users(app).test_client()


def log_in(client: FlaskClient, name: str, password: str = "the old password") -> None:
    response = client.post("/login", json={"email": f"{name}@example.org", "password": password})
    assert response.status_code == 200, response.text


def change_password(client: FlaskClient) -> None:
    passwords = {
        "password": "the old password", "new_password": "the new password", "new_password_confirm": "the new password",
    }  # fmt: skip
    response = client.post("/change", json=passwords)
    assert response.status_code == 200, response.text


def cart(client: FlaskClient) -> list[Any]:
    values = client.get("/cart").get_json()
    return [values["store"], values["session"]]


def status(client: FlaskClient) -> int:
    return client.get("/who", headers={"Accept": "application/json"}).status_code


def sessions(client: FlaskClient, user_id: int) -> int:
    stores: UserStoreMiddleware = client.application.extensions["user_store"]
    return len(stores.sessions(user_id))


def test_a_login_keeps_the_cart_and_counts_as_the_users(browser: FlaskClient) -> None:
    browser.get("/put")
    planted = twin(browser)
    log_in(browser, "ada")
    assert (status(browser), cart(browser), sessions(browser, 0)) == (200, [1, 1], 1)
    assert (status(planted), cart(planted)[0]) == (401, None)


def test_a_logout_and_another_users_login_leave_no_cart(browser: FlaskClient) -> None:
    log_in(browser, "ada")
    browser.get("/put")
    browser.post("/logout")
    assert (status(browser), cart(browser)[0], sessions(browser, 0)) == (401, None, 0)
    log_in(browser, "bob")
    assert (cart(browser)[0], sessions(browser, 1)) == (None, 1)


def test_a_changed_password_keeps_the_cart_and_gives_the_session_another_id(browser: FlaskClient) -> None:
    log_in(browser, "ada")
    browser.get("/put")
    before = twin(browser)
    change_password(browser)
    assert (status(browser), cart(browser), sessions(browser, 0)) == (200, [1, 1], 1)
    assert (status(before), cart(before)[0]) == (401, None)


def test_an_app_can_end_the_users_other_sessions_with_a_changed_password(app: Flask) -> None:
    add_users(app)

    @password_changed.connect_via(app)
    def end_others(app: Flask, user: User, **_: Any) -> None:
        app.extensions["user_store"].end_sessions(user.id, but=g.user_store)

    browser, elsewhere = app.test_client(), app.test_client()
    for client in (browser, elsewhere):
        log_in(client, "ada")
        client.get("/put")
    change_password(browser)
    assert [cart(client)[0] for client in (browser, elsewhere)] == [1, None]
    assert [status(client) for client in (browser, elsewhere)] == [200, 401]


def test_with_one_cookie_a_logout_empties_the_session_too() -> None:
    browser = add_users(make_shop()).test_client()
    log_in(browser, "ada")
    browser.get("/put")
    thief = twin(browser)
    browser.post("/logout")
    assert [cart(client) for client in (browser, thief)] == [[None, None], [None, None]]
