"""The site is built from docs/ without a warning: each page is in its table of contents, each link leads somewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from documents import PAGES, ROOT, read

import flask_dash_store


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "docs", str(folder)],
        cwd=ROOT, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def test_it_has_every_page(site: Path) -> None:
    pages = {path.with_suffix(".md").name for path in site.glob("*.html")}
    assert pages - {"genindex.md", "search.md"} == {page.removeprefix("docs/") for page in PAGES}


def test_its_reference_has_every_public_name(site: Path) -> None:
    html = (site / "api.html").read_text()
    assert [name for name in flask_dash_store.__all__ if f'id="flask_dash_store.{name}"' not in html] == []


def test_what_lies_beside_the_pages_is_linked_to_in_the_repository(site: Path) -> None:
    assert "](../flask_dash_store/storage/base.py)" in read("docs/write-a-backend.md")
    assert "/blob/main/flask_dash_store/storage/base.py" in (site / "write-a-backend.html").read_text()
