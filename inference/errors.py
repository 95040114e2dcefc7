"""Errors that a user can cause: one clear line, exit code 2, no traceback."""


class UserError(Exception):
    """Something the user asked for cannot be done; the message names the thing and the mend, in one line."""
