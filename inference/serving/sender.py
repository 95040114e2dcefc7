"""Requests of a load test: encoded images, one after the other, over gRPC."""

import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from .client import read_image
from .load import Refused

__all__ = ['Sender', 'read_images']

# What Triton says of a request that a full queue, or the longest wait in it, has turned away.
REFUSALS = ('Exceeds maximum queue size', 'Request timeout expired')
SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.gif', '.webp')


def read_images(path: Path, most: int = 256) -> list[bytes]:
    """An image, or up to `most` of those in a folder, evenly spread over it.

    Raises:
        UserError: There is none.
    """
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.rglob('*') if file.suffix.lower() in SUFFIXES)
        files = files[:: max(1, -(-len(files) // most))]
    if not files:
        raise UserError(f'{path} has no image in it ({", ".join(SUFFIXES)})')
    return [read_image(file) for file in files]


class Sender:
    """One connection to a server.

    Args:
        url: Address and port of gRPC.
        timeout: Seconds after which a request has failed.
    """

    def __init__(self, url: str, timeout: float):
        from tritonclient.grpc import aio

        self._aio, self._timeout = aio, timeout
        self._client = aio.InferenceServerClient(url)
        self.url = url

    async def close(self) -> None:
        await self._client.close()

    async def check(self, model: str) -> int | None:
        """Its multiply-accumulates an image; None where the server does not say.

        Raises:
            UserError: There is no server, or it has no such model ready.
        """
        try:
            ready = await asyncio.wait_for(self._client.is_model_ready(model), self._timeout)
        except Exception as error:
            raise UserError(f'no server answers at {self.url} (gRPC); `hetconv serve` starts one') from error
        if not ready:
            raise UserError(f'the server at {self.url} has no model {model} that is ready')
        try:
            config = await self._client.get_model_config(f'{model}_engine', as_json=True)
            return int(config['config']['parameters']['macs']['string_value'])
        except Exception:  # a model that is not ours, or a server that keeps its settings to itself
            return None

    def of(self, model: str, images: Sequence[bytes]) -> Any:
        """A function that sends the next of the images, over and over, and waits for the answer."""
        import numpy as np

        inputs = []
        for image in images:
            tensor = self._aio.InferInput('image', [1, 1], 'BYTES')
            tensor.set_data_from_numpy(np.array([[image]], dtype=object))
            inputs.append([tensor])
        turn = itertools.cycle(inputs)

        async def send() -> None:
            from tritonclient.utils import InferenceServerException

            try:
                answer = await self._client.infer(model, next(turn), client_timeout=self._timeout)
            except InferenceServerException as error:
                if any(words in str(error.message()) for words in REFUSALS):
                    raise Refused(error.message()) from error
                raise
            if answer.as_numpy('class') is None:
                raise ValueError('an answer without classes')

        return send
