"""The settings of an app: Flask config keys, or keyword options of the same names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from enum import Enum
from typing import Any, Final, Literal

from .codec import CODECS
from .errors import ConfigurationError, InvalidTTL
from .expiry import CENTURY, seconds
from .http.cookie import CookieAttributes
from .owner import DEFAULT_MAX_KEY_LENGTH
from .storage.base import DEFAULT_MAX_BYTES, DEFAULT_MAX_KEYS, DEFAULT_TIMEOUT, Limits, Synchronous
from .store.base import DEFAULT_MAX_VALUE_BYTES

PREFIX = "USER_STORE_"
HOUR = 60 * 60
DAY = 24 * HOUR
MIN_SECRET_BYTES = 16
DEFAULT_COOKIE_NAME = "user_store"
HOW_TO_MAKE_A_KEY = "python -c 'import secrets; print(secrets.token_hex())'"


class Unset(Enum):
    """The default of an option: the app's config decides."""

    UNSET = "unset"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset.UNSET


_CHOICES: dict[str, tuple[object, ...]] = {
    "codec": tuple(CODECS),
    "synchronous": ("NORMAL", "FULL"),
    "background_results": ("private", "shared"),
    "metrics": ("opentelemetry", "prometheus", None),
    **dict.fromkeys(("authenticate_arrays", "flask_login", "flask_session", "embedded"), (True, False)),
    **dict.fromkeys(("cookie_eager", "cookie_secure", "cookie_partitioned"), (True, False, None)),
}


