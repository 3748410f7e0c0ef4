"""The storages, and how a URL names one."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from ..errors import ConfigurationError
from .base import Storage, StorageOptions

__all__ = ["Storage", "StorageOptions", "check_scheme", "open_storage", "register_storage"]

Loader = Callable[[str, StorageOptions], Storage]

_LOADERS: dict[str, Loader] = {}


def register_storage(scheme: str, loader: Loader) -> None:
    """Let URLs of a scheme name a storage.

    :param scheme: what comes before ``://``, or before a ``+`` in it
    :param loader: opens the storage that a URL names, with an app's options; raises ConfigurationError for a URL that
        cannot be used, and StorageError when the storage cannot be opened
    """
    _LOADERS[scheme] = loader


def open_storage(url: str, options: StorageOptions) -> Storage:
    """The storage that a URL names.

    :raises ConfigurationError: when its scheme is not known, the URL cannot be used, or a package that the storage
        needs is not installed
    :raises StorageError: when the storage cannot be opened
    """
    check_scheme(url)
    return _LOADERS[_scheme_of(url)](url, options)


def check_scheme(url: str) -> None:
    """Check that a URL is one of a storage, before it is opened.

    :raises ConfigurationError: when its scheme is not known
    """
    scheme = _scheme_of(url)
    if scheme not in _LOADERS or "://" not in url:
        name, colon, _ = url.partition(":")
        shown = f"{name}:…" if colon else url  # What follows may hold a password.
        raise ConfigurationError(
            f"USER_STORE_URL (url=) is {shown!r}; it can be sqlite:///name, sqlite:////absolute/path, "
            "sqlite://:memory:, redis://host:port/db or postgresql://user@host/database."
        )


def _scheme_of(url: str) -> str:
    return url.partition("://")[0].partition("+")[0]


def _module(name: str) -> Loader:
    """A loader that imports its module when it is called, so that only the drivers in use need be installed."""

    def load(url: str, options: StorageOptions) -> Storage:
        storage: Storage = import_module(name, __package__).open_url(url, options)
        return storage

    return load


for _schemes, _name in (
    (("sqlite",), ".sqlite"),
    (("memory",), ".memory"),
    (("redis", "rediss", "valkey", "valkeys", "unix"), ".redis"),
    (("postgresql", "postgres"), ".postgresql"),
):
    for _scheme in _schemes:
        register_storage(_scheme, _module(_name))
