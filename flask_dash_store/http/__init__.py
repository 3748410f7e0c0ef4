"""A request's session: the cookie that comes, the store that the request is given, the cookie that goes out."""
