"""``python -m flask_dash_store URL COMMAND ...``: ``flask user-store`` for an app that is not one of Flask."""

from __future__ import annotations

import secrets
from pathlib import Path

import click
from flask import Flask

from .cli import user_store
from .cli.app import WITHOUT_KEY
from .errors import UserStoreError
from .expiry import CENTURY
from .middleware import UserStoreMiddleware
from .storage import StorageOptions, open_storage


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("url")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def main(context: click.Context, url: str, arguments: tuple[str, ...]) -> None:
    """Look after the store that URL names: what USER_STORE_URL (url=) of its app is.

    Of `sqlite:///name` the file lies in the current folder. What is signed needs the app's key, in FLASK_SECRET_KEY;
    other settings that the app has are taken from FLASK_USER_STORE_..., as those of any app of Flask.
    """
    try:
        app = _app_for(url, must_exist=arguments[:1] != ("restore",))
    except UserStoreError as error:
        raise click.ClickException(str(error)) from error
    with app.app_context():
        user_store.main(list(arguments), prog_name=f"{context.command_path} URL")


def _app_for(url: str, must_exist: bool) -> Flask:
    """An app that has the store.

    :param must_exist: whether a file that is not there is an error, instead of being made
    """
    app = Flask("flask_dash_store", instance_path=str(Path.cwd()))
    app.config.from_prefixed_env()
    # Whose cookies live longer than by default, their ends must be remembered for as long.
    app.config.setdefault("USER_STORE_LIFETIME", CENTURY)
    if not app.secret_key:
        app.secret_key = secrets.token_hex()
        app.config[WITHOUT_KEY] = True
    open_storage(url, StorageOptions(Path.cwd(), must_exist=must_exist)).close()
    UserStoreMiddleware(app, url=url)
    return app


if __name__ == "__main__":
    main(prog_name="python -m flask_dash_store")
