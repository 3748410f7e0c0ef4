"""Where the store meets Dash."""

__version__ = "1"  # Dash asks for it, to name this package's scripts, with the time of their last change.
