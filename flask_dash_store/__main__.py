"""``python -m flask_dash_store URL COMMAND ...``: ``flask user-store`` for an app that is not a Flask app."""

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
    """Look after the store at URL, the USER_STORE_URL (url=) of its app. `URL --help` lists the commands.

    `sqlite:///name` is a file in the current folder. Commands that verify or sign values need the app's secret key in
    FLASK_SECRET_KEY. Other settings of the app are read from FLASK_USER_STORE_..., as Flask does.
    """
    name = f"{context.command_path} URL"
    if "--help" in arguments:  # The store need not be there.
        user_store.main(list(arguments), prog_name=name)
    try:
        app = _app_for(url, must_exist=arguments[:1] != ("restore",))
    except UserStoreError as error:
        raise click.ClickException(str(error)) from error
    with app.app_context():
        user_store.main(list(arguments), prog_name=name)


def _app_for(url: str, must_exist: bool) -> Flask:
    """A Flask app with the store.

    :param must_exist: whether a missing file is an error; otherwise it is created
    """
    app = Flask("flask_dash_store", instance_path=str(Path.cwd()))
    app.config.from_prefixed_env()
    # Ended sessions must be remembered for as long as their cookies live, and the app's lifetime is not known here.
    app.config.setdefault("USER_STORE_LIFETIME", CENTURY)
    if not app.secret_key:
        app.secret_key = secrets.token_hex()
        app.config[WITHOUT_KEY] = True
    open_storage(url, StorageOptions(Path.cwd(), must_exist=must_exist)).close()
    UserStoreMiddleware(app, url=url)
    return app


if __name__ == "__main__":
    main(prog_name="python -m flask_dash_store")
