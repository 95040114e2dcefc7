"""python -m calib.qat SCRIPT ARGS...: timm's train.py, unmodified, on a network that rounds as its INT8 form will.

    python -m calib.qat CLONE/train.py --model hetconv_resnet20_cifar_p4 --initial-checkpoint last.pth.tar ...

Everything else is as with `python -m timm_hetconv`; see fake_quant.py for what it does to the network.
"""

import sys
from pathlib import Path
from typing import Any


def _prepare_models() -> None:
    """Let timm's `create_model` give prepared networks: that is where train.py has its own from."""
    import timm.models

    from .fake_quant import prepare

    original = timm.models.create_model

    def create_model(*args: Any, **kwargs: Any) -> Any:
        return prepare(original(*args, **kwargs))

    for module in (timm, timm.models):
        module.create_model = create_model  # type: ignore[attr-defined]


def main(args: list[str]) -> int:
    """See above."""
    if args and Path(args[0]).is_file():  # a clone brings its own timm, which timm_hetconv is to find
        sys.path.insert(0, str(Path(args[0]).resolve().parent))
    from timm_hetconv.__main__ import main as run

    return run(args, _prepare_models)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
