"""The GPU's figures while something runs, from an NVML that is made up."""

import sys
import threading
from types import SimpleNamespace

import pytest

from inference.cuda.libcuda import Device
from inference.cuda.monitor import Monitor, Sample, median

GPU = Device(0, 'a GPU', 86, 1, (13, 0), '0000:65:00.0', 82, 1695000, 9751000, 384)


class Nvml:
    """As far as the monitor calls it; every figure rises, and `enough` is set after some looks."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    nvmlClocksEventReasonSwPowerCap, nvmlClocksEventReasonHwThermalSlowdown = 4, 64
    nvmlClocksEventReasonSwThermalSlowdown, nvmlClocksEventReasonGpuIdle = 32, 1

    def __init__(self, looks=5):
        self.calls, self.looks, self.enough = [], looks, threading.Event()

    def nvmlInit(self):
        self.calls.append('init')

    def nvmlShutdown(self):
        self.calls.append('shutdown')

    def nvmlDeviceGetHandleByPciBusId(self, pci):
        return f'handle of {pci}'

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle):
        return 1 | 4 | 32 | 64

    NVML_FI_DEV_POWER_INSTANT, NVML_SUCCESS = 186, 0

    def nvmlDeviceGetFieldValues(self, handle, fields):
        assert handle == 'handle of 0000:65:00.0'
        self.looks -= 1
        if self.looks <= 0:
            self.enough.set()
        assert fields == [186]
        return [SimpleNamespace(nvmlReturn=0, value=SimpleNamespace(uiVal=250_000))]

    def nvmlDeviceGetClockInfo(self, handle, kind):
        return {1: 1700, 2: 9751}[kind]

    def nvmlDeviceGetTemperature(self, handle, sensor):
        raise RuntimeError('not supported')


def watch(monkeypatch, nvml, interval=0.001):
    monkeypatch.setitem(sys.modules, 'pynvml', nvml)
    return Monitor(GPU, interval)


def test_samples_while_it_runs(monkeypatch):
    nvml = Nvml()
    with watch(monkeypatch, nvml) as monitor:
        assert nvml.enough.wait(10)
    assert nvml.calls == ['init', 'shutdown']
    assert len(monitor.samples) >= 4
    assert monitor.samples[0] == Sample(250.0, 1700, 9751, None, ('power cap', 'thermal slowdown'))


def test_it_stops_when_the_measurement_fails(monkeypatch):
    nvml = Nvml()
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt), watch(monkeypatch, nvml):
        raise KeyboardInterrupt
    assert nvml.calls == ['init', 'shutdown']
    assert threading.active_count() == before


@pytest.mark.parametrize('what', ['not installed', 'no driver', 'no such GPU'])
def test_without_nvml_there_is_a_reason_and_no_failure(monkeypatch, what):
    nvml = Nvml()
    if what == 'no driver':
        nvml.nvmlInit = lambda: (_ for _ in ()).throw(RuntimeError('Driver Not Loaded'))
    if what == 'no such GPU':
        nvml.nvmlDeviceGetHandleByPciBusId = lambda pci: (_ for _ in ()).throw(RuntimeError('Not Found'))
    with watch(monkeypatch, None if what == 'not installed' else nvml) as monitor:
        pass
    assert monitor.samples == []
    assert {'not installed': 'pynvml', 'no driver': 'Not Loaded', 'no such GPU': 'Not Found'}[what] in monitor.reason
    assert nvml.calls == ([] if what != 'no such GPU' else ['init', 'shutdown'])


def test_names_are_those_of_nvml():
    real = pytest.importorskip('pynvml', reason='nvidia-ml-py is not installed')
    for name in dir(Nvml):
        if name.startswith(('nvml', 'NVML')):
            assert hasattr(real, name), name
    import inference.cuda.monitor as module

    for name in module._THROTTLING:
        assert hasattr(real, f'nvmlClocksEventReason{name}')


def test_median():
    samples = [Sample(1, 5, None, 60), Sample(9, None, None, 60, ('a',)), Sample(2, 7, None, 60, ('b', 'a'))]
    assert median(samples) == Sample(2, 6, None, 60, ('a', 'b'))
    assert median([]) is None
    assert median([Sample()]) == Sample()