@dataclass(frozen=True)
class Settings:
    """What ``UserStoreMiddleware(app, ttl=3600)`` or ``app.config["USER_STORE_TTL"] = 3600`` sets. The option wins.

    :class:`~flask_dash_store.UserStoreMiddleware` documents each of them.
    """

    url: str = field(default="sqlite:///user_store.sqlite", repr=False)  # It may hold a password.
    ttl: float | timedelta = DAY
    lifetime: float | timedelta = 31 * DAY
    tab_ttl: float | timedelta = HOUR
    max_bytes: int = DEFAULT_MAX_BYTES
    max_value_bytes: int = DEFAULT_MAX_VALUE_BYTES
    max_keys: int = DEFAULT_MAX_KEYS
    max_key_length: int = DEFAULT_MAX_KEY_LENGTH
    timeout: float | timedelta = DEFAULT_TIMEOUT
    codec: str = "pickle"
    authenticate_arrays: bool = False
    synchronous: Synchronous = "NORMAL"
    counts_as_use: Callable[[Any], bool] | None = None
    starts_session: Callable[[Any], bool] | None = None
    flask_login: bool = True
    flask_session: bool = False
    flask_session_user_key: str | None = "_user_id"
    embedded: bool = False
    background_results: Literal["private", "shared"] = "private"
    metrics: Literal["opentelemetry", "prometheus"] | None = None
    cookie_name: str | None = None
    cookie_path: str | None = None
    cookie_domain: str | None = None
    cookie_samesite: str | None = None
    cookie_secure: bool | None = None
    cookie_partitioned: bool | None = None
    cookie_eager: bool | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any], options: Mapping[str, Any]) -> Settings:
        """The settings of an app's config, overridden by options.

        :raises ConfigurationError: if one is unknown or invalid; the message names it
        """
        known = {each.name for each in fields(cls)}
        given = {key.removeprefix(PREFIX).lower(): key for key in config if key.startswith(PREFIX)}
        for name, key in given.items():
            if name not in known:
                raise ConfigurationError(f"There is no setting {key}{_suggestion(name, known)}")
        settings = cls(**{name: config[key] for name, key in given.items()} | dict(options))
        settings._check()
        return settings

    def _check(self) -> None:
        self._require("url", isinstance(self.url, str), "a str")
        for name in ("max_bytes", "max_value_bytes", "max_keys", "max_key_length"):
            size = getattr(self, name)
            self._require(name, isinstance(size, int) and not isinstance(size, bool) and size > 0, "an int above zero")
        self._require(
            "max_key_length", self.max_key_length <= DEFAULT_MAX_KEY_LENGTH, f"at most {DEFAULT_MAX_KEY_LENGTH}"
        )
        for name, choices in _CHOICES.items():
            self._require(name, getattr(self, name) in choices, _one_of(choices))
        for name in ("counts_as_use", "starts_session"):
            function = getattr(self, name)
            self._require(name, function is None or callable(function), "callable")
        user_key = self.flask_session_user_key
        self._require("flask_session_user_key", user_key is None or isinstance(user_key, str), "a str or None")
        self._check_embedded()
        _ = self.ttl_seconds, self.lifetime_seconds, self.tab_ttl_seconds, self.timeout_seconds

    def _check_embedded(self) -> None:
        """In an iframe on another site, browsers send and keep only a cookie with these three attributes."""
        if self.embedded:
            samesite = self.cookie_samesite
            fits = samesite is None or (isinstance(samesite, str) and samesite.title() == "None")
            self._require("cookie_samesite", fits, "'None', or left out, with embedded")
            for name in ("cookie_secure", "cookie_partitioned"):
                self._require(name, getattr(self, name) is not False, "True, or left out, with embedded")

    def _require(self, name: str, fits: bool, what: str) -> None:
        if not fits:
            raise ConfigurationError(f"{_named(name)} is {getattr(self, name)!r}; it must be {what}.")

    @property
    def is_in_memory(self) -> bool:
        """Whether the values are in the memory of one process, out of reach for all others."""
        return self.url == "memory://" or self.url.endswith(":memory:")

    @property
    def ttl_seconds(self) -> float:
        return self._seconds("ttl", self.ttl)

    @property
    def timeout_seconds(self) -> float:
        return self._seconds("timeout", self.timeout, DAY)

    @property
    def lifetime_seconds(self) -> float:
        return self._seconds("lifetime", self.lifetime)

    @property
    def tab_ttl_seconds(self) -> float:
        return self._seconds("tab_ttl", self.tab_ttl)

    @property
    def limits(self) -> Limits:
        return Limits(self.max_bytes, self.max_keys)

    @staticmethod
    def _seconds(name: str, duration: float | timedelta, longest: float = CENTURY) -> float:
        try:
            return seconds(duration, _named(name), longest)
        except InvalidTTL as error:
            raise ConfigurationError(str(error), limit=error.limit) from None

    def cookie_attributes(self, config: Mapping[str, Any], default_path: str) -> CookieAttributes:
        """The attributes of the cookie: those that are set here, else those of Flask's session cookie.

        :param config: the app's config, for SESSION_COOKIE_*
        :param default_path: the path if none is set
        :raises ConfigurationError: if browsers would refuse a cookie with these attributes, or if it has the name of
            Flask's session cookie without ``flask_session``
        """
        name, path, domain = self._name(config), self.cookie_path, self.cookie_domain
        self._require(
            "cookie_path",
            path is None or (isinstance(path, str) and path.startswith("/")),
            "a path that begins with '/'",
        )
        self._require("cookie_domain", domain is None or _is_domain(domain), "a domain name")
        samesite = self._samesite(config)
        # Flask's defaults, None and False, do not override ours. True does.
        partitioned = self.cookie_partitioned
        if partitioned is None:
            partitioned = self.embedded or bool(config.get("SESSION_COOKIE_PARTITIONED"))
        secure = self.cookie_secure
        if secure is None and config.get("SESSION_COOKIE_SECURE"):
            secure = True
        host_prefix = name.lower().startswith(("__host-", "__host-http-"))
        if name.lower().startswith(("__host-", "__secure-", "__http-")) or samesite == "None" or partitioned:
            self._require("cookie_secure", secure is not False, f"True, which browsers require for {name!r}")
            secure = True
        if host_prefix:
            self._require("cookie_domain", domain is None, f"None, because {name!r} belongs to one host")
            self._require("cookie_path", path in (None, "/"), f"'/', which browsers require for {name!r}")
        return CookieAttributes(
            name=name,
            path="/" if host_prefix else path or default_path,
            domain=None if host_prefix else domain or config.get("SESSION_COOKIE_DOMAIN") or None,
            samesite=samesite,
            secure=secure,
            partitioned=partitioned,
            httponly=not self.flask_session or bool(config.get("SESSION_COOKIE_HTTPONLY", True)),
            embedded=self.embedded,
        )

    def _name(self, config: Mapping[str, Any]) -> str:
        flasks, name = config.get("SESSION_COOKIE_NAME"), self.cookie_name
        if self.flask_session:
            self._require(
                "cookie_name", name in (None, flasks), "left out, because flask_session uses SESSION_COOKIE_NAME"
            )
            return str(flasks)
        name = DEFAULT_COOKIE_NAME if name is None else name
        self._require("cookie_name", isinstance(name, str) and _is_token(name), "a cookie name (RFC 6265)")
        self._require(
            "cookie_name",
            name != flasks,
            "different from SESSION_COOKIE_NAME, unless flask_session=True makes them one cookie",
        )
        return name

    def idle_seconds(self, permanent: timedelta) -> float:
        """The idle timeout. With ``flask_session``, at least as long as a permanent session of Flask lasts."""
        return max(self.ttl_seconds, permanent.total_seconds()) if self.flask_session else self.ttl_seconds

    def _samesite(self, config: Mapping[str, Any]) -> str | None:
        """SameSite, in any case, as in Flask. The default is Lax; with ``flask_session`` it is Flask's: not set."""
        samesite, setting = "None" if self.embedded else self.cookie_samesite, _named("cookie_samesite")
        if samesite is None:
            samesite, setting = config.get("SESSION_COOKIE_SAMESITE"), "SESSION_COOKIE_SAMESITE"
        if samesite is None:
            return None if self.flask_session else "Lax"
        if not isinstance(samesite, str) or samesite.title() not in ("Lax", "Strict", "None"):
            raise ConfigurationError(f"{setting} is {samesite!r}; it must be 'Lax', 'Strict' or 'None'.")
        return samesite.title()


