"""A server that root starts and that changes its user after it has opened the storage gets an error that says why.

Promises: docs/reliability.md, "Where it runs".
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from http_visitor import Visitor, ask_both_workers
from servers import Port, gunicorn, running

APPS = Path(__file__).parents[1] / "support" / "apps"
NOBODY = pwd.getpwnam("nobody")

# Asked as a user who is not root, even when root runs the tests.
ASK = """
import os, sys
from pathlib import Path
from flask_dash_store.storage.sqlite.files import access_problem
if os.geteuid() == 0:
    os.seteuid(int(sys.argv[1]))
print(access_problem(Path("/etc/store.sqlite")))
"""


def ask_access_problem() -> str:
    command = [sys.executable, "-c", ASK, str(NOBODY.pw_uid)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may look into, as pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="flask_dash_store-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_the_error_for_a_folder_of_another_user_says_whose_it_is_and_what_to_do() -> None:
    said = ask_access_problem()
    assert said.startswith("/etc belongs to root (uid 0)")
    assert "chown" in said


def test_gunicorn_that_root_started_with_preload_and_user_says_whose_file_it_is_until_it_is_the_users(folder) -> None:
    if os.geteuid() != 0:  # No one else may change the user; what is said is tested above.
        assert "gunicorn --user" in ask_access_problem()
        return
    file = folder / "store.sqlite"
    environ = {"FLASK_SECRET_KEY": "only for these tests", "FLASK_USER_STORE_URL": f"sqlite:///{file}"}
    options = ("--preload", "--user", NOBODY.pw_name)
    with closing(Port()) as port:
        command = gunicorn("early_app:server", port.number, APPS, *options)
        with running(command, port.number, folder, environ):
            visitor = Visitor(port.number)
            for method, path in [("GET", "/values/key"), ("PUT", "/values/key")]:
                answer = visitor.ask(method, path, 1)
                assert answer.body["error"] == "StorageError"
                assert answer.body["message"].startswith(f"{file} belongs to root (uid 0), and this process")
                assert f"runs as nobody (uid {NOBODY.pw_uid})" in answer.body["message"]
            for each in [folder, *folder.glob("store.sqlite*")]:
                os.chown(each, NOBODY.pw_uid, NOBODY.pw_gid)
            ask_both_workers(visitor, "PUT", "/values/key", 1)
            assert visitor.do("GET", "/values")["values"] == {"key": 1}
