"""The current visitor's store in requests and background callbacks: ``user_store`` and ``g.user_store``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, SupportsIndex, cast

from flask import Flask, current_app, has_app_context, has_request_context, request
from flask.ctx import RequestContext, _AppCtxGlobals
from flask.globals import app_ctx, request_ctx
from werkzeug.local import LocalProxy

from .dash.jobs import find_job
from .errors import OutsideRequest
from .http.wsgi import ENVIRON_KEY, visit
from .store.internal import app_of, current_store, name_of_visitor, state_of
from .store.user_store import UserStore

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

EXTENSION = "user_store"

_WHAT_TO_DO = (
    "There is no visitor here, so there is no user store. It exists while an app with UserStoreMiddleware handles a "
    "request, in its views and callbacks, but not while a module is imported. In a thread or a queued job, use "
    "middleware.open(handle), with the handle that g.user_store.job_handle() returned in the request. In a layout "
    "function, which Dash also calls without a request, check flask_dash_store.is_available() first. In a test, use "
    "flask_dash_store.testing.user_store_context(app). In a script, use middleware.for_user(user_id)."
)


class _OutsideRequestOnG(OutsideRequest, AttributeError):
    """The same error, for ``hasattr(g, "user_store")`` and ``getattr`` with a default. Its traceback says the same."""

    def __reduce__(self) -> tuple[Any, ...]:
        return OutsideRequest, self.args


_OutsideRequestOnG.__qualname__ = _OutsideRequestOnG.__name__ = OutsideRequest.__name__
_OutsideRequestOnG.__module__ = OutsideRequest.__module__


def _has_store(context: RequestContext) -> bool:
    return ENVIRON_KEY in context.request.environ or EXTENSION in context.app.extensions


def store_of(app: Flask, environ: WSGIEnvironment) -> UserStore:
    """The store of a request's visitor."""
    if ENVIRON_KEY not in environ:
        # The request did not come through the middleware: it is a test's, or a socket event.
        visit(app.extensions[EXTENSION].opened(app).request_sessions, environ)
    return cast(UserStore, environ[ENVIRON_KEY])


def _store_of(context: RequestContext) -> UserStore:
    return store_of(context.app, context.request.environ)


def _context() -> RequestContext | None:
    return request_ctx._get_current_object() if has_request_context() else None  # type: ignore[attr-defined]  # noqa: SLF001


def _require_store() -> UserStore:
    store = current_store.get()
    if store is not None and not has_request_context():  # Like find_store(), with two calls less.
        return store
    store = find_store()
    if store is None:
        raise OutsideRequest(_why_there_is_none())
    return store


def _why_there_is_none() -> str:
    context = _context()
    if context is None:
        return _WHAT_TO_DO
    return (
        f"The Flask app {context.app.import_name!r}, which handles this request, has no UserStoreMiddleware. Call "
        "UserStoreMiddleware(app) where the app is made, or init_app(app) in its factory."
    )


def find_store() -> UserStore | None:
    """The store of the current visitor; None if there is no visitor.

    The store of a job comes first: a forked job has inherited the request that started it, and any job may have made
    a test request to build URLs. The store of an ASGI request comes last, because a Flask app may be mounted in an ASGI
    app. A Flask request that came through the middleware cannot belong to a job of another process.

    :raises ConfigurationError: if a background callback runs here, but this process cannot open its visitor's store
    """
    store, context = current_store.get(), _context()
    if store is None and (context is None or ENVIRON_KEY not in context.request.environ):
        store = find_job()
    if context is None or (store is not None and _is_job(store)) or not _has_store(context):
        return store
    return _store_of(context)


def _is_job(store: UserStore) -> bool:
    return state_of(store).arrived_at is None


