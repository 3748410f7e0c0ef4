"""Encodes values as authenticated payloads, and decodes them.

A payload is the data (a pickle, or JSON), then the manifest of its buffers, then a MAC. Unpickling runs code, so
nothing is unpickled before the MAC proves that this app wrote it for this owner and key. A pickle ends with a mark of
its own: stock sqlitedict reads the small rows of this package, and ignores what follows the mark.

Buffers are data that are too large for a row: those that pickle protocol 5 passes separately (PEP 574), or large data
as a whole. The storage keeps them under a random name, which the manifest authenticates. A digest in the manifest
authenticates their bytes too, except those of NumPy's arrays of floating-point numbers, which can then be mapped
instead of read: no one uses such numbers as code, lengths or offsets. Integers are authenticated, because pandas
(Categorical) and SciPy (sparse matrices) use them as indexes without checking bounds.
"""

from __future__ import annotations

import json
import pickle
import re
import signal
import traceback
from collections.abc import Sequence
from os.path import basename
from typing import Any, Protocol

from .buffers import NO_MANIFEST, Stored, View, pack, unpack
from .errors import UnreadableValue, UnstorableValue
from .signer import Signer, tampered

# From this size on, a file is faster than a row for a value that is read three times as often as it is written.
BUFFER_THRESHOLD = 128 * 1024


class Codec(Protocol):
    """Encodes and decodes values for a storage, bound to the owner's name and the key."""

    def encode(self, owner: str, key: str, value: Any) -> Stored:
        """The payload of a value, and its buffers if it is large.

        :raises UnstorableValue: if the value cannot be turned into bytes
        """

    def decode(self, owner: str, key: str, stored: Stored) -> Any:
        """The value of a payload and its buffers.

        :raises TamperedValue: if they were not encoded together, for this owner and key
        :raises UnreadableValue: if they are authentic but cannot be decoded
        """

    def re_sign(self, owner: str, key: str, payload: bytes) -> bytes:
        """The same payload, signed with the current secret. Neither the value nor its buffers are read.

        :raises TamperedValue: if the payload was not encoded for this owner and key
        """


class _SignedCodec:
    purpose: bytes
    takes: str

    def __init__(self, secrets: Sequence[bytes], authenticate_arrays: bool = False) -> None:
        self._signer = Signer(secrets, self.purpose)
        self._authenticate_arrays = authenticate_arrays

    def encode(self, owner: str, key: str, value: Any) -> Stored:
        views: list[View] = []
        try:
            data = self._dumps(value, views)
        except Exception as error:
            if raised_by_signal_handler(error):
                raise
            # `from None`: the message of the cause may contain the value, and end up in a log.
            raise UnstorableValue(
                f"The value for {key!r}, a {type(value).__qualname__}, cannot be stored: {_reason(error)}. "
                f"{self.takes}",
                key=key,
            ) from None
        if views or len(data) >= BUFFER_THRESHOLD:
            return self._pack(owner, key, data, views)
        return self._signer.sign(owner, key, data + NO_MANIFEST), None

    def _pack(self, owner: str, key: str, data: bytes, views: list[View]) -> Stored:
        data, buffers = pack(data, views, BUFFER_THRESHOLD)
        return self._signer.sign(owner, key, data), buffers

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
            if raised_by_signal_handler(error):
                raise
            # `from None`, for the same reason.
            raise UnreadableValue(
                f"The value stored under {key!r} cannot be read back ({_failure(error)}): its class may have been "
                "moved, renamed or changed. Delete the key, or bring the class back.",
                key=key,
            ) from None

    def re_sign(self, owner: str, key: str, payload: bytes) -> bytes:
        return self._signer.sign(owner, key, self._signer.verify(owner, key, payload))

    def _dumps(self, value: Any, views: list[View]) -> bytes:
        """The data of a value. Its large buffers are added to ``views``."""
        raise NotImplementedError

    @staticmethod
    def _loads(data: bytes | memoryview, *, buffers: list[memoryview]) -> Any:
        raise NotImplementedError


