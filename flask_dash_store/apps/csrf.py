"""CSRF tokens of Flask-WTF and WTForms: a session's token is made from the session's id, and not at random.

Both make a token when they find none in ``flask.session``, so that two forms which a browser fetches in parallel have
two, of which the session keeps one. And the second click on "Log in" comes with the id of before the first one's login,
which opens nothing any more: without a token its form would be refused, and the user locked out. With a token that
follows from the id, requests with one id agree on it, before and after the session has ended.

What it says to someone who has planted the id is the token of that id alone: a session keeps its token over a login, as
with Flask's own cookie, but an app that removes it then has one of the new id.
"""

from __future__ import annotations

import sys

from flask import Flask


def is_token_key(app: Flask, key: object) -> bool:
    """Whether this is where Flask-WTF, or WTForms' SessionCSRF, keeps its token in the app's ``flask.session``."""
    if key == app.config.get("WTF_CSRF_FIELD_NAME", "csrf_token"):
        return "flask_wtf" in sys.modules
    return key == "csrf" and "wtforms.csrf.session" in sys.modules
