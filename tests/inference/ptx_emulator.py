"""Runs a kernel's PTX on the CPU, to prove what the GPU will be given: a test's tool, small, strict, not fast.

The threads of all blocks run in lockstep: a register is an array of the shape (blocks, threads), where an axis has
length 1 as long as the value is the same along it. That is possible as the kernels branch all together; a branch that
threads or blocks do not take together is an error. So are: an instruction or a form of it that is not in the tables
below, the read of a register that was never set, and what `ptx_memory` finds.

What is not as on a GPU: tensor cores add the products of an instruction in an order and with a rounding of their own,
here they are sums in single precision; `fma` rounds twice, in rare cases to the neighbour of the nearest.
"""

import functools
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ptx_arithmetic import MMA, PURE, TYPES
from ptx_memory import SHARED_BASE, GlobalMemory, SharedMemory
from ptx_parser import Address, Immediate, Instruction, Module, Operand, PtxError, Vector, parse

__all__ = ['Launch', 'PtxError', 'launch']

MAX_BLOCKS = 64  # at once
MAX_STEPS = 10**6


@dataclass
class Launch:
    """What a launch did.

    Attributes:
        stores: For each array argument, how often each of its bytes was written.
        mma: Executed tensor-core instructions, of all warps, by (M, N, K).
        steps: Executed instructions of a block.
    """

    stores: list[np.ndarray] = field(default_factory=list)
    mma: Counter = field(default_factory=Counter)
    steps: int = 0

    @property
    def multiplies(self) -> int:
        """Multiplies that the tensor cores did."""
        return sum(m * n * k * count for (m, n, k), count in self.mma.items())


