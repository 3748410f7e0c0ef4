"""What a value is, in a few words. Values are the visitors', so nothing large is read, and nothing is shown in full."""

from __future__ import annotations

from reprlib import Repr
from typing import Any

from ..errors import SessionEnded, UserStoreError
from ..expiry import Access
from ..extension import OpenedExtension
from ..owner import Owner
from ..storage.base import ValueInfo

MAX_BYTES_READ = 32 * 1024
MAX_CHARACTERS = 300

_shortened = Repr()
_shortened.maxlevel, _shortened.maxstring, _shortened.maxother = 3, 120, 120
_shortened.maxdict = _shortened.maxlist = _shortened.maxtuple = _shortened.maxset = 8


def shown_value(extension: OpenedExtension, owner: Owner, value: ValueInfo, access: Access) -> str:
    """What is shown of a value.

    :param value: what is known of it without reading it
    """
    if value.is_large or value.nbytes > MAX_BYTES_READ:
        return "Not read: it is large."
    try:
        stored = extension.storage.get(owner, value.key, access)
        if stored is None:
            return "It has just been deleted."
        return _in_words(extension.codec.decode(owner.name, value.key, stored))
    except SessionEnded:
        return "The session has just ended."
    except UserStoreError as error:
        return f"Cannot be read: {error}"
    except Exception as error:  # The app's own classes say how they are shown.
        return f"Cannot be shown: {type(error).__name__}."


def _in_words(value: Any) -> str:
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        text = f"{type(value).__name__} of shape {' by '.join(str(side) for side in shape)}"
    else:
        text = _shortened.repr(value)
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}…"
