"""An app for each way that an extension can meet the middleware."""

from __future__ import annotations

import pytest
from flask import Flask
from shop import make_shop


@pytest.fixture(params=[True, False], ids=["session in the store", "session in Flask's cookie"])
def app(request: pytest.FixtureRequest) -> Flask:
    return make_shop(flask_session=request.param)
