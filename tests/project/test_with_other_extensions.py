"""The code of docs/with-other-extensions.md runs as it is written, and does what the page says.

The extensions themselves are tested in tests/extensions/.
"""

from __future__ import annotations

import re

from documents import blocks
from programs import Load
from shop import twin

PAGE = "docs/with-other-extensions.md"


def token_in(page: str) -> str:
    found = re.search('name="csrf_token"[^>]* value="([^"]+)"', page)
    assert found is not None
    return found[1]


def test_flask_login(load: Load) -> None:
    app = load(PAGE, "Flask-Login").app
    here, elsewhere = app.test_client(), app.test_client()
    for client in (here, elsewhere):
        assert client.post("/login", data={"user": "ann"}).status_code == 302
    assert here.post("/pay").text == "1 other sessions were ended"
    here.post("/logout")
    assert [client.post("/pay").status_code for client in (here, twin(elsewhere))] == [401, 401]


def test_flask_wtf(load: Load) -> None:
    module = load(PAGE, "Flask-WTF")
    client = module.app.test_client()
    token = token_in(client.get("/note").text)
    assert client.post("/note", data={"text": "Hello", "csrf_token": token}).status_code == 302
    assert client.post("/note", data={"text": "Hello"}).status_code == 400
    with client:
        client.get("/note")
        assert module.g.user_store["note"] == "Hello"


def test_flask_socketio(load: Load) -> None:
    module = load(PAGE, "Flask-SocketIO")
    browser = module.app.test_client()
    with browser.session_transaction() as session:
        session["said"] = ["Hi"]
    tabs = [module.socketio.test_client(module.app, flask_test_client=browser) for _ in range(2)]
    for tab in tabs:
        tab.emit("join")
    tabs[0].emit("say", "Hello")
    assert [tab.get_received()[0]["args"] for tab in tabs] == [[["Hi", "Hello"]]] * 2


def test_flask_security(load: Load) -> None:
    module = load(PAGE, "Flask-Security")
    module.app.add_url_rule("/in", "in", lambda: str(module.g.user_store.regenerate(user_id=7)))
    user = type("User", (), {"id": 7})
    module.app.add_url_rule("/change", "change", lambda: str(module.password_changed.send(module.app, user=user) and 1))
    here, elsewhere = module.app.test_client(), module.app.test_client()
    for client in (here, elsewhere):
        client.get("/in")
    here.get("/change")
    assert len(module.stores.sessions(7)) == 1


def test_authlib(load: Load) -> None:
    client = load(PAGE, "Authlib").app.test_client()
    response = client.get("/oauth/login")
    assert response.headers["Location"].startswith(
        "https://provider.example/authorize?response_type=code&client_id=shop"
    )
    with client.session_transaction() as session:
        (state,) = [key for key in session if key.startswith("_state_provider_")]
    assert state.removeprefix("_state_provider_") in response.headers["Location"]


def test_flask_admin(load: Load) -> None:
    module = load(PAGE, "Flask-Admin")
    client = module.app.test_client()
    with client:
        client.get("/admin/")
        token = module.Title()["csrf_token"].current_token
    page = client.post("/admin/", data={"title": "News", "csrf_token": token}, follow_redirects=True)
    assert "The title is stored" in page.text
    with client:
        client.get("/admin/")
        assert module.g.user_store["title"] == "News"


def test_flask_limiter(load: Load) -> None:
    app = load(PAGE, "Flask-Limiter").app
    ann, ben = app.test_client(), app.test_client()
    statuses = [[client.get("/search").status_code for _ in range(7)] for client in (ann, ben)]
    assert statuses == [[200] * 6 + [429]] * 2  # the first by the address, as new visitors


def test_flask_caching(load: Load) -> None:
    module = load(PAGE, "Flask-Caching")
    module.app.add_url_rule("/name/<name>", "name", lambda name: str(module.user_store.update(name=name)))
    clients = {name: module.app.test_client() for name in ("ann", "ben")}
    for name, client in clients.items():
        client.get(f"/name/{name}")
    for _ in range(2):
        for name, client in clients.items():
            pages = [client.get(path).text for path in ("/page", "/report/2024")]
            assert pages == [f"The page of {name}", f"2024 of {name}"]


def test_flask_talisman(load: Load) -> None:
    module = load(PAGE, "Flask-Talisman")
    app = module.app
    app.add_url_rule("/put", "put", lambda: module.session.setdefault("n", "1"))
    assert app.test_client().get("/put").status_code == 302
    response = app.test_client().get("/put", base_url="https://localhost")
    assert {"Secure", "HttpOnly", "SameSite=Strict"} <= set(response.headers["Set-Cookie"].split("; "))


def test_flask_cors(load: Load) -> None:
    app = load(PAGE, "Flask-CORS").app
    response = app.test_client().get("/api/cart", headers={"Origin": "https://app.example"})
    assert response.headers["Access-Control-Allow-Origin"] == "https://app.example"
    assert response.headers["Access-Control-Allow-Credentials"] == "true"
    assert {"SameSite=None", "Secure"} <= set(response.headers["Set-Cookie"].split("; "))


def test_no_python_code_is_left_out() -> None:
    tests = {name.removeprefix("test_").replace("_", "-") for name in globals() if name.startswith("test_")}
    headings = {heading.lower() for heading in blocks(PAGE, "python")}
    assert headings - tests == {"with other extensions"}
