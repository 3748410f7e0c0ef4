"""UserStoreMiddleware installs on what an app author has, and names what it cannot use."""

from __future__ import annotations

import gc
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from dash import Dash, html
from flask import Flask, g

from flask_dash_store import ConfigurationError, InvalidKey, UserStoreMiddleware, WeakSecretKey

SECRET = "0123456789abcdef0123456789abcdef"
MEMORY = "sqlite://:memory:"


def make_app(name: str = "shop", **config: Any) -> Flask:
    app = Flask(name)
    app.config.update(TESTING=True, SECRET_KEY=SECRET, USER_STORE_URL=MEMORY)
    app.config.update(config)

    @app.get("/count")
    def count() -> str:
        return str(g.user_store.increment("n"))

    return app


def make_dash() -> Dash:
    app = Dash("board", server=make_app("board"))
    app.layout = html.Div()
    return app


def counts(app: Flask) -> list[str]:
    client = app.test_client()
    return [client.get("/count").text for _ in range(2)]


# Ways to install


@pytest.mark.parametrize("make", [make_app, make_dash])
@pytest.mark.parametrize("is_late", [False, True])
def test_it_installs_on_flask_and_dash_at_once_or_by_init_app(make: Any, is_late: bool) -> None:
    app = make()
    if is_late:
        UserStoreMiddleware().init_app(app)
    else:
        UserStoreMiddleware(app)
    assert counts(getattr(app, "server", app)) == ["1", "2"]


def test_an_instance_keeps_the_app_that_it_was_made_for_and_none_that_init_app_was_given() -> None:
    made_for_one, of_a_factory = UserStoreMiddleware(make_app()), UserStoreMiddleware()
    of_a_factory.init_app(make_app())
    gc.collect()
    made_for_one.for_user("ada")["k"] = 1
    assert made_for_one.for_user("ada")["k"] == 1
    with pytest.raises(ConfigurationError, match="serves 0 apps"):
        of_a_factory.for_user("ada")


def test_one_instance_serves_the_apps_of_a_factory_each_with_its_own_settings_and_data() -> None:
    middleware = UserStoreMiddleware()
    apps = [make_app(f"app{n}", USER_STORE_COOKIE_NAME=f"cookie{n}") for n in range(3)]
    for app in apps:
        middleware.init_app(app)
    for n, app in enumerate(apps):
        assert app.test_client().get("/count").headers["Set-Cookie"].startswith(f"cookie{n}=")
        assert counts(app) == ["1", "2"]


def test_wsgi_app_is_wrapped_in_place_so_that_what_serves_the_app_needs_no_change() -> None:
    app = make_app()
    served = app  # what app.run(), gunicorn and the test client call
    UserStoreMiddleware(app)
    assert counts(served) == ["1", "2"]


@pytest.mark.parametrize("second", [lambda dash: dash, lambda dash: dash.server])
def test_installing_twice_on_one_app_is_an_error(second: Any) -> None:
    dash = make_dash()
    middleware = UserStoreMiddleware(dash)
    for install in (UserStoreMiddleware, middleware.init_app):
        with pytest.raises(ConfigurationError, match="'board' has a user store already"):
            install(second(dash))


@pytest.mark.parametrize("thing", [object(), "app", Flask, lambda environ, start_response: []])
def test_what_is_neither_flask_nor_dash_is_refused_with_its_type(thing: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"Flask app.*Dash app.*{type(thing).__name__}"):
        UserStoreMiddleware(thing)


def test_a_failed_installation_leaves_the_app_as_it_was() -> None:
    app = make_app(USER_STORE_TTL=-1)
    before = app.wsgi_app
    with pytest.raises(ConfigurationError):
        UserStoreMiddleware(app)
    assert app.wsgi_app == before
    app.config["USER_STORE_TTL"] = 1
    UserStoreMiddleware(app)
    assert counts(app) == ["1", "2"]


# SECRET_KEY


