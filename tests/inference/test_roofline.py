"""Bounds by arithmetic and memory, against sums done by hand."""

import pytest
import timm

import timm_hetconv
from inference.roofline import Peak, bound_of, layer_bound, layer_bytes

H100 = Peak(macs=494.7e12, bytes=3.35e12)  # SXM, fp16, from its data sheet: 989.4 TFLOP/s, 3.35 TB/s


def layers_of(name):
    return timm_hetconv.count(timm.create_model(name, device='meta')).layers


def test_bytes_of_a_layer():
    conv = next(layer for layer in layers_of('hetconv_resnet34_p4') if layer.kind == 'hetconv')
    assert conv.shape['in_channels'] == conv.shape['out_channels'] == 64
    images, weights = 2 * 64 * 56 * 56, 64 * 64 * (1 + 8 // 4)
    assert layer_bytes(conv, 8, 2) == 2 * (8 * images + weights)
    linear = layers_of('hetconv_resnet34_p4')[-1]
    assert layer_bytes(linear, 8, 4) == 4 * (8 * (512 + 1000) + 512 * 1000 + 1000)


def test_the_slower_of_arithmetic_and_memory_bounds_a_layer():
    conv = next(layer for layer in layers_of('hetconv_resnet34_p4') if layer.kind == 'hetconv')
    slow_memory = layer_bound(conv, 64, 'fp16', Peak(1e15, 1e9))
    assert slow_memory.seconds == layer_bytes(conv, 64, 2) / 1e9
    assert slow_memory.memory_share == 1
    slow_arithmetic = layer_bound(conv, 64, 'fp16', Peak(1e9, 1e15))
    assert slow_arithmetic.seconds == conv.macs * 64 / 1e9
    assert slow_arithmetic.memory_share == 0


def test_a_network_cannot_follow_its_flops_where_memory_bounds_it():
    dense, p4, p64 = (bound_of(layers_of(f'hetconv_resnet34_p{part}'), 64, 'fp16', H100) for part in (1, 4, 64))
    assert dense.seconds > p4.seconds > p64.seconds
    assert dense.seconds / p4.seconds < 2.79  # of the FLOPs
    assert dense.seconds / p64.seconds < 6.33
    assert p64.memory_share > p4.memory_share > dense.memory_share


def test_without_memory_it_is_the_flops():
    infinite = Peak(1e12, float('inf'))
    dense, p4 = (bound_of(layers_of(f'hetconv_resnet34_p{part}'), 1, 'fp16', infinite) for part in (1, 4))
    costs = [sum(layer.macs for layer in layers_of(f'hetconv_resnet34_p{part}')) for part in (1, 4)]
    assert dense.seconds / p4.seconds == pytest.approx(costs[0] / costs[1])
    assert p4.memory_share == 0


def test_nothing_takes_no_time():
    assert bound_of([], 1, 'fp16', H100).seconds == 0
