"""Serve page.html, and forward what it asks to Triton, which sends no CORS headers.

The standard library's server, with a thread a connection and no more than some of them: see page_request.py for what is
answered.
"""

import base64
import contextlib
import hashlib
import re
import socket
import socketserver
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ..errors import UserError
from .page_request import Request

__all__ = ['PageServer']

PAGE = Path(__file__).with_name('page.html')
CONNECTIONS = 64


class PageServer(ThreadingHTTPServer):
    """Listens once it is made; `serve_forever` answers. A context manager.

    Args:
        triton: HOST:PORT of Triton's HTTP.
        host: Address to listen at.
        port: 0 takes a free one.

    Raises:
        UserError: It cannot listen there.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, triton: str, host: str = '127.0.0.1', port: int = 8080) -> None:
        self.triton, self.host = triton, host
        self.page = PAGE.read_bytes()
        self.policy = _policy(self.page.decode())
        self._free = threading.BoundedSemaphore(CONNECTIONS)
        if ':' in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), Request)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, 'strerror', None) or error
            raise UserError(f'the page cannot listen at {host}, port {port}: {reason}') from error

    @property
    def url(self) -> str:
        """Where the page is."""
        host = f'[{self.host}]' if ':' in self.host else self.host
        return f'http://{host}:{self.server_address[1]}'

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread, while there are not too many."""
        if not self._free.acquire(blocking=False):
            with contextlib.suppress(OSError):
                request.sendall(b'HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n')
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread to be had
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer one connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is nothing to report."""

    def server_bind(self) -> None:
        """Without asking for the host's full name, which may take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.host, self.server_address[1]


def _policy(page: str) -> str:
    """Content-Security-Policy: the page's own script and style, by checksum, and nothing else."""

    def sources(tag: str) -> str:
        texts = re.findall(rf'<{tag}>(.*?)</{tag}>', page, re.DOTALL)
        digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
        return ' '.join(f"'sha256-{digest}'" for digest in digests)

    return (
        f"default-src 'none'; script-src {sources('script')}; style-src {sources('style')}; img-src blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
