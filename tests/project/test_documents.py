"""What docs/ says of the tests is so: each promise names one, each that is named is there; and links lead somewhere."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from flask import g
from flask.testing import FlaskClient

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(path.name for path in (ROOT / "docs").glob("*.md"))
SECRET_KEY = "only for tests, where there is nothing to protect"
NAMED_TEST = re.compile(r"\b(tests/[\w/]+\.py)(?:::(\w+))?")


def read(document: str) -> str:
    return (ROOT / "docs" / document).read_text()


def tables(document: str) -> Iterator[tuple[list[str], list[list[str]]]]:
    """The head of each table, and its rows."""
    for lines in re.findall(r"(?:^\|.*\n)+", read(document), flags=re.MULTILINE):
        head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines.splitlines())
        yield head, rows


def names_of_tests(file: Path) -> set[str]:
    """The names of a file's functions, and of its classes, which hypothesis makes of its machines."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    assigned = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    names = {node.name for node in nodes if isinstance(node, ast.FunctionDef)} | assigned
    return {name for name in names if name.startswith(("test_", "Test"))}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_test_that_is_named_is_there(document: str) -> None:
    for file, test in NAMED_TEST.findall(read(document)):
        assert (ROOT / file).exists(), file
        assert not test or test in names_of_tests(ROOT / file), test


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_promise_names_its_test(document: str) -> None:
    for head, rows in tables(document):
        for row in rows:
            if head[0] == "Promise" or (head[0] == "Requirement" and row[-1].startswith("Kept")):
                assert re.search(r"`tests/[\w/]+\.py::\w+`", row[-1]), row[0]


def test_every_section_that_a_test_names_is_there() -> None:
    for file in (ROOT / "tests").rglob("test_*.py"):
        text = " ".join((ast.get_docstring(ast.parse(file.read_text())) or "").split())
        for document, names in re.findall(r'docs/(\w+\.md), ((?:"[^"]+"(?: and )?)+)', text):
            headings = re.findall(r"^#+ (.+)$", read(document), re.MULTILINE)
            assert set(re.findall(r'"([^"]+)"', names)) <= set(headings), file


def test_every_requirement_is_kept_or_left_to_the_app_or_the_reason_is_given() -> None:
    matrices = [rows for head, rows in tables("security.md") if head[0] == "Requirement"]
    outcomes = re.compile(r"(Kept|Left to the app|Not applicable|Not kept)(: |, ).+")
    assert [row[0] for rows in matrices for row in rows if not outcomes.match(row[-1])] == []
    numbers = [row[0].split()[0] for rows in matrices[:2] for row in rows]
    sections = {"7.1": 3, "7.2": 4, "7.3": 2, "7.4": 5, "7.5": 3, "7.6": 2, "3.3": 5}
    assert numbers == [f"{section}.{n}" for section, count in sections.items() for n in range(1, count + 1)]


def anchors_of(file: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("document", [*(f"docs/{name}" for name in DOCUMENTS), "CONTRIBUTING.md", "CHANGELOG.md"])
def test_every_link_leads_to_a_file_and_to_a_heading_of_it(document: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", (ROOT / document).read_text()):
        name, _, anchor = target.partition("#")
        if "://" not in target:
            file = (ROOT / document).parent / name if name else ROOT / document
            assert file.exists(), target
            assert not anchor or anchor in anchors_of(file), target


# The code


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The app that docs/security.md leaves to the reader, as a module."""
    [code] = re.findall(r"^```python\n(.*?)^```$", read("security.md"), re.DOTALL | re.MULTILINE)
    monkeypatch.setenv("SECRET_KEY", SECRET_KEY)
    (tmp_path / "app.py").write_text(code)
    spec = importlib.util.spec_from_file_location("app_of_security_md", tmp_path / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.app.add_url_rule("/log-in/<user>", "in", lambda user: module.log_in(user) or "", methods=["POST"])
    module.app.add_url_rule("/log-out", "out", lambda: module.log_out() or "", methods=["POST"])
    module.app.add_url_rule("/end-others/<user>", "others", lambda user: module.end_other_sessions(user) or "")
    module.app.add_url_rule("/user", "user", lambda: str(g.user_store.get("user")))
    module.app.add_url_rule("/sensitive", "sensitive", lambda: module.require_confirmation() or "done")
    return module


def logged_in(app: ModuleType, user: str) -> FlaskClient:
    client = app.app.test_client()
    client.environ_base["wsgi.url_scheme"] = "https"
    before = client.get("/user").headers["Set-Cookie"]
    assert client.get("/sensitive").status_code == 403
    after = client.post(f"/log-in/{user}").headers["Set-Cookie"]
    assert before.startswith("__Host-user_store=")
    assert before.split(".")[0] != after.split(".")[0]
    assert (client.get("/user").text, client.get("/sensitive").text) == (user, "done")
    return client


def test_the_app_of_security_md_ends_the_sessions_of_one_user_and_no_others(app: ModuleType) -> None:
    ada, ada_elsewhere, bob = (logged_in(app, user) for user in ("ada", "ada", "bob"))
    app.end_all_sessions("ada")
    assert [client.get("/user").text for client in (ada, ada_elsewhere, bob)] == ["None", "None", "bob"]
    ada, ada_elsewhere = logged_in(app, "ada"), logged_in(app, "ada")
    ada.get("/end-others/ada")
    assert [client.get("/user").text for client in (ada, ada_elsewhere)] == ["ada", "None"]
    ada.post("/log-out")
    assert ada.get("/user").text == "None"
    app.delete_account("bob")
    assert bob.get("/user").text == "None"


def test_the_app_of_security_md_takes_no_value_of_one_user_to_another(app: ModuleType) -> None:
    app.app.add_url_rule("/note", "note", lambda: str(g.user_store.setdefault("note", g.user_store.get("user"))))
    client = logged_in(app, "ada")
    assert client.get("/note").text == "ada"
    client.post("/log-in/bob")
    assert (client.get("/user").text, client.get("/note").text) == ("bob", "bob")
