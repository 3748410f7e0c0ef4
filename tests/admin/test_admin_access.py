"""No one gets anything of the admin page whom `allow` does not let in, and no other site's page can click in it.

Promise: docs/security.md, "The admin page".
"""

from __future__ import annotations

import logging
from itertools import product
from typing import Any

import pytest
from admin_page import OWN_PAGE, AdminPage, MakeSite, Site
from flask import Flask, abort, g, redirect, session
from flask_wtf import CSRFProtect

from flask_dash_store import ConfigurationError, UserStoreAdmin, UserStoreMiddleware

PATHS = [
    "",
    "/",
    "/_dash-layout",
    "/_dash-dependencies",
    "/_dash-update-component",
    "/_reload-hash",
    "/_favicon.ico",
    "/_dash-component-suites/dash/html/dash_html_components.min.js",
    "/assets/admin.css",
    "/assets/admin.js",
    "/../secret",
    "/anything",
]
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


FOREIGN: list[dict[str, str]] = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost.evil.example"},
    {},
]


def deny() -> bool:
    return False


def fail() -> bool:
    raise RuntimeError("the database is away")


def test_nothing_below_the_url_is_answered_to_those_who_are_not_allowed(make_site: MakeSite) -> None:
    client = make_site(allow=deny).app.test_client()
    for path, method in product(PATHS, METHODS):
        response = client.open(f"/user-store{path}", method=method, json={}, headers=OWN_PAGE)
        assert (response.status_code, response.data) in ((403, b"Forbidden"), (403, b"")), (path, method)
        assert "no-store" in response.headers["Cache-Control"]


def test_a_callback_of_those_who_are_not_allowed_does_nothing(make_site: MakeSite) -> None:
    allowed = True
    site = make_site(allow=lambda: allowed)
    visitor = site.visitor(cart=1)
    (name,) = site.page.rows()
    click = site.page.callback("ended.data", end=1, url=f"#{name}")
    allowed = False
    assert site.page.post(click).status_code == 403
    assert visitor.get("/keys").json == ["cart"]
    allowed = True
    assert site.page.post(click).status_code == 200
    assert visitor.get("/keys").json == []


def test_an_answer_that_is_not_true_itself_refuses(make_site: MakeSite) -> None:
    answers = iter([None, False, 1, "yes", object(), [True], deny])
    client = make_site(allow=lambda: next(answers)).app.test_client()
    assert [client.get("/user-store/").status_code for _ in range(7)] == [403] * 7


def test_an_answer_that_is_no_bool_is_logged(make_site: MakeSite, caplog: pytest.LogCaptureFixture) -> None:
    make_site(allow=lambda: "ada").app.test_client().get("/user-store/")
    assert "returned a str" in caplog.text
    assert "ada" not in caplog.text


def test_an_exception_in_allow_refuses_and_is_logged(make_site: MakeSite, caplog: pytest.LogCaptureFixture) -> None:
    response = make_site(allow=fail).app.test_client().get("/user-store/_dash-layout")
    assert (response.status_code, response.text) == (403, "Forbidden")
    assert "the database is away" in caplog.text
    assert caplog.records[-1].levelno == logging.ERROR


def test_allow_may_abort_with_an_answer_of_its_own(make_site: MakeSite) -> None:
    site = make_site(allow=lambda: abort(redirect("/login")))
    response = site.app.test_client().get("/user-store/")
    assert (response.status_code, response.location) == (302, "/login")


def test_allow_is_asked_within_the_request_of_the_app(make_site: MakeSite) -> None:
    site = make_site(allow=lambda: session.get("role") == "operator" and g.user_store is not None)
    site.app.add_url_rule("/become/<role>", "become", lambda role: session.update(role=role) or "")
    client = site.app.test_client()
    assert client.get("/user-store/").status_code == 403
    client.get("/become/operator")
    assert client.get("/user-store/").status_code == 200
    client.get("/become/visitor")
    assert client.get("/user-store/").status_code == 403


def test_a_post_of_another_sites_page_is_refused_whatever_the_cookies_samesite_is(site: Site) -> None:
    visitor = site.visitor(cart=1)
    (name,) = site.page.rows()
    end = site.page.callback("ended.data", end=1, url=f"#{name}")
    purge = site.page.callback("started.data", run_purge=1)
    for headers in FOREIGN:
        assert [site.page.post(asked, headers).status_code for asked in (end, purge)] == [403, 403], headers
    assert visitor.get("/keys").json == ["cart"]


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", None])
def test_a_post_that_a_form_could_send_is_refused(site: Site, content_type: str | None) -> None:
    response = site.page.client.post(
        "/user-store/_dash-update-component", data=b"{}", content_type=content_type, headers=OWN_PAGE
    )
    assert response.status_code == 403


