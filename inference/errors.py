"""Errors that a user can cause: one clear line, exit code 2, no traceback."""

from collections.abc import Iterable

__all__ = ['UserError', 'unknown']


class UserError(Exception):
    """Something the user asked for cannot be done; the message names the thing and the mend, in one line."""


def unknown(what: str, value: object, known: Iterable[str]) -> UserError:
    """The error for a name that is none of a few, with the nearest one."""
    import difflib

    known = tuple(known)
    close = difflib.get_close_matches(str(value), known, 1)
    return UserError(
        f'unknown {what} {value!r}; '
        + (f'did you mean {close[0]}? ' if close else '')
        + f'there are {", ".join(known)}'
    )
