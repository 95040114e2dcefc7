"""Peaks by table and clocks, against the data sheets of GPUs."""

import pytest

from inference.cuda.libcuda import Device
from inference.cuda.peaks import peak_of


def device(name, sm, multiprocessors, clock_mhz, memory_mhz, bus):
    return Device(
        index=0, name=name, sm=sm, memory=1, cuda=(13, 0), pci='', multiprocessors=multiprocessors,
        clock_khz=round(clock_mhz * 1e3), memory_clock_khz=round(memory_mhz * 1e3), memory_bus_bits=bus,
    )  # fmt: skip


# TFLOP/s, dense, sums in float32 (INT8: TOP/s), and GB/s, of the data sheets; clocks are the boost clocks there.
SHEETS = [
    (device('Tesla T4', 75, 40, 1590, 5001, 256), {'fp16': 65, 'int8': 130}, 320),
    (device('NVIDIA A100-SXM4-40GB', 80, 108, 1410, 1215, 5120), {'fp16': 312, 'fp32': 156, 'int8': 624}, 1555),
    (device('NVIDIA GeForce RTX 3090', 86, 82, 1695, 9751, 384), {'fp16': 71, 'fp32': 35.6, 'int8': 284}, 936),
    (device('NVIDIA RTX A6000', 86, 84, 1800, 8001, 384), {'fp16': 154.8, 'fp32': 77.4, 'int8': 309.7}, 768),
    (device('NVIDIA GeForce RTX 4090', 89, 128, 2520, 10501, 384), {'fp16': 165.2, 'fp32': 82.6, 'int8': 660.6}, 1008),
    (device('NVIDIA L4', 89, 58, 2040, 6251, 192), {'fp16': 121, 'int8': 242}, 300),
    (device('NVIDIA H100 80GB HBM3', 90, 132, 1830, 2619, 5120), {'fp16': 989.4, 'fp32': 494.7, 'int8': 1979}, 3350),
    (device('NVIDIA B200', 100, 148, 1850, 3996, 8192), {'fp16': 2250}, 8000),
    (device('NVIDIA GeForce RTX 5090', 120, 170, 2407, 14001, 512), {'fp16': 209.5, 'int8': 838}, 1792),
]  # fmt: skip


@pytest.mark.parametrize(('gpu', 'tflops', 'gigabytes'), SHEETS, ids=[gpu.name for gpu, *_ in SHEETS])
def test_data_sheets(gpu, tflops, gigabytes):
    for precision, value in tflops.items():
        peak = peak_of(gpu, precision)
        assert peak.macs == pytest.approx(value * 1e12 / 2, rel=0.02)
        assert peak.bytes == pytest.approx(gigabytes * 1e9, rel=0.03)


def test_measured_clocks_count():
    gpu = SHEETS[1][0]
    slow = peak_of(gpu, 'bf16', sm_clock_mhz=705, memory_clock_mhz=607.5)
    assert slow.macs == pytest.approx(peak_of(gpu, 'fp16').macs / 2)
    assert slow.bytes == pytest.approx(peak_of(gpu, 'fp16').bytes / 2)


@pytest.mark.parametrize(('sm', 'precision'), [(75, 'bf16'), (75, 'fp32'), (70, 'fp16'), (103, 'fp16')])
def test_what_is_not_known_is_none(sm, precision):
    assert peak_of(device('some GPU', sm, 40, 1590, 5001, 256), precision) is None
