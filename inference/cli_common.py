"""What several commands share."""

import os
from pathlib import Path
from typing import Annotated, Optional

import typer

from .errors import UserError
from .files import require_checkpoint

__all__ = ['Checkpoint', 'Model', 'require_parent']

Model = Annotated[str, typer.Argument(help="Name of a model: of `hetconv list`, or timm's.", show_default=False)]


def _checkpoint(path: Optional[Path]) -> Optional[Path]:
    """Before seconds of imports: is it there?"""
    if path is not None:
        require_checkpoint(path)
    return path


Checkpoint = Annotated[
    Optional[Path],
    typer.Option(
        help="Weights from timm's train.py; without it they are random.", show_default=False, callback=_checkpoint
    ),
]


def require_parent(path: Path, suffix: str) -> None:
    """Before minutes of work: is there a folder for the result?

    Raises:
        UserError: There is none, or the path is a folder itself, or has another suffix: it may be a checkpoint.
    """
    if path.suffix.lower() != suffix:
        raise UserError(f'{path} must end in {suffix}')
    if path.is_dir():
        raise UserError(f'{path} is a folder; give the name of a file')
    if not path.absolute().parent.is_dir():
        raise UserError(f'{path}: the folder {path.absolute().parent} does not exist')
    if not os.access(path.absolute().parent, os.W_OK):
        raise UserError(f'{path}: the folder {path.absolute().parent} cannot be written to')
