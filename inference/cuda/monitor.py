"""What a GPU draws and how fast it runs while something is measured on it, by NVIDIA's management library (NVML)."""

import statistics
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from .libcuda import Device

__all__ = ['Monitor', 'Sample', 'median']

# Bits of nvmlClocksEventReasons that mean slower than asked for; idle and what a user has set are none.
_THROTTLING = {
    'SwPowerCap': 'power cap',
    'HwSlowdown': 'hardware slowdown',
    'SyncBoost': 'sync boost',
    'SwThermalSlowdown': 'thermal slowdown',
    'HwThermalSlowdown': 'thermal slowdown',
    'HwPowerBrakeSlowdown': 'power brake',
}


@dataclass(frozen=True)
class Sample:
    """One look at a GPU, or the median of several; None is what it does not tell.

    Attributes:
        power_w: Watts at that moment.
        sm_clock_mhz, memory_clock_mhz: Clocks.
        temperature_c: Degrees Celsius.
        throttled: Why it is slower than it could be, in words.
    """

    power_w: float | None = None
    sm_clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    temperature_c: float | None = None
    throttled: tuple[str, ...] = ()


class Monitor:
    """Looks at a GPU from a thread, between `with` and its end, as often as `interval` seconds.

    Where NVML is missing nothing fails: there are no samples, and `reason` says why.

    Args:
        device: The GPU.
        interval: Seconds between two looks.
    """

    def __init__(self, device: Device, interval: float = 0.02) -> None:
        self.reason = ''
        self.samples: list[Sample] = []
        self._interval, self._device = interval, device
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._nvml: Any = None

    def __enter__(self) -> 'Monitor':
        try:
            import pynvml

            pynvml.nvmlInit()
            self._nvml = pynvml
            handle = pynvml.nvmlDeviceGetHandleByPciBusId(self._device.pci)
        except Exception as error:  # not installed, no driver, or a GPU that NVML may not see
            self.reason = f'{type(error).__name__}: {error}'
            self._shutdown()
            return self
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, args=(handle,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._shutdown()

    def _shutdown(self) -> None:
        nvml, self._nvml = self._nvml, None
        if nvml is not None:
            with suppress(Exception):
                nvml.nvmlShutdown()

    def _run(self, handle: Any) -> None:
        while not self._stop.wait(self._interval):
            self.samples.append(_look(self._nvml, handle))


def _look(nvml: Any, handle: Any) -> Sample:
    def ask(function: str, *arguments: Any, scale: float = 1) -> float | None:
        try:
            return getattr(nvml, function)(handle, *arguments) * scale
        except Exception:  # this GPU or driver does not tell
            return None

    bits = ask('nvmlDeviceGetCurrentClocksEventReasons')
    if bits is None:  # the name before driver 535
        bits = ask('nvmlDeviceGetCurrentClocksThrottleReasons')
    bits = int(bits or 0)
    reasons = [word for name, word in _THROTTLING.items() if bits & getattr(nvml, f'nvmlClocksEventReason{name}', 0)]
    return Sample(
        power_w=_power(nvml, handle),
        sm_clock_mhz=ask('nvmlDeviceGetClockInfo', nvml.NVML_CLOCK_SM),
        memory_clock_mhz=ask('nvmlDeviceGetClockInfo', nvml.NVML_CLOCK_MEM),
        temperature_c=ask('nvmlDeviceGetTemperature', nvml.NVML_TEMPERATURE_GPU),
        throttled=tuple(dict.fromkeys(reasons)),
    )


def _power(nvml: Any, handle: Any) -> float | None:
    """Watts now: since Ampere nvmlDeviceGetPowerUsage is the mean of the last second, longer than a turn."""
    with suppress(Exception):
        (field,) = nvml.nvmlDeviceGetFieldValues(handle, [nvml.NVML_FI_DEV_POWER_INSTANT])
        if field.nvmlReturn == nvml.NVML_SUCCESS:
            return field.value.uiVal * 1e-3
    return None


def median(samples: list[Sample]) -> Sample | None:
    """The median of each figure, and every reason that was there; None of no samples."""
    if not samples:
        return None

    def middle(name: str) -> float | None:
        known = [value for sample in samples if (value := getattr(sample, name)) is not None]
        return float(statistics.median(known)) if known else None

    reasons = dict.fromkeys(reason for sample in samples for reason in sample.throttled)
    figures = ('power_w', 'sm_clock_mhz', 'memory_clock_mhz', 'temperature_c')
    return Sample(**{name: middle(name) for name in figures}, throttled=tuple(reasons))
