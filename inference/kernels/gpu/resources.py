"""What compiled code takes and does: registers, spills, and the tensor cores' instructions in it."""

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from .aot import Kernel

__all__ = ['Resources', 'mma_shapes', 'resources']

# Tensor-core instructions of SM 80 to 120, in SASS.
TENSOR_CORE = ('HMMA', 'IMMA', 'HGMMA', 'IGMMA', 'UTCHMMA', 'UTCIMMA', 'UTCQMMA')


@dataclass(frozen=True)
class Resources:
    """What `ptxas` gave to a kernel.

    Attributes:
        registers: A thread.
        stack, local: Bytes a thread outside registers: spills.
        instructions: How often an opcode stands in the code.
    """

    registers: int
    stack: int
    local: int
    instructions: Counter

    @property
    def tensor_core(self) -> int:
        """Tensor-core instructions in the code."""
        return sum(self.instructions[name] for name in TENSOR_CORE)

    @property
    def spills(self) -> int:
        """Loads and stores of spilled registers in the code."""
        return self.instructions['LDL'] + self.instructions['STL']


def _tool(name: str, *arguments: str) -> str:
    import triton

    path = Path(triton.__file__).parent / 'backends/nvidia/bin' / name  # Triton's wheel brings NVIDIA's tools
    return subprocess.run([str(path), *arguments], capture_output=True, text=True, check=True).stdout


def resources(kernel: Kernel) -> Resources:
    """Read a kernel's machine code."""
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(kernel.cubin)
        file.flush()
        usage = _tool('cuobjdump', '-res-usage', file.name)
        code = _tool('nvdisasm', '-c', file.name)
    found = re.search(r'REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)', usage)
    if found is None:
        raise RuntimeError(f'cuobjdump gives no resources: {usage[:200]}')
    opcodes = re.findall(r'/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9]*)', code)
    registers, stack, local = map(int, found.groups())
    return Resources(registers, stack, local, Counter(opcodes))


def mma_shapes(ptx: str) -> Counter:
    """How often each shape (M, N, K) of a tensor-core instruction stands in PTX: `mma.sync` and `wgmma`."""
    found = re.findall(r'\b(?:mma\.sync|wgmma\.mma_async)\S*?\.m(\d+)n(\d+)k(\d+)\.', ptx)
    return Counter(tuple(map(int, shape)) for shape in found)
