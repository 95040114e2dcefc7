"""Reads a kernel's PTX: instructions, labels, parameters and registers. What it does not know is an error."""

import re
from dataclasses import dataclass

__all__ = ['Address', 'Immediate', 'Instruction', 'Module', 'Operand', 'PtxError', 'Vector', 'parse']

# What stands between instructions and means nothing when they run; at these the code has ended.
_IGNORED = re.compile(r'\.(version|target|address_size|loc|pragma)\b')
_DEBUG = re.compile(r'^\s*\.(section|file)\b', re.MULTILINE)
_ENTRY = re.compile(r'\.visible\s+\.entry\s+(\w+)\s*\(([^)]*)\)\s*\.reqntid\s+(\d+)\s*\{')
_SHARED = re.compile(r'\.extern\s+\.shared\s+\.align\s+(\d+)\s+\.b8\s+(\w+)\[\];')
_LABEL = re.compile(r'\s*(\$[\w$]+):')
_GUARD = re.compile(r'@(!?)(%\w+)\s+')
_OPERAND = re.compile(r'\{[^}]*\}|\[[^\]]*\]|[^,\s{}\[\]]+')
_INTEGER = re.compile(r'-?(0x[0-9a-fA-F]+|\d+)U?$')


class PtxError(Exception):
    """The PTX has something that the emulator does not know, or does something that it must not."""


@dataclass(frozen=True)
class Immediate:
    """A constant: an integer, or the bits of a float32."""

    value: int


@dataclass(frozen=True)
class Address:
    """`[base + offset]`: base is a register or a parameter."""

    base: str
    offset: int


@dataclass(frozen=True)
class Vector:
    """`{a, b, ...}`."""

    items: 'tuple[Operand, ...]'


Operand = str | Immediate | Address | Vector  # a string is a register, a label or a symbol


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        opcode: With all its modifiers, 'add.s32'.
        operands: In the order of the text.
        guard: The predicate that must be true, or false where `negated`.
        text: For messages.
    """

    opcode: str
    operands: tuple[Operand, ...]
    guard: str | None
    negated: bool
    text: str


@dataclass(frozen=True)
class Module:
    """A kernel.

    Attributes:
        name: Entry point.
        parameters: Names, with 'u64' for pointers and 'u32'.
        threads: Of a block.
        registers: Bits by prefix, 32 for '%r'; 1 for predicates.
        shared: The symbol of dynamic shared memory, None without.
        instructions: The code.
        labels: Where in it they stand.
    """

    name: str
    parameters: dict[str, str]
    threads: int
    registers: dict[str, int]
    shared: str | None
    instructions: tuple[Instruction, ...]
    labels: dict[str, int]


def _operand(text: str) -> Operand:
    if text[0] == '{':
        return Vector(tuple(_operand(item) for item in _OPERAND.findall(text[1:-1])))
    if text[0] == '[':
        base, _, offset = (part.strip() for part in text[1:-1].partition('+'))
        return Address(base, int(offset or '0', 0))
    if text.startswith('0f'):
        return Immediate(int(text[2:], 16))
    if _INTEGER.match(text):
        return Immediate(int(text.rstrip('U'), 0))
    return text


def _instruction(text: str) -> Instruction:
    guard = _GUARD.match(text)
    opcode, _, operands = (text[guard.end() :] if guard else text).partition(' ')
    if not re.fullmatch(r'[a-z][\w.:]*', opcode):
        raise PtxError(f'not an instruction: {text}')
    return Instruction(
        opcode,
        tuple(_operand(part) for part in _OPERAND.findall(operands)),
        guard[2] if guard else None,
        bool(guard and guard[1]),
        text,
    )


def _parameters(text: str) -> dict[str, str]:
    result = {}
    for parameter in filter(None, map(str.strip, text.split(','))):
        match = re.fullmatch(r'\.param\s+\.(u32|u64)\s+(?:\.ptr\s+\.global\s+\.align\s+\d+\s+)?(\w+)', parameter)
        if match is None:
            raise PtxError(f'unknown parameter: {parameter}')
        result[match[2]] = match[1]
    return result


def parse(ptx: str) -> Module:
    """Read a module of one kernel.

    Raises:
        PtxError: It has something unknown.
    """
    text = re.sub(r'//[^\n]*', '', ptx)
    debug = _DEBUG.search(text)
    text = text[: debug.start()] if debug else text
    text = '\n'.join(line for line in text.splitlines() if not _IGNORED.match(line.strip()))
    entry = _ENTRY.search(text)
    if entry is None:
        raise PtxError('no entry point of a known form')
    shared = _SHARED.search(text[: entry.start()])
    body, end, rest = text[entry.end() :].rpartition('}')
    before = _SHARED.sub('', text[: entry.start()]).strip()
    if not end or rest.strip() or before:
        raise PtxError(f'more than one kernel of a known form: {before or rest.strip()}')
    registers: dict[str, int] = {}
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for part in body.split(';'):
        while label := _LABEL.match(part):
            labels[label[1]] = len(instructions)
            part = part[label.end() :]
        statement = ' '.join(part.split())
        if declared := re.fullmatch(r'\.reg \.(pred|b16|b32|b64) (%[a-z]+)<\d+>', statement):
            registers[declared[2]] = 1 if declared[1] == 'pred' else int(declared[1][1:])
        elif statement:
            instructions.append(_instruction(statement))
    return Module(
        name=entry[1],
        parameters=_parameters(entry[2]),
        threads=int(entry[3]),
        registers=registers,
        shared=shared[2] if shared else None,
        instructions=tuple(instructions),
        labels=labels,
    )