def test_a_browser_without_fetch_metadata_is_known_by_its_origin(site: Site) -> None:
    asked = site.page.callback("tiles.children")
    assert site.page.post(asked, {"Origin": "http://localhost"}).status_code == 200
    for origin in ("http://xn--bcher-kva.example", "http://[fd00::1]:8050"):
        there = {"base_url": origin}
        assert site.page.post(asked, {"Origin": origin}, **there).status_code == 200, origin
        assert site.page.post(asked, {"Origin": "http://localhost"}, **there).status_code == 403, origin
    shop = {"base_url": "https://shop.example:8443"}
    assert site.page.post(asked, {"Origin": "https://shop.example:8443"}, **shop).status_code == 200
    assert site.page.post(asked, {"Origin": "https://shop.example"}, **shop).status_code == 403


def test_answers_are_kept_from_caches_frames_and_foreign_scripts(site: Site) -> None:
    for path in ("", "_dash-layout", "_dash-dependencies"):
        headers = site.page.client.get(f"/user-store/{path}").headers
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert "unsafe-inline" not in headers["Content-Security-Policy"].split("style-src")[0]
    assert site.page.post(site.page.callback("tiles.children")).headers["Cache-Control"] == "no-store"


def test_what_protects_answers_is_not_replaced_by_functions_of_the_app(site: Site) -> None:
    @site.app.after_request
    def weaken(response: Any) -> Any:
        response.headers.update(
            {"Cache-Control": "public, max-age=3600", "X-Frame-Options": "SAMEORIGIN", "X-Shop": "1"}
        )
        return response

    for path in ("/user-store/", "/user-store", "/user-store/_dash-layout", "/user-store/nothing"):
        headers = site.page.client.get(path).headers
        assert headers["X-Shop"] == "1"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Cache-Control"] == "no-store", path


def test_scripts_are_cached_by_no_one_but_the_operators_browser(site: Site) -> None:
    page = site.page.client.get("/user-store/").text
    scripts = [part.split('"')[0] for part in page.split('src="')[1:]]
    assert len(scripts) > 5
    for script in [*scripts, "/user-store/_dash-component-suites/plotly/package_data/plotly.min.js"]:
        response = site.page.client.get(script)
        assert response.status_code == 200, script
        if "ETag" in response.headers:
            assert response.headers["Cache-Control"] == "private, no-cache"
            again = site.page.client.get(script, headers={"If-None-Match": response.headers["ETag"]})
            assert again.status_code == 304
        else:
            assert response.headers["Cache-Control"] == "private, max-age=31536000"


def test_it_refuses_to_start_without_allow_and_says_what_to_do() -> None:
    with pytest.raises(ConfigurationError, match=r"UserStoreAdmin\(app, allow=lambda: current_user"):
        UserStoreAdmin(Flask("shop"))


@pytest.mark.parametrize("url", ["", "/", "user-store", "/user-store/", "/<user>", "//", "/a b", "/..", "/a/./b", None])
def test_it_refuses_an_url_that_is_no_path(url: Any) -> None:
    with pytest.raises(ConfigurationError, match="url="):
        UserStoreAdmin(Flask("shop"), url, allow=deny)


def test_it_refuses_what_it_cannot_be_put_on() -> None:
    with pytest.raises(ConfigurationError, match="python -m flask_dash_store URL stats"):
        UserStoreAdmin(object(), allow=deny)  # type: ignore[arg-type]
    app = Flask("shop")
    UserStoreAdmin(app, allow=deny)
    with pytest.raises(ConfigurationError, match="already"):
        UserStoreAdmin(app, "/other", allow=deny)
    late = Flask("late")
    late.test_client().get("/")
    with pytest.raises(ConfigurationError, match="first request"):
        UserStoreAdmin(late, allow=deny)


def test_it_refuses_a_folder_for_backups_that_is_not_there(tmp_path: Any) -> None:
    with pytest.raises(ConfigurationError, match="backups="):
        UserStoreAdmin(Flask("shop"), allow=deny, backups=tmp_path / "none")


def test_it_may_be_put_on_an_app_before_the_middleware(tmp_path: Any) -> None:
    app = Flask("shop")
    app.secret_key = "k" * 32
    UserStoreAdmin(app, "/ops/store", allow=lambda: True)
    stores = UserStoreMiddleware(app, url=f"sqlite:///{tmp_path}/store.sqlite")
    assert "Sessions 0" in AdminPage(app.test_client(), "/ops/store").text("tiles.children")
    stores.close()


def test_without_the_middleware_the_error_says_so() -> None:
    app = Flask("shop")
    app.testing = True
    UserStoreAdmin(app, allow=lambda: True)
    for path in ("/user-store/", "/user-store/_dash-layout"):
        with pytest.raises(ConfigurationError, match=r"UserStoreMiddleware\(app\)"):
            app.test_client().get(path)


def test_with_csrf_protect_its_view_is_exempt_where_the_app_says_so(make_site: MakeSite) -> None:
    site = make_site()
    csrf = CSRFProtect(site.app)
    site.page.post(site.page.callback("tiles.children"))
    assert site.page.post(site.page.callback("tiles.children")).status_code == 400
    csrf.exempt("flask_dash_store.admin.page.serve")
    assert site.page.post(site.page.callback("tiles.children")).status_code == 200
