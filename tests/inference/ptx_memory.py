"""Memory of the PTX emulator: every access is checked, and what a GPU would leave to chance is an error.

Addresses, masks and values have the shape (blocks, threads), where an axis may be 1: see `ptx_emulator`.
"""

from collections import deque

import numpy as np
from ptx_parser import PtxError

__all__ = ['SHARED_BASE', 'GlobalMemory', 'SharedMemory']

SHARED_BASE = 1024  # where dynamic shared memory begins; not 0, where a forgotten base would point
_BUFFER_BITS = 40  # buffers are so far from each other that no wrong offset leads from one into another
_NEVER, _IN_FLIGHT = -1, 2**31 - 1


def _unsigned(item: int) -> np.dtype:
    return np.dtype(f'u{item}')


class GlobalMemory:
    """Buffers of a launch; one that is a read-only array cannot be written.

    Attributes:
        stores: For each buffer, how often each of its bytes was written.
    """

    def __init__(self) -> None:
        self._bytes: list[np.ndarray] = []
        self._writeable: list[bool] = []
        self.stores: list[np.ndarray] = []

    def add(self, array: np.ndarray) -> int:
        """The address of a contiguous array."""
        if not array.flags.c_contiguous:
            raise ValueError('not contiguous')
        self._bytes.append(array.reshape(-1).view(np.uint8))
        self._writeable.append(array.flags.writeable)
        self.stores.append(np.zeros(array.nbytes, np.int32))
        return len(self._bytes) << _BUFFER_BITS

    def _locate(self, address: np.ndarray, size: int) -> tuple[int, np.ndarray]:
        """The buffer, which must be one for all threads, and the offsets into it."""
        number = (address >> np.uint64(_BUFFER_BITS)).astype(np.int64) - 1
        which = int(number[0])
        if (number != which).any() or not 0 <= which < len(self._bytes):
            raise PtxError(f'outside of any buffer: {address[0]:#x}')
        offset = (address & np.uint64(2**_BUFFER_BITS - 1)).astype(np.int64)
        if (offset + size > self._bytes[which].size).any():
            raise PtxError(f'outside of buffer {which} of {self._bytes[which].size} bytes: {size} at {offset.max()}')
        if (offset % size).any():
            raise PtxError(f'{size} bytes are not aligned in buffer {which}')
        return which, offset

    def load(self, address: np.ndarray, item: int, count: int, mask: np.ndarray) -> np.ndarray:
        """(blocks, threads, count) unsigned values of `item` bytes; 0 where masked, which is not accessed."""
        address, mask = np.broadcast_arrays(address, mask)
        result = np.zeros((*mask.shape, count), _unsigned(item))
        if mask.any():
            which, offset = self._locate(address[mask], item * count)
            data = self._bytes[which]
            values = data[: data.size // item * item].view(_unsigned(item))
            result[mask] = values[(offset // item)[:, None] + np.arange(count)]
        return result

    def store(self, address: np.ndarray, values: np.ndarray, mask: np.ndarray) -> None:
        """Write (blocks, threads, count) unsigned values; `mask` has the full shape."""
        item, count = values.dtype.itemsize, values.shape[2]
        address = np.broadcast_to(address, mask.shape)
        values = np.broadcast_to(values, (*mask.shape, count))
        if mask.any():
            which, offset = self._locate(address[mask], item * count)
            if not self._writeable[which]:
                raise PtxError(f'buffer {which} is not to be written')
            places = offset[:, None] + np.arange(item * count)
            self._bytes[which][places] = np.ascontiguousarray(values[mask]).view(np.uint8).reshape(places.shape)
            np.add.at(self.stores[which], places, 1)


class SharedMemory:
    """Dynamic shared memory of several blocks, in units of `granule` bytes.

    It remembers for each unit who wrote and who read it last, and when, in barriers. So it finds reads of what was
    never written, or is on its way by `cp.async`; and races: an access to what another thread wrote, or a write to what
    another warp read, without a barrier between. (A write to what a thread of the same warp read is not looked for.)
    """

    def __init__(self, blocks: int, threads: int, size: int, granule: int) -> None:
        self._size = size
        self._stride = -(-size // 16) * 16
        self._granule = granule
        self._bytes = np.zeros(blocks * self._stride, np.uint8)
        units = self._bytes.size // granule
        self._written = np.full(units, _NEVER, np.int32)
        self._writer = np.zeros(units, np.int16)
        self._read = np.full(units, _NEVER, np.int32)
        self._reader_warp = np.zeros(units, np.int16)
        self._block = np.arange(blocks)[:, None]
        self._thread = np.arange(threads)[None, :]
        self._now = self._block_barrier = self._warp_barrier = 0
        self._open: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._groups: deque = deque()

    def barrier(self, *, warp: bool = False) -> None:
        """All threads of a block, or of a warp, have come here."""
        self._now += 1
        self._warp_barrier = self._now
        if not warp:
            self._block_barrier = self._now

    def _locate(self, address: np.ndarray, size: int, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the threads in the mask: offsets into all blocks' memory, units (threads, n), and who they are."""
        offset = np.broadcast_to(address.astype(np.int64) - SHARED_BASE, mask.shape)[mask]
        if (offset < 0).any() or (offset + size > self._size).any():
            raise PtxError(f'outside of shared memory of {self._size} bytes: {size} at {offset.max()}')
        if (offset % size).any():
            raise PtxError(f'{size} bytes are not aligned in shared memory')
        flat = offset + np.broadcast_to(self._block * self._stride, mask.shape)[mask]
        units = (flat // self._granule)[:, None] + np.arange(size // self._granule)
        return flat, units, np.broadcast_to(self._thread, mask.shape)[mask][:, None]

    def _check_writer(self, written: np.ndarray, units: np.ndarray, thread: np.ndarray) -> None:
        latest = written.max(initial=_NEVER)
        if latest == _IN_FLIGHT:
            raise PtxError('shared memory that cp.async is still writing')
        if latest >= self._block_barrier:
            writer = self._writer[units]
            apart = (writer // 32 != thread // 32) | (written >= self._warp_barrier)
            if ((written >= self._block_barrier) & (writer != thread) & apart).any():
                raise PtxError('race: shared memory that another thread wrote since the last barrier')

    def load(self, address: np.ndarray, item: int, count: int, mask: np.ndarray) -> np.ndarray:
        """(blocks, threads, count) unsigned values of `item` bytes, 0 where masked; `mask` has the full shape."""
        result = np.zeros((*mask.shape, count), _unsigned(item))
        flat, units, thread = self._locate(address, item * count, mask)
        written = self._written[units]
        if (written == _NEVER).any():
            raise PtxError('shared memory that was never written')
        self._check_writer(written, units, thread)
        warp = np.broadcast_to(thread // 32, units.shape).astype(np.int16)
        # -1 stands for several warps since the last barrier.
        several = (self._read[units] >= self._block_barrier) & (self._reader_warp[units] != warp)
        self._read[units] = self._now
        self._reader_warp[units] = reader = np.where(several, -1, warp)
        self._reader_warp[units[self._reader_warp[units] != reader]] = -1
        result[mask] = self._bytes.view(_unsigned(item))[(flat // item)[:, None] + np.arange(count)]
        return result

    def _claim(self, units: np.ndarray, thread: np.ndarray, when: int) -> None:
        """The threads write these units."""
        self._check_writer(self._written[units], units, thread)
        reading = (self._read[units] >= self._block_barrier) & (self._reader_warp[units] != thread // 32)
        if reading.any():
            raise PtxError('race: shared memory that another warp read since the last barrier')
        self._written[units] = when
        self._writer[units] = thread
        if (self._writer[units] != thread).any():
            raise PtxError('race: two threads write the same shared memory')

    def store(self, address: np.ndarray, values: np.ndarray, mask: np.ndarray) -> None:
        """Write (blocks, threads, count) unsigned values; `mask` has the full shape."""
        item, count = values.dtype.itemsize, values.shape[2]
        flat, units, thread = self._locate(address, item * count, mask)
        self._claim(units, thread, self._now)
        places = (flat // item)[:, None] + np.arange(count)
        self._bytes.view(_unsigned(item))[places] = np.broadcast_to(values, (*mask.shape, count))[mask]

    def copy_async(self, address: np.ndarray, values: np.ndarray, mask: np.ndarray) -> None:
        """As `store`, but the values come with `wait`."""
        item, count = values.dtype.itemsize, values.shape[2]
        flat, units, thread = self._locate(address, item * count, mask)
        self._claim(units, thread, _IN_FLIGHT)
        places = (flat // item)[:, None] + np.arange(count)
        self._open.append((places, np.broadcast_to(values, (*mask.shape, count))[mask], units))

    def commit(self) -> None:
        """The copies since the last commit are a group."""
        self._groups.append(self._open)
        self._open = []

    def wait(self, pending: int) -> None:
        """All groups but the latest `pending` have arrived, each for the thread that began it."""
        while len(self._groups) > pending:
            for places, values, units in self._groups.popleft():
                self._bytes.view(values.dtype)[places] = values
                self._written[units] = self._now
