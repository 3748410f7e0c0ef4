"""A value to a payload and back, authenticated.

A payload is the data (a pickle, or JSON), then the manifest of its buffers, then a MAC. Unpickling runs code, so
nothing is unpickled before the MAC shows that this app wrote it, for this owner and under this key. A pickle stops at
its own end mark: stock sqlitedict reads the small rows of this package, and ignores what follows.

Buffers are what is too large for a row: those that pickle 5 hands out (PEP 574), or large data as a whole. The storage
keeps them apart, under the random name that the manifest authenticates. What pickle hands out is data, not code: it is
not hashed, so that it can be mapped instead of read.
"""

from __future__ import annotations

import hmac
import json
import pickle
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Protocol

from .buffers import NO_MANIFEST, Stored, pack, unpack
from .errors import TamperedValue, UnreadableValue, UnstorableValue

MAC_BYTES = 32

# Where a file of its own becomes faster than a row, for a value that is read three times as often as written:
# `python -m benchmarks.threshold`.
BUFFER_THRESHOLD = 128 * 1024


class Signer:
    """A keyed BLAKE2b (RFC 7693) over owner, key and data.

    :param secrets: app secrets, the current one first; it signs, and each of them verifies. Without any, nothing is
        authenticated.
    :param purpose: at most 16 bytes that keep apart what must not be mistaken for each other
    """

    def __init__(self, secrets: Sequence[bytes], purpose: bytes) -> None:
        self._hashes = [
            blake2b(key=hmac.digest(secret, b"flask_dash_store.value", "sha256"), digest_size=MAC_BYTES, person=purpose)
            for secret in secrets
        ]

    def sign(self, owner: str, key: str, data: bytes) -> bytes:
        """The data with its MAC behind it."""
        if not self._hashes:
            return data
        return data + _mac(self._hashes[0], owner, key, data)

    def verify(self, owner: str, key: str, payload: bytes) -> bytes:
        """The data of a payload.

        :raises TamperedValue: when no secret gives the MAC it carries
        """
        if type(payload) is bytes:
            if not self._hashes:
                return payload
            data, mac = payload[:-MAC_BYTES], payload[-MAC_BYTES:]
            for keyed in self._hashes:
                if hmac.compare_digest(_mac(keyed, owner, key, data), mac):
                    return data
        raise tampered(owner, key)


def _mac(keyed: blake2b, owner: str, key: str, data: bytes) -> bytes:
    # An owner holds no "/", and the length says where the name ends: no two values share a message.
    name = f"{owner}/{key}".encode()
    mac = keyed.copy()
    mac.update(b"%d:%b%b" % (len(name), name, data))
    return mac.digest()


def tampered(owner: str, key: str) -> TamperedValue:
    return TamperedValue(
        f"The value stored under {key!r} was not written by this app for {owner[:10]}… under this key: it was "
        "changed, moved, or written with another codec or with a SECRET_KEY that SECRET_KEY_FALLBACKS lacks.",
        key=key,
    )


class Codec(Protocol):
    """Turns values into what a storage keeps, bound to the owner's name and the key, and back."""

    def encode(self, owner: str, key: str, value: Any) -> Stored:
        """The payload of a value, and its buffers if it is large.

        :raises UnstorableValue: when the value cannot be turned into bytes
        """

    def decode(self, owner: str, key: str, stored: Stored) -> Any:
        """The value of a payload and its buffers.

        :raises TamperedValue: when they were not encoded for this owner and key, or not for each other
        :raises UnreadableValue: when they are authentic but cannot be turned back
        """

    def re_sign(self, owner: str, key: str, payload: bytes) -> bytes:
        """The payload of the same value, signed with the current secret; neither the value nor its buffers are read.

        :raises TamperedValue: when the payload was not encoded for this owner and key
        """


