"""Finds the storage that a URL names."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from ..errors import ConfigurationError
from .base import Storage, StorageOptions

__all__ = ["Storage", "StorageOptions", "check_scheme", "open_storage", "register_storage"]

Loader = Callable[[str, StorageOptions], Storage]

_LOADERS: dict[str, Loader] = {}


def register_storage(scheme: str, loader: Loader) -> None:
    """Register the storage for URLs of a scheme.

    :param scheme: the part of the URL before ``://``, and before a ``+``
    :param loader: opens the storage of a URL with an app's options; raises ConfigurationError if the URL is invalid,
        and StorageError if the storage cannot be opened
    """
    _LOADERS[scheme] = loader


def open_storage(url: str, options: StorageOptions) -> Storage:
    """Open the storage that a URL names.

    :raises ConfigurationError: if the scheme is unknown, the URL is invalid, or a package that the storage needs is not
        installed
    :raises StorageError: if the storage cannot be opened
    """
    check_scheme(url)
    return _LOADERS[_scheme_of(url)](url, options)


def check_scheme(url: str) -> None:
    """Check the scheme of a URL without opening the storage.

    :raises ConfigurationError: if the scheme is unknown
    """
    scheme = _scheme_of(url)
    if scheme not in _LOADERS or "://" not in url:
        name, colon, _ = url.partition(":")
        shown = f"{name}:…" if colon else url  # The rest may contain a password.
        raise ConfigurationError(
            f"USER_STORE_URL (url=) is {shown!r}; it must be sqlite:///name, sqlite:////absolute/path, "
            "sqlite://:memory:, memory://, redis://host:port/db or postgresql://user@host/database."
        )


def _scheme_of(url: str) -> str:
    return url.partition("://")[0].partition("+")[0]


def _module(name: str) -> Loader:
    """A loader that imports its module on the first call, so that only the drivers in use must be installed."""

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
