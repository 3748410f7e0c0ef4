"""What the commands begin with: the app's store, or the reason why a command cannot go on."""

from __future__ import annotations

from typing import NoReturn

import click
from flask import current_app

from ..extension import OpenedExtension

WITHOUT_KEY = "COMMANDS_WITHOUT_SECRET_KEY"
"""In the config of an app that stands for another one, whose SECRET_KEY is not known."""


def opened_extension(needs_key: bool = False) -> OpenedExtension:
    """What UserStoreMiddleware keeps for the app that the command is called for.

    :param needs_key: whether the command verifies or makes what SECRET_KEY signs
    """
    stores = current_app.extensions.get("user_store")
    if stores is None:
        fail(
            f"The app {current_app.name!r} has no user store. Install UserStoreMiddleware on it where it is made: "
            "UserStoreMiddleware(app). For an app that is not one of Flask: python -m flask_dash_store URL."
        )
    if needs_key and current_app.config.get(WITHOUT_KEY):
        fail("This needs the app's SECRET_KEY, by which what is stored is signed: set FLASK_SECRET_KEY.")
    extension: OpenedExtension = stores.opened()
    return extension


def fail(message: str) -> NoReturn:
    """End the command with a message, and an exit status that says so."""
    raise click.ClickException(message)