class _Machine:
    """The blocks `first` to `first + count` of a launch."""

    def __init__(
        self, module: Module, arguments: list[int], first: int, count: int, shared: int, memory: GlobalMemory
    ) -> None:
        self.module = module
        self.blocks, self.threads = count, module.threads
        self.memory = memory
        self.registers: dict[str, np.ndarray] = {}
        self.symbols = {
            '%tid.x': np.arange(module.threads, dtype=np.uint32)[None, :],
            '%ctaid.x': np.arange(first, first + count, dtype=np.uint32)[:, None],
        }
        if module.shared:
            self.symbols[module.shared] = np.full((1, 1), SHARED_BASE, np.uint32)
        self.parameters = dict(zip(module.parameters, arguments))
        self.program = [(*_handler(instruction), instruction) for instruction in module.instructions]
        self.shared = SharedMemory(count, module.threads, shared, _granule(module))
        self.active: np.ndarray | None = None  # None for all
        self.everyone = np.ones((count, module.threads), bool)
        self.mma: Counter = Counter()

    def run(self) -> int:
        place = steps = 0
        while place is not None:
            if steps == MAX_STEPS or place == len(self.program):
                raise PtxError('does not end')
            handler, match, instruction = self.program[place]
            steps += 1
            try:
                self.active = None
                if instruction.guard:
                    self.active = self.read(instruction.guard, 'pred') ^ instruction.negated
                place = handler(self, place, instruction, match)
            except PtxError as error:
                raise PtxError(f'{instruction.text}: {error}') from None
        return steps

    # Registers.

    def read(self, operand: Operand, kind: str, *, low: bool = False) -> np.ndarray:
        """An operand's value as a type; with `low`, of a register that may be wider."""
        dtype = TYPES[kind]
        if isinstance(operand, Immediate):
            return _immediate(operand.value, kind)
        if not isinstance(operand, str):
            raise PtxError('an operand of an unknown form')
        value = self.registers.get(operand, self.symbols.get(operand))
        if value is None:
            raise PtxError(f'{operand} was never set')
        if low and value.itemsize > dtype.itemsize:
            value = value.astype(f'u{dtype.itemsize}')
        if value.itemsize != dtype.itemsize or (value.dtype == bool) != (kind == 'pred'):
            raise PtxError(f'{operand} is not of the size of {kind}')
        return value if kind == 'pred' else value.view(dtype)

    def write(self, register: Operand, value: np.ndarray, *, extend: bool = False) -> None:
        """Set a register where the instruction is active; with `extend`, it may be wider than the value."""
        if not isinstance(register, str) or (kind := register.rstrip('0123456789')) not in self.module.registers:
            raise PtxError(f'{register} is not a register')
        bits = self.module.registers[kind]
        if bits > 1:
            if extend and 8 * value.itemsize < bits:
                value = value.astype(f'{"i" if value.dtype.kind == "i" else "u"}{bits // 8}')
            value = np.ascontiguousarray(value).view(f'u{value.itemsize}')
        if bits != (1 if value.dtype == bool else 8 * value.itemsize):
            raise PtxError(f'{register} has {bits} bits')
        if self.active is not None:
            before = self.registers.get(register)
            if before is None and not self.active.all():
                raise PtxError(f'{register} is set for some threads only')
            value = value if before is None else np.where(self.active, value, before)
        self.registers[register] = value

    def mask(self) -> np.ndarray:
        """The active threads, in the full shape."""
        return self.everyone if self.active is None else np.broadcast_to(self.active, self.everyone.shape)

    def address(self, operand: Operand, kind: str) -> np.ndarray:
        if not isinstance(operand, Address):
            raise PtxError('not an address')
        return self.read(operand.base, kind) + TYPES[kind].type(operand.offset % 2 ** (8 * TYPES[kind].itemsize))

    def whole_warps(self) -> None:
        if self.active is not None:
            raise PtxError('threads of a warp would be missing')

    def warps(self, operand: Operand, count: int) -> np.ndarray:
        """Registers of 32 bits as (all warps, count, 32)."""
        items = _items(operand, count)
        values = [np.broadcast_to(self.read(item, 'b32'), self.everyone.shape).reshape(-1, 32) for item in items]
        return np.stack(values, 1)

    def write_warps(self, operand: Operand, values: np.ndarray) -> None:
        for i, item in enumerate(_items(operand, values.shape[1])):
            self.write(item, values[:, i].reshape(self.everyone.shape))

    # Instructions: each gives the place of the next one.

    def pure(self, place: int, instruction: Instruction, match: Any) -> int:
        result, kinds, function = PURE[instruction.opcode]
        if len(instruction.operands) != len(kinds) + 1:
            raise PtxError('another number of operands')
        convert = instruction.opcode.startswith('cvt')
        target, *sources = instruction.operands
        value = function(*(self.read(source, kind, low=convert) for source, kind in zip(sources, kinds)))
        self.write(target, value.astype(TYPES[result], copy=False), extend=convert)
        return place + 1

    def move(self, place: int, instruction: Instruction, match: re.Match) -> int:
        target, source = instruction.operands
        kind = match[1]
        if isinstance(target, Vector):
            value = self.read(source, kind)
            halves = np.ascontiguousarray(value)[..., None].view(f'u{value.itemsize // 2}')
            for i, item in enumerate(_items(target, 2)):
                self.write(item, halves[..., i])
        elif isinstance(source, Vector):
            bits = TYPES[kind].itemsize * 4
            low, high = (self.read(item, f'b{bits}').astype(TYPES[kind]) for item in _items(source, 2))
            self.write(target, low | high << bits)
        else:
            self.write(target, self.read(source, kind))
        return place + 1

    def parameter(self, place: int, instruction: Instruction, match: re.Match) -> int:
        target, source = instruction.operands
        if not isinstance(source, Address) or source.offset or source.base not in self.parameters:
            raise PtxError('not a parameter')
        if self.module.parameters[source.base][1:] != match[1]:
            raise PtxError('not of the size of the parameter')
        self.write(target, np.full((1, 1), self.parameters[source.base], f'u{int(match[1]) // 8}'))
        return place + 1

    def access(self, place: int, instruction: Instruction, match: re.Match) -> int:
        """ld and st, of global and shared memory."""
        count, kind = int(match[3] or 1), f'b{match[4]}'
        load, memory = match[1] == 'ld', self.memory if match[2] == 'global' else self.shared
        values, where = instruction.operands if load else reversed(instruction.operands)
        items = _items(values if isinstance(values, Vector) else Vector((values,)), count)
        address = self.address(where, 'u64' if match[2] == 'global' else 'u32')
        if load:
            mask = np.ones((1, 1), bool) if self.active is None and match[2] == 'global' else self.mask()
            loaded = memory.load(address, TYPES[kind].itemsize, count, mask)
            for i, item in enumerate(items):
                self.write(item, loaded[..., i], extend=True)
        else:
            registers = [np.broadcast_to(self.read(item, kind, low=True), self.everyone.shape) for item in items]
            memory.store(address, np.stack(registers, -1), self.mask())
        return place + 1

    def copy_async(self, place: int, instruction: Instruction, match: re.Match) -> int:
        target, source, size, *rest = instruction.operands
        if not isinstance(size, Immediate) or size.value not in ((16,) if match[1] == 'g' else (4, 8, 16)):
            raise PtxError('a size that cp.async does not have')
        real = self.read(rest[0], 'u32') if rest else np.full((1, 1), size.value)
        if not np.isin(real, (0, size.value)).all():
            raise PtxError('copies of a part are not emulated')
        mask = self.mask()
        # With 0 bytes of the source, nothing is read, and zeros are written.
        values = self.memory.load(self.address(source, 'u64'), 4, size.value // 4, mask & (real != 0))
        self.shared.copy_async(self.address(target, 'u32'), values, mask)
        return place + 1

    def copy_group(self, place: int, instruction: Instruction, match: re.Match) -> int:
        self.whole_warps()
        if match[1] == 'commit_group':
            self.shared.commit()
        else:
            self.shared.wait(_constant(instruction.operands))
        return place + 1

    def barrier(self, place: int, instruction: Instruction, match: re.Match) -> int:
        self.whole_warps()
        if _constant(instruction.operands) != (-1 if match[1] else 0):
            raise PtxError('a barrier of some threads')
        self.shared.barrier(warp=bool(match[1]))
        return place + 1

    def load_matrices(self, place: int, instruction: Instruction, match: re.Match) -> int:
        """ldmatrix: thread 8 i + j of a warp gives the address of row j of matrix i, 8 x 8 values of 16 bits."""
        self.whole_warps()
        target, source = instruction.operands
        rows = self.shared.load(self.address(source, 'u32'), 2, 8, self.everyone).reshape(-1, 4, 8, 8)
        if match[1]:
            rows = rows.swapaxes(2, 3)
        # Thread 4 r + c gets the values 2 c and 2 c + 1 of row r, of each matrix in a register.
        self.write_warps(target, np.ascontiguousarray(rows).view(np.uint32).reshape(-1, 4, 32))
        return place + 1

    def multiply_matrices(self, place: int, instruction: Instruction, match: re.Match) -> int:
        """mma: in all fragments, thread 4 g + t of a warp has g in one direction and t in the other."""
        self.whole_warps()
        values, kind, k = MMA[match[1]]
        d, *operands = instruction.operands
        a, b, c = (self.warps(operand, count) for operand, count in zip(operands, (4, 2, 4), strict=True))
        # A's registers are i, i': row 8 i' + g, columns from k/2 i + k/8 t; B's are i: rows from there, column g.
        left = values(a).reshape(-1, 2, 2, 8, 4, k // 8).transpose(0, 2, 3, 1, 4, 5).reshape(-1, 16, k)
        right = values(b).reshape(-1, 2, 8, 4, k // 8).transpose(0, 1, 3, 4, 2).reshape(-1, k, 8)
        # Those of C and D are i, i': row 8 i + g, column 2 t + i'.
        start = c.view(TYPES[kind]).reshape(-1, 2, 2, 8, 4).transpose(0, 1, 3, 4, 2).reshape(-1, 16, 8)
        product = left @ right
        if kind == 's32':
            product = np.clip(start + product.astype(np.int64), -(2**31), 2**31 - 1).astype(np.int32)
        else:
            product = start + product
        result = product.reshape(-1, 2, 8, 4, 2).transpose(0, 1, 4, 2, 3).reshape(-1, 4, 32)
        self.write_warps(d, np.ascontiguousarray(result).view(np.uint32))
        self.mma[16, 8, k] += len(left)
        return place + 1

    def branch(self, place: int, instruction: Instruction, match: re.Match) -> int:
        (label,) = instruction.operands
        if label not in self.module.labels:
            raise PtxError('no such label')
        taken = True if self.active is None else self.active.all()
        if not taken and self.active.any():
            raise PtxError('threads or blocks go different ways')
        return self.module.labels[label] if taken else place + 1

    def end(self, place: int, instruction: Instruction, match: re.Match) -> None:
        self.whole_warps()


_SPECIAL: dict[str, Callable] = {
    r'mov\.(pred|[bu]16|[bu]32|[bu]64)': _Machine.move,
    r'ld\.param\.b(32|64)': _Machine.parameter,
    r'(ld|st)\.(global|shared|shared::cta)(?:\.v([24]))?\.b(8|16|32)': _Machine.access,
    r'cp\.async\.c([ag])\.shared\.global': _Machine.copy_async,
    r'cp\.async\.(commit_group|wait_group)': _Machine.copy_group,
    r'bar\.(warp\.)?sync': _Machine.barrier,
    r'ldmatrix\.sync\.aligned\.m8n8\.x4(\.trans)?\.shared\.b16': _Machine.load_matrices,
    rf'mma\.sync\.aligned\.({"|".join(map(re.escape, MMA))})': _Machine.multiply_matrices,
    r'bra(?:\.uni)?': _Machine.branch,
    r'ret': _Machine.end,
}


def _handler(instruction: Instruction) -> tuple[Callable, Any]:
    if instruction.opcode in PURE:
        return _Machine.pure, None
    for pattern, handler in _SPECIAL.items():
        if match := re.fullmatch(pattern, instruction.opcode):
            return handler, match
    raise PtxError(f'unknown instruction: {instruction.text}')


def _granule(module: Module) -> int:
    """Bytes of the smallest access to shared memory, whose multiples all others are."""
    sizes = [4]  # cp.async's smallest
    for instruction in module.instructions:
        if match := re.fullmatch(r'(?:ld|st)\.shared(?:::cta)?(?:\.v([24]))?\.b(\d+)', instruction.opcode):
            sizes.append(int(match[1] or 1) * int(match[2]) // 8)
    return min(sizes)


@functools.cache
def _immediate(value: int, kind: str) -> np.ndarray:
    if kind == 'pred':
        return np.full((1, 1), value != 0)
    item = TYPES[kind].itemsize
    return np.array([[value & (2 ** (8 * item) - 1)]], f'u{item}').view(TYPES[kind])


def _items(operand: Operand, count: int) -> tuple[Operand, ...]:
    if not isinstance(operand, Vector) or len(operand.items) != count:
        raise PtxError(f'{count} registers are needed')
    return operand.items


def _constant(operands: tuple[Operand, ...]) -> int:
    if len(operands) != 1 or not isinstance(operands[0], Immediate):
        raise PtxError('a constant is needed')
    return operands[0].value


def launch(
    ptx: str, blocks: int, arguments: list[np.ndarray | int], *, shared: int, entry: str | None = None
) -> Launch:
    """Run a kernel.

    Args:
        ptx: The module, of one kernel.
        blocks: The grid's x; y and z are 1.
        arguments: In the order of the parameters: contiguous arrays, of which the writeable ones may be written, or
            integers of 32 bits.
        shared: Bytes of dynamic shared memory of a block.
        entry: The name that the kernel must have.

    Raises:
        PtxError: The kernel has an instruction that is not known, or does what it must not.
    """
    module = parse(ptx)
    if entry is not None and module.name != entry:
        raise PtxError(f'the entry point is {module.name}')
    kinds = ['u64' if isinstance(argument, np.ndarray) else 'u32' for argument in arguments]
    if kinds != list(module.parameters.values()):
        raise PtxError(f'the parameters are {", ".join(module.parameters.values())}')
    memory = GlobalMemory()
    values = [memory.add(a) if isinstance(a, np.ndarray) else a % 2**32 for a in arguments]
    result = Launch(stores=memory.stores)
    with np.errstate(all='ignore'):
        for first in range(0, blocks, MAX_BLOCKS):
            machine = _Machine(module, values, first, min(MAX_BLOCKS, blocks - first), shared, memory)
            result.steps = machine.run()
            result.mma += machine.mma
    return result
