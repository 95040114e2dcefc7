"""What only a GPU can prove: `make gpu-check` runs these, and everything that is missing is a failure then.

Elsewhere they are skipped.
"""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / 'inference'))  # random_layers.py


@pytest.fixture(scope='session', autouse=True)
def gpu():
    """The GPU: a `Device` with its name and SM."""
    from inference.cuda.libcuda import Libcuda
    from inference.errors import UserError

    try:
        return Libcuda().device(0)
    except UserError as error:
        if os.environ.get('HETCONV_GPU_REQUIRED') == '1':
            raise
        pytest.skip(str(error))


@pytest.fixture(scope='session')
def torch_cuda():
    """PyTorch with CUDA."""
    torch = pytest.importorskip('torch')
    if not torch.cuda.is_available():
        pytest.fail('PyTorch finds no GPU: it is installed without CUDA, or for a newer driver')
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return torch


@pytest.fixture(scope='session')
def engine_of(tmp_path_factory):
    """`engine_of(model, **options)`: the path of an engine of TensorRT, built once."""
    from inference.build import build_tensorrt
    from inference.tensorrt.manifest import save_engine
    from inference.tensorrt.options import BuildOptions

    folder, built = tmp_path_factory.mktemp('engines'), {}

    def get(model, **options):
        key = (model, *sorted(options.items()))
        if key not in built:
            path = folder / f'{len(built)}.engine'
            save_engine(path, *build_tensorrt(model, BuildOptions(**{'engine': 'tensorrt', **options})))
            built[key] = path
        return built[key]

    return get


@pytest.fixture(scope='session')
def expected():
    """`expected(model, batch)`: images, and PyTorch's logits for them in float32 on the CPU."""
    from inference.models import create_model
    from timm_hetconv import own_input_size

    cache = {}

    def get(name, batch=4):
        import torch

        if (name, batch) not in cache:
            model = create_model(name)
            x = torch.randn(batch, *own_input_size(model), generator=torch.Generator().manual_seed(batch))
            with torch.no_grad():
                cache[name, batch] = x.numpy(), model(x).numpy()
        return cache[name, batch]

    return get
