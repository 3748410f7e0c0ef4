"""README.md is short, its code runs as written, its commands are there, and its links work on PyPI too."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from documents import README, ROOT, blocks, read
from flask.testing import FlaskClient
from programs import Load

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REPOSITORY = PROJECT["urls"]["Repository"]


def test_the_readme_is_read_in_a_few_minutes() -> None:
    assert len(read(README).splitlines()) <= 150


# The code


def call_back(client: FlaskClient, output: str, **inputs: Any) -> Any:
    """Call a Dash callback as a browser does."""
    component, prop = output.split(".")
    body = {
        "output": output,
        "outputs": {"id": component, "property": prop},
        "inputs": [{"id": key, "property": "value", "value": value} for key, value in inputs.items()],
        "changedPropIds": [f"{key}.value" for key in inputs],
    }
    response = client.post("/_dash-update-component", json=body)
    assert response.status_code == 200, response.text
    return response.json["response"][component][prop]


def test_the_dash_app_keeps_each_visitors_name_over_a_restart(load: Load) -> None:
    server = load(README, "Use it with Dash").server
    ann, ben = server.test_client(), server.test_client()
    assert "HttpOnly" in ann.get("/").headers["Set-Cookie"]
    ben.get("/")

    assert call_back(ann, "greeting.children", name=None) == "Hello stranger"
    assert call_back(ann, "greeting.children", name="Ann") == "Hello Ann"
    assert call_back(ben, "greeting.children", name=None) == "Hello stranger"

    ann.application = load(README, "Use it with Dash").server
    assert call_back(ann, "greeting.children", name=None) == "Hello Ann"


def test_the_flask_app_keeps_flasks_session_and_counts_with_one_cookie(load: Load) -> None:
    browser = load(README, "Use it with Flask").app.test_client()
    assert browser.post("/cart/apple").json == {"cart": ["apple"], "visits": 1}
    assert browser.post("/cart/pear").json == {"cart": ["apple", "pear"], "visits": 2}
    assert browser.get_cookie("session") is not None
    assert browser.get_cookie("user_store") is None


# The commands


@pytest.mark.parametrize("script", ["scripts/demo", "scripts/test", ".ci/run"])
def test_the_scripts_that_are_named_can_be_run(script: str) -> None:
    assert script in read(README) + read("CONTRIBUTING.md")
    assert os.access(ROOT / script, os.X_OK)


def test_the_secret_key_that_is_made_is_long_enough(tmp_path: Path) -> None:
    [command] = [line for line in "".join(blocks(README, "sh")["Use it with Dash"]).splitlines() if "export" in line]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", f'{command}; echo -n "$SECRET_KEY"'],
        cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert len(done.stdout) >= 32
    assert shlex.split(done.stdout) == [done.stdout]


# Links, which PyPI shows without the files beside them


def links_of(readme: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", readme)


def test_every_link_leads_to_a_file_or_to_another_site() -> None:
    links = links_of(read(README))
    assert len(links) > 20
    paths = [link.partition("#")[0] for link in links if not link.startswith("https://")]
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert [link for link in links if link.startswith(REPOSITORY)] == []


def test_on_pypi_each_of_them_is_absolute() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "readme_for_pypi.py")]
    published = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    tag = f"v{PROJECT['version']}"
    raw = REPOSITORY.replace("https://github.com/", "https://raw.githubusercontent.com/")
    pairs = list(zip(links_of(read(README)), links_of(published), strict=True))
    for link, absolute in pairs:
        prefix = raw if link.endswith(".svg") else f"{REPOSITORY}/blob"
        assert absolute == (link if link.startswith("https://") else f"{prefix}/{tag}/{link}")
    assert read("README.md").count("\n") == published.count("\n")


def test_the_picture_is_well_formed_and_has_a_title_and_a_description() -> None:
    picture = ElementTree.parse(ROOT / "docs" / "how-it-works.svg").getroot()
    assert [each.tag.partition("}")[2] for each in picture][:2] == ["title", "desc"]
    assert "prefers-color-scheme: dark" in read("docs/how-it-works.svg")
