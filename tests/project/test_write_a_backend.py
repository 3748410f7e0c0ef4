"""docs/write-a-backend.md: its backend is one, and its command holds that to the contract."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from documents import ROOT, blocks

DOCUMENT = "docs/write-a-backend.md"
SECRET_KEY = "only for tests, where no one is to be kept out"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder like a checkout, with the document's code in the files that it names."""
    for name in ("tests", "setup.cfg"):
        (tmp_path / name).symlink_to(ROOT / name)
    python = blocks(DOCUMENT, "python")
    storage, app = python.pop("Name it in a URL")
    (contract,) = python.pop("Run the contract's tests")
    assert not python, "each block of code is run"
    for name, code in (("my_storage", storage), ("app", app), ("my_contract", contract)):
        (tmp_path / f"{name}.py").write_text(code)
    return tmp_path


def run(command: list[str], folder: Path) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ = os.environ | {"SECRET_KEY": SECRET_KEY, "PATH": path}
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_app_keeps_its_values_in_the_backend_and_shares_them_by_name(folder: Path) -> None:
    program = """
import app, my_storage, flask_dash_store
from flask_dash_store.storage import StorageOptions, open_storage
from pathlib import Path

client = app.app.test_client()
print([client.get("/count").json["count"] for _ in range(2)])
options = StorageOptions(Path())
shop, other = (open_storage(f"shared-memory://{name}", options) for name in ("shop", "other"))
print(len(list(shop.all_owners())), len(list(other.all_owners())))
try:
    open_storage("shared-memory://", options)
except flask_dash_store.ConfigurationError as error:
    print(error)
"""
    *numbers, refusal = run([sys.executable, "-c", program], folder).splitlines()
    assert numbers == ["[1, 2]", "1 0"]
    assert "a name has to follow" in refusal


def test_the_contracts_tests_run_against_the_backend_by_the_command_that_is_named(folder: Path) -> None:
    ((command,),) = blocks(DOCUMENT, "sh").values()
    output = run(["bash", "-ec", f"{command.strip()} -n 0 -p no:cacheprovider"], folder)
    found = re.search(r"(\d+) passed", output)
    assert found is not None, output
    assert int(found[1]) > 300
    assert "failed" not in output
