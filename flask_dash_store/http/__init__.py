"""A request's session: cookie in, store for the request, cookie out."""
