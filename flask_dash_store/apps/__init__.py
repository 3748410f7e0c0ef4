"""How the store is installed in apps of each framework; and Flask's session and logins."""
