"""Where a server is, as a user says it, and whether it is there."""

import urllib.request
from http.client import HTTPException

from ..errors import UserError

__all__ = ['address', 'answers']


def address(url: str, port: int) -> str:
    """HOST:PORT of what a user gives: http:// may stand before it, and the port be left out.

    Raises:
        UserError: It is none.
    """
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url if '://' in url else f'http://{url}')
        number = parts.port or port
    except ValueError as error:
        raise UserError(f'{url} is no address of a server: {error}') from error
    if parts.scheme not in ('http', 'grpc'):
        raise UserError(f'{url}: HOST:PORT is what is needed, without {parts.scheme}://')
    if not parts.hostname or parts.path.strip('/') or parts.query or parts.username is not None:
        raise UserError(f'{url} is no address of a server: HOST:PORT is one')
    host = f'[{parts.hostname}]' if ':' in parts.hostname else parts.hostname
    return f'{host}:{number}'


def answers(url: str, path: str) -> bool:
    """Does Triton say yes there, within a second?

    Args:
        url: HOST:PORT of its HTTP.
        path: /v2/health/live or /v2/health/ready.
    """
    try:
        with urllib.request.urlopen(f'http://{url}{path}', timeout=1):
            return True
    except (OSError, HTTPException):  # of HTTP a bad status is an OSError; the other is no HTTP
        return False
