"""Runs the code of the documents as their readers do."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from dash import _callback, _get_app
from documents import program

SECRET_KEY = "only for tests, where there is nothing to protect"

Load = Callable[..., ModuleType]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Runs the Python code under a document's headings as one file, app.py, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLASK_SECRET_KEY", SECRET_KEY)

    def load(document: str, *headings: str) -> ModuleType:
        file = tmp_path / "app.py"
        file.write_text("\n\n\n".join(program(document, heading) for heading in headings))
        for name in re.findall(r'os\.environ\["(\w+)"\]', file.read_text()):
            monkeypatch.setenv(name, SECRET_KEY)
        spec = importlib.util.spec_from_file_location("app", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "app", module)
        spec.loader.exec_module(module)
        return module

    yield load
    # Callbacks of an app that has served no request would join the next one.
    _callback.GLOBAL_CALLBACK_LIST.clear()
    _callback.GLOBAL_CALLBACK_MAP.clear()
    # The app that has served a request would stay the current one of this thread.
    _get_app.app_context.set(None)
