"""A client that writes a request and reads the answer, no more: what a server takes, and not what its client does."""

import re
import socket
from typing import Any

__all__ = ['Socket']


class Socket:
    """A connection to Triton's HTTP port.

    Args:
        port: At 127.0.0.1.
    """

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(('127.0.0.1', port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @staticmethod
    def request(model: str, inputs: list[Any], outputs: list[Any] | None = None) -> bytes:
        """The bytes of a request with tritonclient.http's inputs and outputs."""
        from tritonclient.http import InferenceServerClient

        body, header_length = InferenceServerClient.generate_request_body(inputs, outputs=outputs)
        head = f'POST /v2/models/{model}/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n'
        if header_length is not None:  # something follows the JSON
            head += f'Inference-Header-Content-Length: {header_length}\r\n'
        return f'{head}\r\n'.encode() + body

    def ask(self, request: bytes) -> bytes:
        """The whole answer."""
        self._socket.sendall(request)
        data = self._more()
        while (end := data.find(b'\r\n\r\n')) < 0:
            data += self._more()
        length = end + 4 + _number(data[:end], 'Content-Length')
        while len(data) < length:
            data += self._more()
        return data

    def _more(self) -> bytes:
        data = self._socket.recv(1 << 16)
        if not data:
            raise RuntimeError('the server has closed the connection in the middle of an answer')
        return data

    @staticmethod
    def result(answer: bytes) -> Any:
        """tritonclient.http's InferResult of an answer."""
        from tritonclient.http import InferenceServerClient

        head, _, body = answer.partition(b'\r\n\r\n')
        if b' 200 ' not in head[:20]:
            raise RuntimeError(answer.decode(errors='replace'))
        return InferenceServerClient.parse_response_body(
            body, header_length=_number(head, 'Inference-Header-Content-Length')
        )

    def close(self) -> None:
        self._socket.close()


def _number(head: bytes, name: str) -> int:
    found = re.search(rf'\r\n{name}: *(\d+)'.encode(), head, re.IGNORECASE)
    if found is None:
        raise RuntimeError(f'no {name} in the answer: {head!r}')
    return int(found[1])