def visitor() -> str:
    """A name for the current visitor, for cache keys, rate limits, topics and logs.

    It is the same in all workers, and before and after a login, until the session ends: by ``destroy()``, by the login
    of a different user, or at the end of its lifetime. A new SECRET_KEY changes all names. The name gives no access and
    does not reveal who the visitor is. Calling this does not count as a use of the store: it reads nothing, does not
    keep the session alive, and sets no cookie. Because the response may depend on the name, it carries ``Vary:
    Cookie``, unless it is marked as public.

    A visitor without a cookie gets the name of the session that begins with this request. The next request has the
    same name if this response sets the cookie: if the store was used, or if cookies are eager, the default with Dash.
    Otherwise each request has a different name. So has each request of a client that keeps no cookies, so a rate limit
    must consider the address as well.

    :returns: 22 characters: letters, digits, ``-`` and ``_``
    :raises OutsideRequest: if there is no visitor
    """
    return name_of_visitor(_require_store())


def is_available() -> bool:
    """Whether there is a visitor here, and so a :data:`user_store`.

    :returns: True in a request of an app with UserStoreMiddleware, and in the job of a background callback; else False
    """
    context = _context()
    return (context is not None and _has_store(context)) or _store_without_request() is not None


def _store_without_request() -> UserStore | None:
    store = current_store.get()
    return find_job() if store is None else store  # Not `or`: an empty store is false.


class _Proxy(LocalProxy[UserStore]):
    # LocalProxy would forward these as well, but takes three times as long.

    def __getattr__(self, name: str) -> Any:
        return getattr(_require_store(), name)

    def __getitem__(self, key: str) -> Any:
        return _require_store()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        _require_store()[key] = value

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:  # LocalProxy does not forward this one.
        return self._get_current_object().__reduce_ex__(protocol)


user_store = cast(UserStore, _Proxy(_require_store))
"""The current visitor's store. It is the same as ``g.user_store``, and can be imported anywhere.

:raises OutsideRequest: if it is used where there is no visitor
"""


@contextmanager
def request_with(store: UserStore) -> Iterator[None]:
    """A block in which the Flask request has this store instead of its visitor's."""
    environ = request.environ
    visitors = environ.get(ENVIRON_KEY)
    environ[ENVIRON_KEY] = store
    try:
        yield
    finally:
        environ[ENVIRON_KEY] = visitors


class _GlobalsWithStore(_AppCtxGlobals):
    """A ``g`` that looks up the request's store on each access: tests share one ``g`` among several requests."""

    _flask_dash_store_app: Flask
    _flask_dash_store_name: str

    def _job(self) -> UserStore | None:
        """The store of the job that runs here, if it is a job of the app of this ``g``."""
        job = _store_without_request()
        return job if job is not None and _is_job(job) and app_of(job) == self._flask_dash_store_name else None

    def _request_with_store(self) -> RequestContext | None:
        """The current request, if it is a request of the app of this ``g``."""
        context = _context()
        return context if context is not None and context.app is self._flask_dash_store_app else None

    def __getattr__(self, name: str) -> Any:
        if name != "user_store":
            return super().__getattr__(name)
        context = self._request_with_store()
        # The short way for almost every request: the middleware has put the store into the environ.
        store = None if context is None else context.request.environ.get(ENVIRON_KEY)
        if store is not None and current_store.get() is None:
            return store
        job = self._job()
        if job is not None:
            return job
        if context is None:
            raise _OutsideRequestOnG(_WHAT_TO_DO)
        return _store_of(context)

    def get(self, name: str, default: Any = None) -> Any:
        if name == "user_store" and name in self:
            return self.user_store
        return super().get(name, default)

    def __contains__(self, name: str) -> bool:
        return super().__contains__(name) or (
            name == "user_store" and (self._request_with_store() is not None or self._job() is not None)
        )


def add_store_to_g(app: Flask, name: str) -> None:
    """Give an app's ``g`` the attribute ``user_store``, also in a context that is already pushed.

    :param name: the app's name, unique in this process
    """
    cls = app.app_ctx_globals_class
    bases = (_GlobalsWithStore, cls)
    with_store: type[_AppCtxGlobals] = type(
        cls.__name__, bases, {"_flask_dash_store_app": app, "_flask_dash_store_name": name}
    )
    app.app_ctx_globals_class = with_store
    if has_app_context() and current_app == app:
        object.__setattr__(app_ctx.g, "__class__", with_store)  # g.__setattr__ would store it as an attribute.
