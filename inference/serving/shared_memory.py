"""An encoded image in system shared memory, for a server on the same machine."""

import os
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..errors import UserError

__all__ = ['Region']


class Region:
    """As large as the largest image so far; made by the first.

    Args:
        share: Tells the server of a region, by name and bytes.
        unshare: Tells it to forget one; raises nothing.
    """

    def __init__(self, share: Callable[[str, int], None], unshare: Callable[[str], None]) -> None:
        self.share, self.unshare = share, unshare
        self.name, self.size = '', 0
        self._handle: Any = None

    def put(self, image: bytes) -> tuple[str, int]:
        """The region's name, and how many bytes of it are the image as a tensor of BYTES (1, 1).

        Raises:
            UserError: It cannot be made, or the server cannot open it.
        """
        import numpy as np
        from tritonclient.utils import serialize_byte_tensor, shared_memory

        data = serialize_byte_tensor(np.array([[image]], dtype=np.object_))
        size = len(data.item())
        if size > self.size:
            self.close()
            self._make(size)
        shared_memory.set_shared_memory_region(self._handle, [data])
        return self.name, size

    def close(self) -> None:
        """Nothing stays, whether the server is there or not."""
        if self._handle is None:
            return
        from tritonclient.utils import shared_memory

        handle, self._handle, self.size = self._handle, None, 0
        try:
            self.unshare(self.name)
        finally:
            with suppress(Exception):
                shared_memory.destroy_shared_memory_region(handle)

    def _make(self, size: int) -> None:
        from tritonclient.utils import shared_memory

        _check_room(size)
        name = f'hetconv-{os.getpid()}-{uuid.uuid4().hex}'
        try:
            self._handle = shared_memory.create_shared_memory_region(name, name, size, create_only=True)
        except (shared_memory.SharedMemoryException, OSError) as error:
            raise UserError(f'no shared memory of {size:,} bytes: {error.__cause__ or error}') from error
        self.name = name
        self.share(name, size)
        self.size = size  # only now: of a region that the server does not know nothing more is sent


def _check_room(size: int) -> None:
    """Raises UserError: where there is none, writing to it would end the process."""
    with suppress(OSError):
        free = shutil.disk_usage('/dev/shm').free
        if free < size:
            raise UserError(f'no shared memory of {size:,} bytes: /dev/shm has {free:,} left')