@pytest.mark.parametrize("missing", [None, "", b""])
def test_without_a_secret_key_nothing_is_served_and_the_error_says_how_to_make_one(missing: Any) -> None:
    app = make_app(SECRET_KEY=missing)
    middleware = UserStoreMiddleware(app)
    for use in (lambda: app.test_client().get("/count"), lambda: middleware.for_user("ada")):
        with pytest.raises(ConfigurationError, match=r"SECRET_KEY[\s\S]*python -c .*secrets\.token_hex"):
            use()


def test_a_secret_key_may_be_set_after_the_middleware_is_installed() -> None:
    app = make_app(SECRET_KEY=None)
    UserStoreMiddleware(app)
    app.secret_key = SECRET
    assert counts(app) == ["1", "2"]


@pytest.mark.parametrize("install", [UserStoreMiddleware, UserStoreMiddleware().init_app])
@pytest.mark.parametrize("weak", ["k" * 15, b"k" * 15])
def test_a_weak_secret_key_is_warned_of_where_the_middleware_is_installed(install: Any, weak: Any) -> None:
    with pytest.warns(WeakSecretKey, match="fewer than 16") as warned:
        install(make_app(SECRET_KEY=weak))
    assert warned[0].filename == __file__
    assert "kkk" not in str(warned[0].message)


@pytest.mark.parametrize("strong", ["k" * 16, b"k" * 16, "ключ" * 2])
def test_a_secret_key_of_16_bytes_causes_no_warning(strong: Any) -> None:
    UserStoreMiddleware(make_app(SECRET_KEY=strong))


@pytest.mark.parametrize("keys", [{"SECRET_KEY": 5}, {"SECRET_KEY_FALLBACKS": [None]}])
def test_a_secret_key_that_is_not_text_is_an_error_that_names_it(keys: Any) -> None:
    with pytest.raises(ConfigurationError, match="SECRET_KEY"):
        UserStoreMiddleware(make_app(**keys)).for_user("ada")


# Settings


@pytest.mark.parametrize("name", ["tll", "cookie_nam", "cookie_httponly", "config", "CLOCK"])
def test_an_unknown_setting_is_an_error_that_names_it(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"USER_STORE_{name.upper()}"):
        UserStoreMiddleware(make_app(**{f"USER_STORE_{name.upper()}": 1}))
    with pytest.raises(TypeError, match=f"'{name}'"):
        UserStoreMiddleware(make_app(), **{name: 1})


def test_an_app_with_a_config_takes_its_secret_from_there_alone() -> None:
    with pytest.raises(ConfigurationError, match="USER_STORE_SECRET_KEY"):
        UserStoreMiddleware(make_app(USER_STORE_SECRET_KEY=SECRET))
    with pytest.raises(ConfigurationError, match="the app 'shop' has one"):
        UserStoreMiddleware(make_app(), secret_key=SECRET)


def test_the_error_of_a_misspelt_setting_names_the_one_that_was_meant() -> None:
    with pytest.raises(ConfigurationError, match="did you mean USER_STORE_LIFETIME"):
        UserStoreMiddleware(make_app(USER_STORE_LIFTIME=1))


@pytest.mark.parametrize("name", ["ttl", "lifetime", "timeout"])
def test_a_duration_that_is_too_long_is_refused_before_it_can_fail_a_request(name: str) -> None:
    app = make_app()
    try:
        UserStoreMiddleware(app, **{name: timedelta.max})
    except ConfigurationError as error:
        assert f"{name}=" in str(error)  # noqa: PT017
    else:
        assert counts(app) == ["1", "2"]


