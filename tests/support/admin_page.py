"""The admin page as its own script sees it: callbacks that are called over HTTP, and the text of what they answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from clocks import HandClock
from flask import Flask, g
from flask.testing import FlaskClient

from flask_dash_store import UserStoreAdmin, UserStoreMiddleware

OWN_PAGE = {"Sec-Fetch-Site": "same-origin"}


class AdminPage:
    """One operator's page.

    :param client: of the app that the page is on
    :param url: of the page, without a slash at its end
    """

    def __init__(self, client: FlaskClient, url: str = "/user-store") -> None:
        self.client = client
        self.url = url

    def callback(self, output: str, **values: Any) -> dict[str, Any]:
        """What is asked of the callback that sets ``output``, such as ``tiles.children``, with these values by id."""
        for each in self.client.get(f"{self.url}/_dash-dependencies").json:
            outputs = [out.split("@")[0] for out in each["output"].strip(".").split("...")]
            ids = {arg["id"].replace("-", "_") for arg in (*each["inputs"], *each["state"])}
            if output in outputs and values.keys() <= ids:
                break
        else:
            raise AssertionError(f"No callback sets {output} and takes {', '.join(values)}.")
        inputs, state = (
            [{**arg, "value": values.get(arg["id"].replace("-", "_"))} for arg in each[kind]]
            for kind in ("inputs", "state")
        )
        parts = [out.rpartition(".") for out in each["output"].strip(".").split("...")]
        return {
            "output": each["output"],
            "outputs": [{"id": part[0], "property": part[2]} for part in parts],
            "inputs": inputs,
            "state": state,
            "changedPropIds": [f"{inputs[0]['id']}.{inputs[0]['property']}"],
        }

    def post(self, asked: Any, headers: Any = OWN_PAGE, **options: Any) -> Any:
        """The response to a callback's request."""
        return self.client.post(f"{self.url}/_dash-update-component", json=asked, headers=headers, **options)

    def call(self, output: str, **values: Any) -> dict[str, Any]:
        """What a callback sets, by ``id.property``."""
        response = self.post(self.callback(output, **values))
        assert response.status_code == 200, response.text
        answer = response.json["response"]
        return {f"{name}.{prop}": value for name, props in answer.items() for prop, value in props.items()}

    def text(self, output: str, **values: Any) -> str:
        """The text that a callback sets."""
        return text(self.call(output, **values)[output])

    def rows(self, **values: Any) -> list[str]:
        """The names in the list of sessions or users, as links to them."""
        found = self.call("owners.children", **values)["owners.children"]
        return [href[1:] for href in hrefs(found)]

    def detail(self, name: str) -> dict[str, Any]:
        """What is shown of one session or user."""
        return self.call("detail.hidden", url=f"#{name}")

    def run(self, kind: str) -> str:
        """Click the button of a task. Returns what is said of it."""
        return text(self.call("task-note.children", **{f"run_{kind}": 1, "started": 0}).get("task-note.children", ""))


class Site:
    """An app whose visitors store what they are told to, and its operator's page."""

    def __init__(self, url: str, clock: HandClock, admin: bool = True, **options: Any) -> None:
        limits = {name: options.pop(name) for name in ("codec", "max_bytes", "max_keys", "timeout") if name in options}
        self.app = Flask("shop")
        self.app.secret_key = "k" * 32
        self.app.add_url_rule("/put/<key>", "put", self._put, methods=["POST"])
        self.app.add_url_rule("/log-in/<user>", "log_in", lambda user: g.user_store.regenerate(user_id=user) or "")
        self.app.add_url_rule("/id", "id", lambda: g.user_store.session_id)
        self.app.add_url_rule("/keys", "keys", lambda: list(g.user_store))
        self.stores = UserStoreMiddleware(self.app, url=url, ttl=3600, clock=clock, **limits)
        self.value: Any = None
        if admin:
            UserStoreAdmin(self.app, **{"allow": lambda: True, **options})
        self.page = AdminPage(self.app.test_client())

    def _put(self, key: str) -> str:
        g.user_store[key] = self.value
        return ""

    def visitor(self, **values: Any) -> FlaskClient:
        """A visitor who has stored these values."""
        client = self.app.test_client()
        for key, self.value in values.items():
            assert client.post(f"/put/{key}").status_code == 200
        return client

    @property
    def opened(self) -> Any:
        return self.stores.opened(self.app)


MakeSite = Callable[..., Site]


def text(component: Any) -> str:
    """The text of components, as JSON has them."""
    return " ".join(_texts(component))


def _texts(component: Any) -> Iterator[str]:
    if isinstance(component, list):
        for each in component:
            yield from _texts(each)
    elif isinstance(component, dict):
        yield from _texts(component.get("props", {}).get("children"))
    elif component is not None:
        yield str(component)


def hrefs(component: Any) -> list[str]:
    """All links in components."""
    found: list[str] = []
    json.loads(json.dumps(component), object_hook=lambda each: found.append(each["href"]) if "href" in each else each)
    return found
