"""Where a server is, as a user says it."""

from ..errors import UserError

__all__ = ['address']


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