DURATIONS = [0, -1, float("nan"), float("inf"), "1 day", True, timedelta(0)]
SIZES = [0, -1, 1.5, "1 GiB", True]
WRONG = {
    "url": [5, "", "user_store.sqlite", "/user_store.sqlite", "mysql://localhost", "sqlite://", "sqlite:///"],
    "ttl": [None, *DURATIONS],
    "lifetime": DURATIONS,
    "timeout": [None, *DURATIONS],
    "max_bytes": SIZES,
    "max_value_bytes": SIZES,
    "max_key_length": [*SIZES, 513],
    "codec": [None, "PICKLE", "yaml", []],
    "synchronous": [None, "OFF", "normal", []],
    "counts_as_use": ["/poll", True],
    "flask_session": [None, "yes", 2],
    "flask_session_user_key": [5, b"user"],
    "cookie_name": [5, "", "user store", "a=b", "a;b", "é"],
    "cookie_path": [5, "shop"],
    "cookie_domain": [5, "https://example.com", "a..b"],
    "cookie_samesite": [True, "loose", []],
    "cookie_secure": ["yes", 2, []],
    "cookie_partitioned": ["yes", []],
    "authenticate_arrays": [None, "yes", 2, []],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_setting_is_an_error_that_names_it_in_config_and_as_an_option(name: str, value: Any) -> None:
    key = f"USER_STORE_{name.upper()}"
    with pytest.raises(ConfigurationError, match=key):
        UserStoreMiddleware(make_app(**{key: value})).for_user("ada")
    with pytest.raises(ConfigurationError, match=f"{name}="):
        UserStoreMiddleware(make_app(), **{name: value}).for_user("ada")


@pytest.mark.parametrize(
    "options",
    [
        {"cookie_samesite": "None", "cookie_secure": False},
        {"cookie_partitioned": True, "cookie_secure": False},
        {"cookie_name": "__Secure-store", "cookie_secure": False},
        {"cookie_name": "__Host-store", "cookie_secure": False},
        {"cookie_name": "__host-store", "cookie_domain": "example.com"},
        {"cookie_name": "__Host-store", "cookie_path": "/shop"},
    ],
)
def test_cookie_options_that_browsers_would_refuse_together_are_an_error(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"{list(options)[1]}="):
        UserStoreMiddleware(make_app(), **options)


def test_an_option_wins_over_the_config_and_the_config_over_the_default() -> None:
    config = {"USER_STORE_COOKIE_NAME": "from_config", "USER_STORE_COOKIE_SAMESITE": "Strict"}
    app = make_app(**config)
    UserStoreMiddleware(app, cookie_name="from_option")
    cookie = app.test_client().get("/count").headers["Set-Cookie"]
    assert cookie.startswith("from_option=")
    assert "SameSite=Strict" in cookie
    assert "Path=/" in cookie


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [
        ({}, 31 * 86400),
        ({"PERMANENT_SESSION_LIFETIME": 60}, 31 * 86400),
        ({"PERMANENT_SESSION_LIFETIME": 60, "USER_STORE_LIFETIME": timedelta(seconds=30)}, 30),
    ],
)
def test_the_lifetime_is_31_days_unless_it_is_set_and_flasks_idle_time_is_another_thing(
    settings: dict[str, Any], seconds: int
) -> None:
    app = make_app(**settings)
    UserStoreMiddleware(app)
    assert f"Max-Age={seconds};" in app.test_client().get("/count").headers["Set-Cookie"]


# Where the data are


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("sqlite:///user.sqlite", "instance/user.sqlite"),
        ("sqlite:///data/user.sqlite", "instance/data/user.sqlite"),
        ("sqlite:////{tmp}/a/user.sqlite", "a/user.sqlite"),
        (None, "instance/user_store.sqlite"),
        (MEMORY, None),
    ],
)
def test_the_url_names_a_file_in_the_instance_folder_or_anywhere_or_memory(
    tmp_path: Path, url: str | None, file: str | None
) -> None:
    app = Flask("shop", instance_path=str(tmp_path / "instance"))
    app.secret_key = SECRET
    middleware = UserStoreMiddleware(app, **({} if url is None else {"url": url.format(tmp=str(tmp_path).lstrip("/"))}))
    middleware.for_user("ada")["k"] = 1
    files = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.sqlite")]
    assert files == ([] if file is None else [file])


def test_a_path_of_three_slashes_that_named_a_file_elsewhere_before_is_an_error_that_says_so(tmp_path: Path) -> None:
    file = tmp_path / "data" / "user.sqlite"
    file.parent.mkdir()
    file.touch()
    url = f"sqlite:///{str(file).lstrip('/')}"
    app = Flask("shop", instance_path=str(tmp_path / "instance"))
    app.secret_key = SECRET
    with pytest.raises(ConfigurationError, match=f"sqlite:///{file}"):
        UserStoreMiddleware(app, url=url).for_user("ada")
    assert not (tmp_path / "instance").exists()


