"""Settings that are changed after they have been read."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from flask import Config

from .errors import LateSetting
from .settings import PREFIX

_FLASKS_SETTINGS = ("SECRET_KEY", "SESSION_COOKIE_", "PERMANENT_SESSION_LIFETIME", "APPLICATION_ROOT")
_SETTINGS = (PREFIX, "SECRET_KEY", "SESSION_COOKIE_")


def watch_changes(config: Config, follow: Callable[[], None] | None) -> None:
    """From now on, warn of each change of what has been read from an app's config, that of Flask or of Quart.

    :param follow: called instead where it is a setting of Flask's; None warns of these, too
    """
    kind = type(config)
    config.__class__ = type(kind.__name__, (_ReadConfig, kind), {"_follow": staticmethod(follow) if follow else None})


class _ReadConfig(Config):
    """An app's config after it has been read.

    It notices where a setting is changed. To compare it with what was read would cost each request a microsecond.
    """

    _follow: Callable[[], None] | None

    def __setitem__(self, key: str, value: Any) -> None:
        self._change(key, value)

    def update(self, *args: Any, **kwargs: Any) -> None:
        for key, value in dict(*args, **kwargs).items():
            self._change(key, value)

    def _change(self, key: str, value: Any) -> None:
        if self._follow is None or not key.startswith(_FLASKS_SETTINGS):
            self._warn(key, value)
            super().__setitem__(key, value)
        else:
            super().__setitem__(key, value)
            self._follow()

    def _warn(self, key: str, value: Any) -> None:
        if key.startswith(_SETTINGS) and self.get(key) != value:
            warnings.warn(
                f"{key} is changed after the app's first request, with which it was read, so the user store goes on "
                "with what it was. Set it before the first request.",
                LateSetting,
                stacklevel=4,
            )
