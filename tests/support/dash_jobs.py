"""The jobs of Dash's background callbacks, without what Dash loses when one ends while its page asks for the result.

``_update_background_callback`` and ``_handle_rest_background_callback`` (dash/_callback.py) first look for the result,
then whether the job runs. A job that ends in between has no result and does not run: the page is answered that there is
none, and asks no more. ``CeleryManager.get_updated_props`` then deletes even the result, where it means what
``set_props`` has sent. And ``DiskcacheManager.terminate_job`` may raise psutil.NoSuchProcess while the process ends.

So in a test, the page asks when the job has ended.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import parse_qsl, urlsplit

import psutil
from playwright.sync_api import Page, Route

TIMEOUT = 60
QUESTION = re.compile("[?&]cacheKey=")  # for progress, or a result

Job = dict[str, str]  # cacheKey and job, each with a signature, as a page sends them


@contextmanager
def no_questions(page: Page) -> Iterator[Job]:
    """In this block, the page that has started a job waits for an answer, and its question has not been sent."""
    held: list[Route] = []
    page.route(QUESTION, lambda route: held.append(route), times=1)  # It asks again only when it has been answered.
    deadline = time.monotonic() + TIMEOUT
    while not held:
        assert time.monotonic() < deadline, "The page asks for nothing."
        page.wait_for_timeout(10)  # Playwright handles what happens in it.
    yield dict(parse_qsl(urlsplit(held[0].request.url).query))
    held[0].continue_()


def key_of(job: Job) -> str:
    """Where the manager keeps the job's result."""
    return job["cacheKey"].partition("~")[0]


def wait_for_end_of_process(job: Job, is_reaped: bool = False) -> None:
    """Wait until the job's process has ended, and has been reaped if its parent reaps it by itself."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(int(job["job"].partition("~")[0]))
        deadline = time.monotonic() + TIMEOUT
        while is_reaped or process.status() != psutil.STATUS_ZOMBIE:
            process.status()  # Raises when it has gone.
            assert time.monotonic() < deadline, "The job does not end."
            time.sleep(0.01)
