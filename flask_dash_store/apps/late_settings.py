"""Settings that are changed after they have been read."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from flask import Config

from ..errors import LateSetting
from ..settings import PREFIX

FLASKS_SETTINGS = ("SECRET_KEY", "SESSION_COOKIE_", "PERMANENT_SESSION_LIFETIME", "APPLICATION_ROOT")
COOKIES_SETTINGS = ("SESSION_COOKIE_",)
_SETTINGS = (PREFIX, "SECRET_KEY")


def watch_changes(config: Config, followed: tuple[str, ...], follow: Callable[[], None]) -> None:
    """From now on, notice each change of what has been read from an app's config, that of Flask or of Quart.

    :param followed: how the names of the settings begin whose change is followed; that of others is warned of
    :param follow: called after a change
    """
    kind = type(config)
    if issubclass(
        kind, _ReadConfig
    ):  # An exception of a signal handler interrupted the app's first request after this.
        return
    attributes = {"_followed": followed, "_follow": staticmethod(follow)}
    config.__class__ = type(kind.__name__, (_ReadConfig, kind), attributes)


class _ReadConfig(Config):
    """An app's config after it has been read.

    It notices where a setting is changed. To compare it with what was read would cost each request a microsecond.
    """

    _followed: tuple[str, ...]
    _follow: Callable[[], None]

    def __setitem__(self, key: str, value: Any) -> None:
        self._change(key, value)

    def update(self, *args: Any, **kwargs: Any) -> None:
        for key, value in dict(*args, **kwargs).items():
            self._change(key, value)

    def _change(self, key: str, value: Any) -> None:
        has_changed = self.get(key) != value
        is_followed = key.startswith(self._followed)
        if has_changed and not is_followed:
            _warn_of_late(key)
        super().__setitem__(key, value)
        if has_changed and is_followed:
            self._follow()


def _warn_of_late(key: str) -> None:
    if key.startswith(_SETTINGS):
        warnings.warn(
            f"{key} is changed after the app's first request, with which it was read, so the user store goes on with "
            "what it was. Set it before the first request.",
            LateSetting,
            stacklevel=4,
        )
