"""The app of a command: its store, or an error."""

from __future__ import annotations

from typing import NoReturn

import click
from flask import current_app

from ..extension import OpenedExtension

WITHOUT_KEY = "COMMANDS_WITHOUT_SECRET_KEY"
"""A config key of ``python -m flask_dash_store``: the app's SECRET_KEY is not known."""


def opened_extension(needs_key: bool = False) -> OpenedExtension:
    """The opened extension of the app.

    :param needs_key: whether the command needs SECRET_KEY, to verify or sign
    """
    stores = current_app.extensions.get("user_store")
    if stores is None:
        fail(
            f"The app {current_app.name!r} has no user store. Install UserStoreMiddleware on it where it is "
            "created: UserStoreMiddleware(app). For other apps than Flask apps, use python -m flask_dash_store URL."
        )
    if needs_key and current_app.config.get(WITHOUT_KEY):
        fail("This command needs the app's SECRET_KEY: set the environment variable FLASK_SECRET_KEY.")
    extension: OpenedExtension = stores.opened()
    return extension


def fail(message: str) -> NoReturn:
    """End the command with an error message and exit status 1."""
    raise click.ClickException(message)