def secrets_of(config: Mapping[str, Any]) -> list[bytes]:
    """SECRET_KEY, then SECRET_KEY_FALLBACKS.

    :raises ConfigurationError: if there is no SECRET_KEY, or one of the keys is invalid
    """
    current = config.get("SECRET_KEY")
    if not current:
        raise ConfigurationError(
            "The app has no SECRET_KEY, so cookies and values cannot be signed. Make one with\n"
            f"    {HOW_TO_MAKE_A_KEY}\n"
            "keep it out of the source code, and set app.secret_key before the first request. For Dash, the app is "
            "app.server. For FastAPI and other ASGI apps, pass it as UserStoreMiddleware(app, secret_key=...)."
        )
    fallbacks = config.get("SECRET_KEY_FALLBACKS") or []
    if not isinstance(fallbacks, (list, tuple)):
        raise ConfigurationError(f"SECRET_KEY_FALLBACKS is a list of former keys, not {type(fallbacks).__name__}.")
    keys = [current, *fallbacks]
    if not all(isinstance(key, (str, bytes)) and key for key in keys):
        raise ConfigurationError("SECRET_KEY and each of SECRET_KEY_FALLBACKS must be a str or bytes, and not empty.")
    return [key.encode() if isinstance(key, str) else key for key in keys]


def weakness_of(secrets: list[bytes]) -> str | None:
    """Why the current secret is weak; None if it is not."""
    if len(secrets[0]) >= MIN_SECRET_BYTES:
        return None
    return (
        f"SECRET_KEY has {len(secrets[0])} bytes. With fewer than {MIN_SECRET_BYTES}, it can be guessed, and sessions "
        f"and values can be forged. Make one with {HOW_TO_MAKE_A_KEY}"
    )


def _named(name: str) -> str:
    return f"{PREFIX}{name.upper()} ({name}=)"


def _one_of(choices: tuple[object, ...]) -> str:
    *first, last = map(repr, choices)
    return f"{', '.join(first)} or {last}"


def _suggestion(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {_named(close[0])}?" if close else f"; there are {', '.join(sorted(known))}."


def _is_domain(name: object) -> bool:
    return isinstance(name, str) and re.fullmatch(r"\.?[\w-]+(\.[\w-]+)*", name) is not None


def _is_token(name: str) -> bool:
    return bool(name) and name.isascii() and all(c.isalnum() or c in "!#$%&'*+-.^_`|~" for c in name)