class PickleCodec(_SignedCodec):
    """Any picklable value."""

    purpose = b"pickle"
    takes = "Any value that can be pickled can be stored. Lambdas, locks, connections and generators cannot be pickled."

    def adopt(self, owner: str, key: str, pickled: bytes) -> Stored:
        """The payload and buffers of a pickle from another program, which must be trusted: it is signed unread."""
        if len(pickled) >= BUFFER_THRESHOLD:
            return self._pack(owner, key, pickled, [])
        return self._signer.sign(owner, key, pickled + NO_MANIFEST), None

    def _dumps(self, value: Any, views: list[View]) -> bytes:
        def keep_in_band(buffer: pickle.PickleBuffer) -> bool:
            view = buffer.raw()
            if view.nbytes < BUFFER_THRESHOLD:
                return True
            views.append(self._view(view))
            return False

        if type(value) in (bytes, str) and len(value) >= BUFFER_THRESHOLD:
            value = _Text(value) if type(value) is str else _Bytes(value)
        return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL, buffer_callback=keep_in_band)

    def _view(self, view: memoryview) -> View:
        if not self._authenticate_arrays and _is_array_of_floats(view.obj):
            return View(view, is_authenticated=False)
        # A copy, so that the digest matches the bytes that are written even if another thread changes the value.
        return View(view if view.readonly else memoryview(bytes(view)), is_authenticated=True)

    _loads = staticmethod(pickle.loads)  # type: ignore[assignment]  # pickle.loads has more parameters.


def _is_array_of_floats(value: Any) -> bool:
    """Whether it is an array of floats of NumPy's own class. A subclass may interpret the bytes in any way."""
    is_array = type(value).__module__ == "numpy" and type(value).__qualname__ == "ndarray"
    return is_array and value.dtype.kind in "fc"


class _Bytes:
    """Pickles like bytes, but out of band, as a buffer."""

    def __init__(self, value: bytes) -> None:
        self._value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return bytes, (pickle.PickleBuffer(self._value),)


class _Text:
    """Pickles like a str, but out of band, as a buffer."""

    def __init__(self, value: str) -> None:
        self._value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (pickle.PickleBuffer(self._value.encode("utf-8", "surrogatepass")), "utf-8", "surrogatepass")


class JsonCodec(_SignedCodec):
    """Values that JSON can represent. A tuple comes back as a list. Pickle is never used."""

    purpose = b"json"
    takes = (
        "With USER_STORE_CODEC = 'json' it must be made of dict with keys of str, list, str, int, finite float, bool "
        "and None."
    )

    def _dumps(self, value: Any, views: list[View]) -> bytes:  # noqa: ARG002
        _check_dict_keys(value)
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()

    @staticmethod
    def _loads(data: bytes | memoryview, *, buffers: list[memoryview]) -> Any:  # noqa: ARG004
        return json.loads(bytes(data))


class _UnsuitableKey(TypeError):
    """A dict key that JSON cannot represent. The message does not contain the key."""


def _check_dict_keys(value: Any) -> None:
    """Refuse dict keys that json.dumps() would convert to str: ``{1: "a", "1": "b"}`` would lose a value."""
    if isinstance(value, dict):
        for name, each in value.items():
            if not isinstance(name, str):
                raise _UnsuitableKey(f"a key in it is a {type(name).__qualname__}, not a str")
            _check_dict_keys(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            _check_dict_keys(each)


# Messages of pickle and json that name a class or function, and contain nothing of the value.
_HARMLESS = re.compile(
    "cannot pickle '[\\w. ]+' object"
    "|Can't pickle <(function|class) [\\w.<>' ]+>: .+"
    "|Can't (get|pickle) (local )?(object|attribute) '[\\w.<>]+'.*"
    "|Object of type \\w+ is not JSON serializable"
)
_NO_ATTRIBUTE = re.compile(r"Can't get attribute '([^']+)' on <module '([^']+)'")


def _reason(error: Exception) -> str:
    """Why a value cannot be stored, in words that contain nothing of it."""
    text = str(error)
    is_harmless = isinstance(error, _UnsuitableKey) or _HARMLESS.fullmatch(text)
    return text if is_harmless else type(error).__name__


def _failure(error: Exception) -> str:
    """Why a value cannot be decoded: the missing class or module, or the type of the error and where it was raised.

    The error's message is left out, because it may contain the value.
    """
    found = _NO_ATTRIBUTE.match(str(error))
    if found is not None:
        return f"there is no {found[2]}.{found[1]}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"there is no module {error.name}"
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    code = frame.f_code
    if code.co_filename == __file__:
        return type(error).__name__
    return f"{type(error).__name__} in {code.co_qualname}, {basename(code.co_filename)}, line {line}"


def raised_by_signal_handler(error: BaseException) -> bool:
    """Whether an exception comes from the handler of a signal that interrupted the call.

    Celery's soft time limits and alarms raise such exceptions. They must reach the code that has set them.
    """
    handlers = [signal.getsignal(each) for each in signal.valid_signals()]
    codes = {getattr(getattr(each, "__func__", each), "__code__", None) for each in handlers}
    return any(frame.f_code in codes for frame, _ in traceback.walk_tb(error.__traceback__))


CODECS: dict[str, type[PickleCodec] | type[JsonCodec]] = {"pickle": PickleCodec, "json": JsonCodec}
