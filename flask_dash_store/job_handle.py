"""A job handle: a signed text that opens a visitor's values in a job, but no session over HTTP.

It is ``<name>.<session>.<end>.<signature>``: the owner's name without its prefix, the SHA-256 of the session id as in
the storage, and the end of the session's lifetime. The session id cannot be derived from it, and a cookie has another
form. So a handle from a queue, a log or a broker's backup cannot be sent to the app.

The hash is for a job that writes before its visitor does: the first write decides which session id opens the values. If
a login has replaced the id in the meantime, the storage knows that for as long as the handle is valid.
"""

from __future__ import annotations

import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import NamedTuple

from .errors import InvalidKey
from .owner import SESSION_PREFIX, Owner

_FORM = re.compile(r"([A-Za-z0-9_-]{20})\.([A-Za-z0-9_-]{43})\.([0-9]{1,15})\.([A-Za-z0-9_-]{43})", re.ASCII)


class Job(NamedTuple):
    """What a handle contains: the owner, and the end of the session's lifetime, in seconds since the epoch."""

    owner: Owner
    ends_at: float


class JobHandles:
    """Makes and reads the handles of one app.

    :param secrets: the app's secrets. The first one signs, and each of them verifies.
    :param app: distinguishes the app from others with the same secret
    """

    def __init__(self, secrets: Sequence[bytes], app: str) -> None:
        self._keys = [hmac.digest(secret, b"flask_dash_store.job_handle", "sha256") for secret in secrets]
        self._app = app

    def dump(self, job: Job) -> str:
        """The handle of a job."""
        name, session = job.owner.name.removeprefix(SESSION_PREFIX), _text(job.owner.session or b"")
        signed = f"{name}.{session}.{int(job.ends_at)}"
        return f"{signed}.{self._sign(self._keys[0], signed)}"

    def load(self, handle: str) -> Job:
        """What a handle contains.

        :raises InvalidKey: if this app has not made it
        """
        form = _FORM.fullmatch(handle)
        if form is None:
            raise InvalidKey("This is neither a job handle from UserStore.job_handle() nor a session id.")
        name, session, ends_at, signature = form.groups()
        signed = handle[: form.start(4) - 1]
        if not any(hmac.compare_digest(self._sign(key, signed), signature) for key in self._keys):
            raise InvalidKey(
                "This app did not make the job handle: it was changed, or it was made with a SECRET_KEY that is "
                "neither this process's SECRET_KEY nor in its SECRET_KEY_FALLBACKS, or with another cookie name."
            )
        return Job(Owner(SESSION_PREFIX + name, urlsafe_b64decode(session + "=")), float(ends_at))

    def _sign(self, key: bytes, signed: str) -> str:
        return _text(hmac.digest(key, f"{self._app} {signed}".encode(), "sha256"))


def is_handle(text: object) -> bool:
    """Whether a text looks like a handle. A session id contains no dot."""
    return isinstance(text, str) and "." in text


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).decode("ascii").rstrip("=")
