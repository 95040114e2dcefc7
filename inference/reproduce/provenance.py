"""Where a result comes from: code, images, machine, as a result's file has them."""

import subprocess
from pathlib import Path
from typing import Any

from .dataset import Dataset

__all__ = ['data_facts', 'machine_facts', 'own_revision', 'revision_of']


def revision_of(folder: Path) -> str | None:
    """The commit that a clone is at; None where it is none."""
    return _git(folder, 'rev-parse', 'HEAD')


def own_revision(*paths: str) -> dict[str, Any]:
    """The commit of this project, and whether tracked files under `paths` were changed since; None where unknown."""
    here = Path(__file__).resolve().parents[2]
    status = _git(here, 'status', '--porcelain', '--untracked-files=no', *paths)
    return {'revision': revision_of(here), 'changed': None if status is None else bool(status)}


def data_facts(data: Dataset) -> dict[str, Any]:
    """Name, checksum, images and classes."""
    return {key: getattr(data, key) for key in ('name', 'checksum', 'train', 'val', 'classes')}


def machine_facts(device: str, threads: int) -> dict[str, Any]:
    """Of 'cpu' or 'cuda': what it is, and how many threads PyTorch has."""
    import torch

    from ..environment import describe_environment

    processor = torch.cuda.get_device_name() if device == 'cuda' else describe_environment([])['cpu']
    return {'device': device, 'processor': processor, 'threads': threads}


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(['git', '-C', str(folder), *words], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
