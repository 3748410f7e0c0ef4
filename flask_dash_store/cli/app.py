"""What the commands begin with: the app's store, or the reason why a command cannot go on."""

from __future__ import annotations

from typing import NoReturn

import click
from flask import current_app

from ..extension import OpenedExtension


def opened_extension() -> OpenedExtension:
    """What UserStoreMiddleware keeps for the app that the command is called for."""
    stores = current_app.extensions.get("user_store")
    if stores is None:
        fail("This app has no user store: UserStoreMiddleware is not installed on it.")
    extension: OpenedExtension = stores.opened()
    return extension


def fail(message: str) -> NoReturn:
    """End the command with a message, and an exit status that says so."""
    raise click.ClickException(message)
