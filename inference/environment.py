"""What a measurement depends on besides the code: the machine, its instruction sets, and the versions of the
engines."""

import os
import platform
from collections.abc import Iterable
from typing import Any

from .engines import load_engine
from .worker_process import available_cores

__all__ = ['describe_environment']

_ISAS = ('avx2', 'fma', 'avx512f', 'avx512_vnni', 'avx_vnni', 'avx512_bf16', 'amx_tile', 'asimd', 'sve')


def _cpuinfo(*keys: str) -> str:
    """First value of any of the keys in /proc/cpuinfo; '' where there is none (not Linux)."""
    try:
        with open('/proc/cpuinfo') as lines:
            for line in lines:
                key, _, value = line.partition(':')
                if key.strip() in keys:
                    return value.strip()
    except OSError:
        pass
    return ''


def describe_environment(engines: Iterable[str]) -> dict[str, Any]:
    """CPU, cores, instruction sets, system, Python, and the version of every package that the engines need."""
    from importlib.metadata import PackageNotFoundError, version

    flags = set(_cpuinfo('flags', 'Features').split())
    environment: dict[str, Any] = {
        'cpu': _cpuinfo('model name') or platform.processor() or platform.machine(),
        'cores': len(available_cores()),
        'isa': [isa for isa in _ISAS if isa in flags],
        'load': round(os.getloadavg()[0], 2) if hasattr(os, 'getloadavg') else None,
        'os': f'{platform.system()} {platform.machine()}',
        'python': platform.python_version(),
    }
    distributions = ['timm-hetconv', 'torch', 'timm']
    for engine in engines:
        distributions += load_engine(engine).distributions
    for distribution in dict.fromkeys(distributions):
        try:
            environment[distribution] = version(distribution)
        except PackageNotFoundError:
            continue
    return environment
