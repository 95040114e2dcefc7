"""What the page's server answers: the page, and a few paths of Triton's protocol, which it forwards.

Nothing else goes through, so whoever reaches the page can neither load models nor register memory.
"""

import contextlib
import http.client
import io
import ipaddress
import json
import re
import socket
import time
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

from .steps.prepare import MAX_BYTES

if TYPE_CHECKING:
    from .page import PageServer

__all__ = ['Request']

# Seconds: for a whole request to arrive, pauses between two counted; for Triton's answer; for a client to take it.
ARRIVE, ANSWER = 60.0, 30.0
# An image, and what stands before it.
MAX_BODY = MAX_BYTES + (64 << 10)
_NAME = r'[A-Za-z0-9][A-Za-z0-9_.-]*'
PATHS = [
    (re.compile(r'/v2/health/(live|ready)'), 'GET'),
    (re.compile(rf'/v2/models/{_NAME}/(config|stats)'), 'GET'),
    (re.compile(r'/v2/repository/index'), 'POST'),
    (re.compile(rf'/v2/models/{_NAME}/infer'), 'POST'),
]
LOOPBACK = ('localhost', '127.0.0.1', '::1')  # names that a browser on this machine may use
SECURITY = {
    'X-Content-Type-Options': 'nosniff',
    'X-Frame-Options': 'DENY',
    'Referrer-Policy': 'no-referrer',
    'Cross-Origin-Opener-Policy': 'same-origin',
    'Cross-Origin-Resource-Policy': 'same-origin',
    'Cache-Control': 'no-store',
}


class Request(BaseHTTPRequestHandler):
    """The requests of one connection."""

    server: 'PageServer'
    protocol_version = 'HTTP/1.1'
    server_version, sys_version = 'hetconv', ''
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.arriving = _Arriving(self.connection)
        self.rfile = io.BufferedReader(self.arriving)
        self.triton: http.client.HTTPConnection | None = None

    def finish(self) -> None:
        if self.triton is not None:
            self.triton.close()
        super().finish()

    def handle_one_request(self) -> None:
        """With a deadline for all of it to arrive."""
        self.arriving.start(ARRIVE)
        super().handle_one_request()

    def do_GET(self) -> None:
        self._answer()

    # Each method that is not answered by these gets 501.
    do_POST = do_HEAD = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_GET

    def _answer(self) -> None:
        path = self.path.partition('?')[0]
        method = 'GET' if path == '/' else next((m for pattern, m in PATHS if pattern.fullmatch(path)), None)
        if method is None:
            self._refuse(404, f'nothing is served at {path[:200]}')
        elif self.command != method and not (path == '/' and self.command == 'HEAD'):
            self._refuse(405, f'{path} takes {method}', {'Allow': method})
        elif not self._invited():
            self._refuse(403, "asked by another site, or under another name than this machine's")
        elif method == 'GET' and {'transfer-encoding', 'content-length'} & {key.lower() for key in self.headers}:
            self._refuse(400, 'GET has no body')  # which would be read as the next request
        elif path == '/':
            headers = {'Content-Type': 'text/html; charset=utf-8', 'Content-Security-Policy': self.server.policy}
            self._send(200, self.server.page, headers)
        else:
            body = self._body() if method == 'POST' else b''
            if body is not None:
                self._forward(path, body)

    def _invited(self) -> bool:
        """Not for pages of other sites in a visitor's browser, nor for a name that they point at this machine."""
        if self.headers.get('Sec-Fetch-Site') == 'cross-site' and self.path.startswith('/v2/'):
            return False
        if not _is_loopback(self.server.host):
            return True
        return re.sub(r':\d*$', '', self.headers.get('Host', 'localhost')).strip('[]').lower() in (
            *LOOPBACK,
            self.server.host,
        )

    def _body(self) -> bytes | None:
        """None where it was refused."""
        lengths = self.headers.get_all('Content-Length', [])
        if 'Transfer-Encoding' in self.headers or not lengths:
            self._refuse(411, 'a request needs its Content-Length')
        elif len(lengths) > 1 or not re.fullmatch('[0-9]{1,18}', lengths[0]):
            self._refuse(400, 'Content-Length is no number')
        elif int(lengths[0]) > MAX_BODY:
            self._refuse(413, f'an image may have {MAX_BYTES >> 20} MiB at most')
        else:
            body = self.rfile.read(int(lengths[0]))
            if len(body) == int(lengths[0]):
                return body
            self.close_connection = True  # it did not come in time
        return None

    def handle_expect_100(self) -> bool:
        """A body that is too long is not asked for."""
        length = self.headers.get('Content-Length', '')
        return (length.isdecimal() and int(length) > MAX_BODY) or super().handle_expect_100()

    def _forward(self, path: str, body: bytes) -> None:
        headers = {'Content-Type': 'application/octet-stream'}
        length = self.headers.get('Inference-Header-Content-Length', '')
        if re.fullmatch('[0-9]{1,18}', length):
            headers['Inference-Header-Content-Length'] = length
        start = time.perf_counter()
        try:
            status, answer = self._ask(path, body, headers)
        except TimeoutError:
            self._hang_up()
            self._send(504, _error(f'no answer from Triton at {self.server.triton} in {ANSWER:g} s'))
        except (OSError, http.client.HTTPException) as error:
            self._hang_up()
            reason = getattr(error, 'strerror', None) or str(error) or type(error).__name__
            self._send(502, _error(f'no Triton at {self.server.triton}: {reason}'))
        else:
            ms = (time.perf_counter() - start) * 1e3
            self._send(status, answer, {'Server-Timing': f'triton;dur={ms:.3f}'})

    def _ask(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        """Once more where a connection that was kept turns out to be closed: none of the paths changes anything."""
        kept = self.triton is not None
        if self.triton is None:
            self.triton = http.client.HTTPConnection(self.server.triton, timeout=ANSWER)
            self.triton.connect()
            self.triton.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self.triton.request(self.command, path, body, headers)
            answer = self.triton.getresponse()
            data = answer.read()
        except (ConnectionError, http.client.BadStatusLine):
            if not kept:
                raise
            self._hang_up()
            return self._ask(path, body, headers)
        return answer.status, data

    def _hang_up(self) -> None:
        if self.triton is not None:
            self.triton.close()
            self.triton = None

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.connection.settimeout(ANSWER)
        self.send_response(status)
        given = {'Content-Type': 'application/json', 'Content-Security-Policy': "default-src 'none'", **(headers or {})}
        for key, value in {**given, **SECURITY, 'Content-Length': str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(body)
        self.wfile.flush()

    def _refuse(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        """The end of the connection: what else the client sends is not read as a request."""
        self._send(status, _error(text), {**(headers or {}), 'Connection': 'close'})
        # A client that is still sending would see a reset instead of the answer.
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.arriving.start(1.0)
            while self.rfile.read1(1 << 16):
                pass

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the standard library refuses; as JSON."""
        self.command = self.command or 'GET'  # where not even that was understood
        self._refuse(code, message or http.client.responses.get(code, 'error'))

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing a request."""


class _Arriving(io.RawIOBase):
    """What a connection sends, until a deadline, however slowly it comes: then it is at its end."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self.end = connection, 0.0

    def start(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self.end - time.monotonic()
        if left <= 0:
            return 0
        self.connection.settimeout(left)
        try:
            return self.connection.recv_into(buffer)
        except OSError:  # the deadline among them
            return 0


def _error(text: str) -> bytes:
    return json.dumps({'error': text}).encode()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in LOOPBACK
