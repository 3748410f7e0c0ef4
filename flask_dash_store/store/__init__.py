"""A visitor's store: a mutable mapping, and the session that it belongs to."""
