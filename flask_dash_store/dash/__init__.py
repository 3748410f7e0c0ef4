"""Where the store meets Dash."""

__version__ = "1"  # Dash asks for it, to name the scripts of this package; their contents are in the name as well.