class _SignedCodec:
    purpose: bytes
    takes: str

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._signer = Signer(secrets, self.purpose)

    def encode(self, owner: str, key: str, value: Any) -> Stored:
        views: list[memoryview] = []
        try:
            data = self._dumps(value, views)
        except Exception as error:
            raise UnstorableValue(
                f"The value for {key!r}, a {type(value).__qualname__}, cannot be stored: "
                f"{type(error).__name__}. {self.takes}",
                key=key,
            ) from error
        return self._sign(owner, key, data, views)

    def _sign(self, owner: str, key: str, data: bytes, views: list[memoryview]) -> Stored:
        if views or len(data) >= BUFFER_THRESHOLD:
            data, buffers = pack(data, views, BUFFER_THRESHOLD)
            return self._signer.sign(owner, key, data), buffers
        return self._signer.sign(owner, key, data + NO_MANIFEST), None

    def decode(self, owner: str, key: str, stored: Stored) -> Any:
        payload, buffers = stored
        signed = self._signer.verify(owner, key, payload)
        views: list[memoryview] = []
        data: bytes | memoryview
        if buffers is None and signed.endswith(NO_MANIFEST):
            data = signed[: -len(NO_MANIFEST)]
        else:
            unpacked = unpack(signed, buffers)
            if unpacked is None:
                raise tampered(owner, key)
            data, views = unpacked
        try:
            return self._loads(data, buffers=views)
        except Exception as error:
            raise UnreadableValue(
                f"The value stored under {key!r} cannot be read back ({type(error).__name__}): its class may have "
                "been moved, renamed or changed. Delete the key, or bring the class back.",
                key=key,
            ) from error

    def re_sign(self, owner: str, key: str, payload: bytes) -> bytes:
        return self._signer.sign(owner, key, self._signer.verify(owner, key, payload))

    @staticmethod
    def _dumps(value: Any, views: list[memoryview]) -> bytes:
        """The data of a value, whose large buffers are put into ``views``."""
        raise NotImplementedError

    @staticmethod
    def _loads(data: bytes | memoryview, *, buffers: list[memoryview]) -> Any:
        raise NotImplementedError


class PickleCodec(_SignedCodec):
    """Any picklable value."""

    purpose = b"pickle"
    takes = "Any picklable value can be; functions defined inline, locks, connections and generators cannot."

    def adopt(self, owner: str, key: str, pickled: bytes) -> Stored:
        """The payload and buffers of what was pickled elsewhere. It is not read, so its writer must be trusted."""
        return self._sign(owner, key, pickled, [])

    @staticmethod
    def _dumps(value: Any, views: list[memoryview]) -> bytes:
        def keep_in_band(buffer: pickle.PickleBuffer) -> bool:
            view = buffer.raw()
            if view.nbytes < BUFFER_THRESHOLD:
                return True
            views.append(view)
            return False

        if type(value) in (bytes, str) and len(value) >= BUFFER_THRESHOLD:
            value = _Text(value) if type(value) is str else _Bytes(value)
        return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL, buffer_callback=keep_in_band)

    _loads = staticmethod(pickle.loads)  # type: ignore[assignment]  # It takes more arguments than are used here.


class _Bytes:
    """Pickles as bytes do, but hands them out as a buffer."""

    def __init__(self, value: bytes) -> None:
        self._value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return bytes, (pickle.PickleBuffer(self._value),)


class _Text:
    """Pickles as a str does, but hands it out as a buffer."""

    def __init__(self, value: str) -> None:
        self._value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (pickle.PickleBuffer(self._value.encode("utf-8", "surrogatepass")), "utf-8", "surrogatepass")


class JsonCodec(_SignedCodec):
    """What JSON can say; a tuple comes back as a list, and pickle is never called."""

    purpose = b"json"
    takes = (
        "With USER_STORE_CODEC = 'json' it must be made of dict with keys of str, list, str, int, finite float, bool "
        "and None."
    )

    @staticmethod
    def _dumps(value: Any, views: list[memoryview]) -> bytes:  # noqa: ARG004
        _check_names(value)
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()

    @staticmethod
    def _loads(data: bytes | memoryview, *, buffers: list[memoryview]) -> Any:  # noqa: ARG004
        return json.loads(bytes(data))


def _check_names(value: Any) -> None:
    """Refuse keys that Python's json would turn into text, and so into others that are there already."""
    if isinstance(value, dict):
        for name, each in value.items():
            if not isinstance(name, str):
                raise TypeError(f"the key {name!r} is no str")
            _check_names(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            _check_names(each)


CODECS: dict[str, type[PickleCodec] | type[JsonCodec]] = {"pickle": PickleCodec, "json": JsonCodec}