def test_a_path_of_three_slashes_lies_in_the_instance_folder_once_there_is_a_file_there(tmp_path: Path) -> None:
    file, instance = tmp_path / "data" / "user.sqlite", tmp_path / "instance"
    inside = Path(f"{instance}{file}")
    for each in (file, inside):
        each.parent.mkdir(parents=True)
        each.touch()
    app = Flask("shop", instance_path=str(instance))
    app.secret_key = SECRET
    UserStoreMiddleware(app, url=f"sqlite:///{str(file).lstrip('/')}").for_user("ada")["k"] = 1
    assert inside.stat().st_size > 0 == file.stat().st_size


# for_user, open, purge


def test_stores_by_user_id_and_by_session_id_are_there_in_and_out_of_a_request() -> None:
    app = make_app()
    middleware = UserStoreMiddleware(app)

    @app.get("/work")
    def work() -> str:
        middleware.for_user("ada")["from"] = "request"
        return g.user_store.session_id

    client = app.test_client()
    client.get("/count")
    assert middleware.open(client.get("/work").text)["n"] == 1
    assert middleware.for_user("ada")["from"] == "request"


@pytest.mark.parametrize("not_an_id", ["", "short", "a" * 63, "a" * 65, "é" * 64, None, 5])
def test_open_refuses_what_is_not_a_session_id(not_an_id: Any) -> None:
    with pytest.raises(InvalidKey, match="session id"):
        UserStoreMiddleware(make_app()).open(not_an_id)


def test_the_store_of_a_user_id_is_kept_until_it_is_deleted_unless_a_ttl_is_given(clock: Any) -> None:
    middleware = UserStoreMiddleware(make_app(), clock=clock, ttl=10, lifetime=20)
    middleware.for_user("ada")["k"] = middleware.for_user("bob", ttl=timedelta(minutes=1))["k"] = 1
    clock.step(59)
    assert dict(middleware.for_user("bob", ttl=60)) == {"k": 1}
    clock.step(100 * 365 * 86400)
    assert dict(middleware.for_user("bob")) == {}
    assert dict(middleware.for_user("ada")) == {"k": 1}


def test_purge_removes_what_has_expired_and_says_how_many(clock: Any) -> None:
    middleware = UserStoreMiddleware(make_app(), clock=clock)
    for n in range(450):
        middleware.for_user(n, ttl=60)["k"] = 1
    middleware.for_user("ada")["k"] = 1
    clock.step(61)
    assert middleware.purge() == 450
    assert middleware.purge() == 0
    assert middleware.for_user("ada")["k"] == 1


@pytest.mark.parametrize("call", [lambda m: m.for_user("ada"), lambda m: m.open("a" * 64), lambda m: m.purge()])
def test_of_several_apps_the_context_says_which_is_meant_and_without_it_is_an_error(call: Any) -> None:
    middleware = UserStoreMiddleware()
    with pytest.raises(ConfigurationError, match="init_app"):
        call(middleware)
    apps = make_app("one"), make_app("two")
    for app in apps:
        middleware.init_app(app)
    with pytest.raises(ConfigurationError, match=r"2 apps.*app_context"):
        call(middleware)
    with apps[0].app_context():
        call(middleware)


def test_in_the_context_of_each_app_for_user_is_that_apps_own() -> None:
    middleware = UserStoreMiddleware()
    apps = make_app("one"), make_app("two")
    for app in apps:
        middleware.init_app(app)
        with app.app_context():
            middleware.for_user("ada")["app"] = app.name
    for app in apps:
        with app.app_context():
            assert middleware.for_user("ada")["app"] == app.name


@pytest.mark.parametrize("fallbacks", ["old-key", b"old-key", [""], [b""], [5], {"old": "key"}])
def test_fallbacks_with_which_anyone_could_sign_are_refused(fallbacks: Any) -> None:
    with pytest.raises(ConfigurationError, match="SECRET_KEY_FALLBACKS"):
        UserStoreMiddleware(make_app(SECRET_KEY_FALLBACKS=fallbacks)).for_user("ada")
