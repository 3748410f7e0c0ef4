"""docs/tutorial.md: the app works after each step, and its own test passes."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from documents import ROOT, blocks, program
from programs import Load

from flask_dash_store.testing import user_store_context

TUTORIAL = "docs/tutorial.md"
STEPS = ["A page", "Keep the upload", "Two callbacks in parallel", "Forget it"]
CSV = "data:text/csv;base64," + base64.b64encode(b"age,city\n30,Rome\n40,Oslo\n").decode()


def test_all_of_its_code_is_in_these_steps() -> None:
    assert list(blocks(TUTORIAL, "python")) == [*STEPS, "Test it"]
    assert program(TUTORIAL, STEPS[-1]).startswith(program(TUTORIAL, STEPS[-2]))


@pytest.mark.parametrize("step", STEPS)
def test_the_page_is_served_after_each_step(step: str, load: Load) -> None:
    client = load(TUTORIAL, step).server.test_client()
    assert client.get("/").status_code == 200
    assert "Upload a CSV file" in client.get("/_dash-layout").text


def upload(module: ModuleType, **file: Any) -> Any:
    return module.upload(file.get("contents"), file.get("name"))


def test_an_upload_is_there_after_a_reload_and_for_no_other_visitor(load: Load) -> None:
    module = load(TUTORIAL, "Keep the upload")
    kept = ("people.csv: 2 rows", ["age", "city"], None)
    with user_store_context(module.app):
        assert upload(module, contents=CSV, name="people.csv") == kept
        assert upload(module) == kept
    with user_store_context(module.app):
        assert upload(module) == ("No file yet.", [], None)


def test_what_is_forgotten_is_gone(load: Load) -> None:
    module = load(TUTORIAL, "Forget it")
    module.app.server.add_url_rule("/visit", "visit", lambda: str(module.user_store.increment("visits")))
    client = module.server.test_client()
    assert [client.get("/visit").text for _ in range(2)] == ["1", "2"]
    assert client.post("/forget").location == "/"
    assert client.get("/visit").text == "1"


def test_the_test_that_it_writes_passes(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(program(TUTORIAL, STEPS[-1]))
    (tmp_path / "test_app.py").write_text(program(TUTORIAL, "Test it"))
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:flask", "-p", "no:dash", "--rootdir", "."],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": path, "SECRET_KEY": "k" * 32},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert "2 passed" in run.stdout, run.stdout + run.stderr
