"""A job's handle: a signed text that stands for a visitor's values, and opens no session.

It is ``<name>.<session>.<end>.<signature>``: what follows the prefix in the owner's name, the SHA-256 of the session id
as a storage keeps it, and when the session's lifetime ends. None of it leads back to the session id, and the cookie has
another form. So who reads it in a queue, a log or a broker's backup has nothing to send to the app.

The session's hash is needed by a job that writes before its visitor has: the first write decides which session id opens
the values. If that has been replaced meanwhile, the storage knows, for as long as the handle is good.
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
    """What a handle stands for: whose values, and when their session ends at the latest, in seconds since the epoch."""

    owner: Owner
    ends_at: float


class JobHandles:
    """Writes and reads the handles of one app.

    :param secrets: the app's secrets, the current one first; it signs, and each of them verifies
    :param app: tells it from other apps with the same secret
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
        """What a handle stands for.

        :raises InvalidKey: when this app has not made it
        """
        form = _FORM.fullmatch(handle)
        if form is None:
            raise InvalidKey("This is neither a job's handle, as UserStore.job_handle() gives it, nor a session id.")
        name, session, ends_at, signature = form.groups()
        signed = handle[: form.start(4) - 1]
        if not any(hmac.compare_digest(self._sign(key, signed), signature) for key in self._keys):
            raise InvalidKey(
                "This job's handle was not made by this app: it was changed, or the SECRET_KEY it was made with is "
                "neither the job's SECRET_KEY nor among its SECRET_KEY_FALLBACKS, or the apps' cookie names differ."
            )
        return Job(Owner(SESSION_PREFIX + name, urlsafe_b64decode(session + "=")), float(ends_at))

    def _sign(self, key: bytes, signed: str) -> str:
        return _text(hmac.digest(key, f"{self._app} {signed}".encode(), "sha256"))


def is_handle(text: object) -> bool:
    """Whether a text has the form of a handle rather than that of a session id, which holds no dot."""
    return isinstance(text, str) and "." in text


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).decode("ascii").rstrip("=")
