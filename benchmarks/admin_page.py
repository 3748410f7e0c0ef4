"""How long the admin page takes to answer, with many sessions in a SQLite file: python -m benchmarks.admin_page"""

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from flask import Flask, Response

from flask_dash_store import UserStoreAdmin, UserStoreMiddleware
from flask_dash_store.admin import overview
from flask_dash_store.expiry import Access
from flask_dash_store.extension import OpenedExtension
from flask_dash_store.owner import new_session_id, session_owner

BATCH = 2000
ROUNDS = 9
DAY = 24 * 3600.0

ASKED = {
    "numbers": ("tiles.children", {}),
    "plots over time": ("sessions-plot.figure", {"span": "month"}),
    "plots of sizes, ages, expiries": ("sizes-plot.figure", {}),
    "first page of sessions": ("owners.children", {"order": "newest"}),
    "page in the middle": ("owners.children", {"order": "largest", "offset": "middle"}),
    "search": ("owners.children", {"search": "Zx"}),
    "one session": ("detail.hidden", {"url": "first"}),
}


def fill(extension: OpenedExtension, number: int) -> None:
    """Store sessions with one to four values each, as they may have come within two weeks."""
    storage, codec, random, now = extension.storage, extension.codec, Random(1), time.time()

    def sessions() -> Iterator[tuple[Any, Access]]:
        for _ in range(number):
            began = now - min(random.expovariate(1 / (2 * DAY)), 13 * DAY)
            yield session_owner(new_session_id()), Access(began, began + 14 * DAY, 0.0)

    made = sessions()
    while batch := list(islice(made, BATCH)):
        with storage.transaction(batch[0][0]):
            for owner, access in batch:
                for key in ("cart", "filters", "page", "draft")[: random.choice((1, 1, 2, 4))]:
                    value = "x" * int(min(50_000, random.lognormvariate(5, 1.5)))
                    storage.set(owner, key, codec.encode(owner.name, key, value), access)


class Page:
    """An app with many sessions, and what its admin page asks."""

    def __init__(self, folder: Path, sessions: int) -> None:
        self._sessions = sessions
        app = Flask("measured")
        app.secret_key = "only for this measurement, and long"
        self.stores = UserStoreMiddleware(app, url=f"sqlite:///{folder}/store.sqlite", ttl=14 * DAY)
        UserStoreAdmin(app, allow=lambda: True)
        self.extension = self.stores.opened(app)
        fill(self.extension, sessions)
        self._client = app.test_client()
        self._callbacks = self._client.get("/user-store/_dash-dependencies").get_json()

    def seconds(self, output: str, values: dict[str, str]) -> float:
        """How long the callback takes that sets ``output``."""
        asked = self._asked(output, values)
        began = time.perf_counter()
        response = self._post(asked)
        took = time.perf_counter() - began
        assert response.status_code == 200, response.text
        return took

    def _post(self, asked: Any) -> Response:
        headers = {"Sec-Fetch-Site": "same-origin"}
        return self._client.post("/user-store/_dash-update-component", json=asked, headers=headers)

    def _asked(self, output: str, values: dict[str, str]) -> Any:
        first = (
            self.extension.storage.owners("s.", Access(time.time(), math.inf, math.inf))[0] if "url" in values else ""
        )
        found: Any = {"offset": self._sessions // 2, "url": f"#{first}"}
        given = {name: found.get(name, value) for name, value in values.items()}
        callback = next(
            each for each in self._callbacks if output in each["output"] and not each["clientside_function"]
        )
        parts = [part.rpartition(".") for part in callback["output"].strip(".").split("...")]
        return {
            "output": callback["output"],
            "outputs": [{"id": part[0], "property": part[2]} for part in parts],
            "inputs": [{**each, "value": given.get(each["id"])} for each in callback["inputs"]],
            "state": [{**each, "value": given.get(each["id"])} for each in callback["state"]],
            "changedPropIds": [],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the admin page.")
    parser.add_argument("--sessions", type=int, default=100_000)
    sessions = parser.parse_args().sessions
    overview.REUSED_FOR = overview.SHARE = 0  # Otherwise what was counted is shown again for a while.
    with tempfile.TemporaryDirectory() as folder:
        page = Page(Path(folder), sessions)
        for what, (output, values) in ASKED.items():
            times = [page.seconds(output, values) for _ in range(ROUNDS)]
            print(f"{what:32}{min(times) * 1000:6.0f} ms, median {statistics.median(times) * 1000:.0f}", flush=True)
        page.stores.close()


if __name__ == "__main__":
    main()
