"""What the tests of the documents share."""

from programs import load

__all__ = ["load"]
