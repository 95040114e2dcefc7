"""Every variant of the GPU kernel that autotuning may pick, compiled for every architecture: time, registers, shared
memory, and the tensor cores' instructions. Needs no GPU: `python benchmarks/gpu_kernels.py --json rows.json`.

The first pass starts from an empty cache, the second finds everything there.
"""

import argparse
import json
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from inference.environment import describe_environment
from inference.kernels.gpu.aot import SMS, Variant, compile_kernel, variants
from inference.rows import write_text_atomically


def measure(job: tuple[Variant, int]) -> dict:
    """Compile one variant; a row of what came out."""
    from inference.kernels.gpu.resources import resources

    variant, sm = job
    start = time.perf_counter()
    kernel = compile_kernel(variant, sm)
    seconds = time.perf_counter() - start
    used = resources(kernel)
    return dict(
        sm=sm, precision=variant.precision, **vars(variant.tile), residual=variant.residual, even=variant.even,
        seconds=round(seconds, 3), registers=used.registers, spills=used.spills + used.stack + used.local,
        shared=kernel.shared, threads=kernel.threads, instructions=used.instructions.total(),
        tensor_core=used.tensor_core, ptx_bytes=len(kernel.ptx),
    )  # fmt: skip


def again(job: tuple[Variant, int]) -> None:
    compile_kernel(*job)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--json', type=Path, help='write the rows here')
    parser.add_argument('--sm', type=int, action='append', choices=SMS, help='only this architecture, repeatable')
    args = parser.parse_args()
    jobs = [(variant, sm) for sm in args.sm or SMS for variant in variants()]
    with tempfile.TemporaryDirectory() as cache:
        os.environ['TRITON_CACHE_DIR'] = cache
        start = time.perf_counter()
        with ProcessPoolExecutor() as pool:
            rows = list(pool.map(measure, jobs))
        cold = time.perf_counter() - start
        start = time.perf_counter()
        with ProcessPoolExecutor() as pool:
            list(pool.map(again, jobs))
        warm = time.perf_counter() - start
    print(f'{len(rows)} kernels: {cold:.0f} s cold with their disassembly, {warm:.0f} s warm')
    for sm in args.sm or SMS:
        of = [row for row in rows if row['sm'] == sm]
        registers, shared = (max(row[key] for row in of) for key in ('registers', 'shared'))
        spills = sum(row['spills'] for row in of)
        print(f'SM {sm}: at most {registers} registers, {shared} bytes of shared memory, {spills} bytes spilled')
    if args.json:
        content = dict(
            environment=describe_environment(()), cold_seconds=round(cold, 1), warm_seconds=round(warm, 1), rows=rows
        )
        lines = ',\n  '.join(json.dumps(row) for row in content.pop('rows'))
        head = json.dumps(content, indent=1)[:-2]
        write_text_atomically(args.json, f'{head},\n "rows": [\n  {lines}\n ]\n}}\n')


if __name__ == '__main__':
    main()
