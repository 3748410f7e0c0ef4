"""What differs between the frameworks that an app may be of; and Flask's own session, forms and logins."""
