"""Background callbacks on FastAPI and Quart, under uvicorn with two workers: a job finds the store of its visitor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from dash_jobs import Job, wait_for_end_of_process
from servers import Port, Server, running, uvicorn

APPS = Path(__file__).parents[1] / "support" / "apps"
TIMEOUT = 60.0


@pytest.fixture(params=["fastapi", "quart"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    environ = {"BACKEND": request.param, "FOLDER": str(tmp_path)}
    with (
        closing(Port()) as port,
        running(uvicorn("asgi_background_app:make", port.number, APPS), port.number, tmp_path, environ) as server,
    ):
        yield server


class Page:
    """A browser that has opened the page."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        client.get("/")

    def start(self, output: str) -> Job:
        job = self._ask(output)
        return {name: job[name] for name in ("cacheKey", "job")}

    def result(self, output: str, job: Job) -> Any:
        wait_for_end_of_process(job)
        return self._ask(output, **job)["response"][output]["children"]

    def _ask(self, output: str, **query: str) -> Any:
        body = {
            "output": f"{output}.children",
            "outputs": {"id": output, "property": "children"},
            "inputs": [{"id": "run", "property": "n_clicks", "value": 1}],
            "changedPropIds": ["run.n_clicks"],
        }
        response = self._client.post("/_dash-update-component", json=body, params=query)
        assert response.status_code == 200, response.text
        return response.json()

    def get(self, path: str) -> Any:
        return self._client.get(path).json()


@pytest.fixture
def pages(server: Server) -> Iterator[dict[str, Page]]:
    """Of two visitors, by their names."""
    with ExitStack() as clients:
        yield {
            name: Page(
                clients.enter_context(
                    httpx.Client(base_url=server.url, timeout=TIMEOUT, headers={"X-User-Store-Tab": tab * 32})
                )
            )
            for name, tab in (("ada", "1"), ("bob", "2"))
        }


def test_jobs_of_two_visitors_at_once_each_have_the_visitors_store_and_no_cookie(pages: dict[str, Page]) -> None:
    names = {name: page.get(f"/name/{name}")["visitor"] for name, page in pages.items()}
    jobs = {name: page.start("report") for name, page in pages.items()}
    for name, page in pages.items():
        assert page.result("report", jobs[name]) == {
            "name": name,
            "visitor": names[name],
            "regenerate": "OutsideRequest",
            "cookies": [],
            "is elsewhere": True,
        }
        assert page.get("/values") == {"name": name, "jobs": 1}
    ada = pages["ada"]
    assert ada.result("report-async", ada.start("report-async")) == "ada, of ada"
