"""What a GPU's tensor cores and memory can do at most, from its architecture and the clocks it had."""

from ..roofline import Peak
from .libcuda import Device

__all__ = ['peak_of']

# Dense multiply-accumulates a clock and multiprocessor in fp16 and bf16 with sums in float32; TF32 has half of them,
# INT8 twice as many. From NVIDIA's architecture whitepapers (Turing, A100, GA102, Ada, H100), of Blackwell from data
# sheets (B200: 2.25 PFLOP/s with 148 multiprocessors at 1.85 GHz; RTX 5090: 209.5 TFLOP/s with 170 at 2.41 GHz).
_FP16 = {75: 512, 80: 1024, 86: 512, 89: 512, 90: 2048, 100: 4096, 120: 512}
_FACTOR = {'fp16': 1.0, 'bf16': 1.0, 'fp32': 0.5, 'int8': 2.0}
# GeForce cards sum in float32 at half of that rate, which INT8, summed in integers, is not touched by.
_GEFORCE = (75, 86, 89, 120)


def peak_of(
    device: Device, precision: str, sm_clock_mhz: float | None = None, memory_clock_mhz: float | None = None
) -> Peak | None:
    """The peak of a GPU.

    Args:
        device: The GPU.
        precision: 'fp32' (TF32), 'fp16', 'bf16' or 'int8'.
        sm_clock_mhz, memory_clock_mhz: As measured; by default the highest that the GPU has.

    Returns:
        None for an architecture that is not in the table, or has no such precision (Turing has fp16 and INT8).
    """
    rate = _FP16.get(device.sm)
    if rate is None or (device.sm < 80 and precision in ('bf16', 'fp32')):
        return None
    per_clock = rate * _FACTOR[precision]
    if device.sm in _GEFORCE and 'geforce' in device.name.lower() and precision != 'int8':
        per_clock /= 2
    clock = (sm_clock_mhz or device.clock_khz / 1e3) * 1e6
    memory_clock = (memory_clock_mhz or device.memory_clock_khz / 1e3) * 1e6
    # Both edges of the clock, as for GDDR and HBM alike the driver reports it.
    return Peak(per_clock * device.multiprocessors * clock, 2 * memory_clock * device.memory_bus_bits / 8)
