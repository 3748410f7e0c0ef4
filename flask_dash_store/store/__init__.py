"""A visitor's store: the session that it belongs to, and the mutable mapping that it is."""
