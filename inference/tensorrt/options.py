"""What an engine is built with, and what each TensorRT takes of it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import UserError, unknown
from ..lowering.precision import PRECISIONS
from . import gpu
from .flavour import FLAVOURS, architectures

__all__ = ['HARDWARE', 'LOWERINGS', 'BuildOptions', 'resolve']

LOWERINGS = ('plugin', 'portable')
# option -> BuilderFlag's companion, the member of HardwareCompatibilityLevel
HARDWARE = {'ampere-plus': 'AMPERE_PLUS', 'same-sm': 'SAME_COMPUTE_CAPABILITY'}
PLUGIN_SM = 80  # Triton makes no tensor-core code for what is older
BF16_SM = 80
DATA_CENTRE_SMS = (90, 100, 103)  # TensorRT has them, TensorRT-RTX has not
MAX_LEVEL = 5


@dataclass(frozen=True)
class BuildOptions:
    """How an engine is built; networks are always strongly typed, and layers can always be inspected.

    Attributes:
        engine: 'tensorrt' or 'tensorrt-rtx'.
        precision: 'fp16', 'bf16' or 'fp32'; inputs and outputs are float32 in each.
        lowering: 'plugin' or 'portable'. None: our plugin where it can be.
        sms: What GPUs the engine is for: 86 for compute capability 8.6. Empty: of TensorRT the GPU that is there, of
            TensorRT-RTX all that its version knows from Ampere on (with Turing among them it has more layers).
        profiles: Smallest, usual and largest batch, one triple a profile.
        optimization_level: 0 to 5: how long the builder looks for something faster.
        timing_cache: File of measured times, read before and written after the build. TensorRT only.
        refit: Weights can be exchanged later.
        version_compatible: Newer versions of TensorRT load the engine too. TensorRT only.
        hardware_compatible: 'ampere-plus' or 'same-sm': other GPUs load the engine too. TensorRT only.
        weight_streaming: Weights may stay in host memory, and a budget be set when the engine is loaded.
    """

    engine: str
    precision: str = 'fp16'
    lowering: str | None = None
    sms: tuple[int, ...] = ()
    profiles: tuple[tuple[int, int, int], ...] = ((1, 8, 64),)
    optimization_level: int = 3
    timing_cache: Path | None = None
    refit: bool = False
    version_compatible: bool = False
    hardware_compatible: str | None = None
    weight_streaming: bool = False

    def __post_init__(self) -> None:
        for value, known, what in (
            (self.engine, tuple(FLAVOURS), 'engine'),
            (self.precision, PRECISIONS, 'precision'),
            (self.lowering, (None, *LOWERINGS), 'lowering'),
            (self.hardware_compatible, (None, *HARDWARE), 'hardware compatibility'),
        ):
            if value not in known:
                raise unknown(what, value, (name for name in known if name))
        if not 0 <= self.optimization_level <= MAX_LEVEL:
            raise UserError(f'optimization level {self.optimization_level} is not one of 0 to {MAX_LEVEL}')
        if not self.profiles:
            raise UserError('an engine needs a profile: a smallest, a usual and a largest batch')
        for profile in self.profiles:
            if len(profile) != 3 or not 1 <= profile[0] <= profile[1] <= profile[2]:
                raise UserError(
                    f'a profile is a smallest, a usual and a largest batch, like 1,8,64, and not '
                    f'{",".join(map(str, profile))}'
                )


def resolve(options: BuildOptions, trt: Any) -> tuple[BuildOptions, list[str]]:
    """Fill in what depends on the machine, and refuse what this TensorRT cannot do.

    Args:
        options: As asked for.
        trt: Of `flavour.load`.

    Returns:
        Options with a lowering and SMs, and what a user should know of the choice.

    Raises:
        UserError: Not for this TensorRT, or not on this machine.
    """
    resolved, notes = (_rtx if options.engine == 'tensorrt-rtx' else _tensorrt)(options, trt)
    old = [sm for sm in resolved.sms if sm < BF16_SM]
    if options.precision == 'bf16' and old:
        raise UserError(f'SM {old[0]} has no bf16: build for it with --precision fp16')
    return resolved, notes


def _rtx(options: BuildOptions, trt: Any) -> tuple[BuildOptions, list[str]]:
    if options.lowering == 'plugin':
        raise UserError('TensorRT-RTX has no plugins: --lowering portable, or --engine tensorrt on a GPU machine')
    for given, option, instead in (
        (options.timing_cache, '--timing-cache', 'it times nothing before an engine is loaded'),
        (options.version_compatible, '--version-compatible', 'build again with the newer version'),
        (options.hardware_compatible, '--hardware-compatible', 'give each --sm that the engine is for'),
    ):
        if given:
            raise UserError(f'TensorRT-RTX has no {option}: {instead}')
    known = architectures(trt)
    sms = tuple(sorted(set(options.sms))) or tuple(sm for sm in known if sm >= PLUGIN_SM)
    for sm in sms:
        if sm not in known:
            raise UserError(
                f'TensorRT-RTX {trt.__version__} builds for SM {", ".join(map(str, known))}, not for {sm}'
                + (': on such a GPU, --engine tensorrt builds for it' if sm in DATA_CENTRE_SMS else '')
            )
    if options.precision == 'fp32' and min(sms) < PLUGIN_SM:
        raise UserError(
            f'TensorRT-RTX has no fp32 networks on SM {min(sms)}: --precision fp16, or leave --sm {min(sms)} out'
        )
    if options.refit:
        try:
            gpu.local_sm()
        except UserError as error:
            raise UserError('--refit needs a GPU where the engine is built, and here is none') from error
    return replace(options, lowering='portable', sms=sms), []


def _tensorrt(options: BuildOptions, trt: Any) -> tuple[BuildOptions, list[str]]:
    del trt
    there = gpu.local_sm()
    others = [sm for sm in options.sms if sm != there]
    if others:
        raise UserError(
            f'TensorRT builds for the GPU that is there, SM {there}, not for SM {others[0]}: build on that GPU, '
            f'or with --engine tensorrt-rtx'
        )
    if options.hardware_compatible == 'ampere-plus' and there < PLUGIN_SM:
        raise UserError(f'--hardware-compatible ampere-plus needs an Ampere GPU or a newer one, this one is SM {there}')
    lowering, notes = options.lowering, []
    if there < PLUGIN_SM:
        if lowering != 'portable':
            notes.append(f'the plugin needs SM {PLUGIN_SM}, this GPU is SM {there}: built from standard operators')
        lowering = 'portable'
    return replace(options, lowering=lowering or 'plugin', sms=(there,)), notes
