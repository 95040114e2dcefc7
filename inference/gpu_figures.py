"""What a row on a GPU carries besides its time: how the GPU was, and what it allowed."""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from .cuda.libcuda import Libcuda
from .cuda.monitor import Monitor, Sample, median
from .cuda.peaks import peak_of
from .roofline import bound_of
from .rows import GpuFigures, Measurement
from .subjects import Subject

if TYPE_CHECKING:
    from .cuda.libcuda import Device

__all__ = ['GpuWatch']


class GpuWatch:
    """The GPU of a bench run.

    Raises:
        UserError: There is none.
    """

    def __init__(self) -> None:
        self.device: Device = Libcuda().device(0)

    @property
    def environment(self) -> dict[str, object]:
        """What a run says of its GPU."""
        device = self.device
        return {
            'gpu': device.name,
            'sm': device.sm,
            'gpu_memory_gib': round(device.memory / 2**30, 1),
            'driver_cuda': '.'.join(map(str, device.cuda)),
        }

    def monitor(self) -> AbstractContextManager[Monitor]:
        """Looks at the GPU while a row has its turn."""
        return Monitor(self.device)

    def fill(self, row: Measurement, samples: list[Sample], subject: Subject, dense: Subject) -> None:
        """Set the GPU's figures of a row that was measured, and the bounds at its clocks.

        Args:
            row: With its time.
            samples: Of all its turns.
            subject: What was measured.
            dense: What it is compared with.
        """
        sample = median(samples)
        if sample is not None:
            row.gpu = GpuFigures(**{**vars(sample), 'throttled': list(sample.throttled)})
        clocks = (sample.sm_clock_mhz, sample.memory_clock_mhz) if sample else (None, None)
        peak = peak_of(self.device, row.precision, *clocks)
        if peak is None or not row.ms_median:
            return
        bound, twin = (bound_of(of.layers, row.batch, row.precision, peak) for of in (subject, dense))
        row.bound_ms, row.memory_share = 1e3 * bound.seconds, bound.memory_share
        row.theory_roofline = twin.seconds / bound.seconds
        row.realised_roofline = row.bound_ms / row.ms_median
