"""torch.compile with the inductor backend."""

import os
import shlex
import shutil

from .torch_eager import TorchEager

__all__ = ['TorchCompile']


class TorchCompile(TorchEager):
    """torch.compile on the CPU with frozen weights, so that inductor folds batch norms and fuses what it can."""

    name = 'torch-compile'

    @classmethod
    def missing_packages(cls) -> list[str]:
        """Inductor compiles C++ on the spot."""
        compiler = shlex.split(os.environ.get('CXX') or 'g++')[0]
        missing = [] if shutil.which(compiler) else [f'the C++ compiler {compiler} (install it, or set CXX)']
        return super().missing_packages() + missing

    def activate(self) -> None:
        super().activate()
        import torch._inductor.config

        torch._inductor.config.freezing = True
        self._module = torch.compile(self._module, dynamic=False)
