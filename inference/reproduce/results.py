"""A finished run as a JSON file: what was trained, on what, with what, and how well."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import UserError
from ..files import write_atomically

__all__ = ['Epoch', 'Result', 'load_results']


class Epoch(BaseModel):
    """One line of train.py's summary.

    Attributes:
        epoch: From 0.
        train_loss, val_loss: Means.
        top1, top5: Per cent of the images of val/.
    """

    model_config = ConfigDict(extra='forbid')

    epoch: int
    train_loss: float
    val_loss: float
    top1: float
    top5: float


class Result(BaseModel):
    """What a run came to.

    Attributes:
        created: When it ended, in UTC.
        model: Registered name.
        macs, params: Of it, at the images' size.
        recipe: Its name.
        settings: Of the recipe, with what another number of epochs changes in it.
        seed: train.py's.
        epochs: How many were trained; the recipe's, or what was asked for instead.
        curve: Every epoch.
        top1: Per cent, of the last epoch: no epoch is chosen by the images that it is measured on.
        data: Name, checksum, images and classes of the data set.
        code: Revisions of this project and of timm's, and whether there were changes, when the last part began;
            `earlier_parts` those of other parts, where they differ.
        versions: Of the packages.
        machine: Processor or GPU, threads.
        seconds: Of training and validating, all parts of an interrupted run together.
        resumed_at: Epochs at which an interrupted run went on.
    """

    model_config = ConfigDict(extra='forbid')

    schema_version: Literal[1] = 1
    created: str
    model: str
    macs: int
    params: int
    recipe: str
    settings: dict[str, Any]
    seed: int
    epochs: int
    curve: list[Epoch]
    top1: float
    data: dict[str, Any]
    code: dict[str, Any]
    versions: dict[str, str]
    machine: dict[str, Any]
    seconds: float
    resumed_at: list[int]

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        write_atomically(path, self.model_dump_json(indent=1).encode() + b'\n')

    @staticmethod
    def load(path: Path) -> 'Result':
        """Read what `save` wrote.

        Raises:
            UserError: It is missing, or something else.
        """
        try:
            return Result.model_validate_json(path.read_text(encoding='utf-8'))
        except OSError as error:
            raise UserError(f'{path}: {error.strerror}') from error
        except (ValidationError, UnicodeDecodeError) as error:
            first: dict[str, Any] | None = dict(error.errors()[0]) if isinstance(error, ValidationError) else None
            where = f' ({".".join(map(str, first["loc"]))}: {first["msg"]})' if first else ''
            raise UserError(f'{path} is no result of `hetconv reproduce`, or damaged{where}') from error


def load_results(folder: Path) -> dict[Path, Result]:
    """All results in a folder and the folders in it, in the order of their paths.

    Raises:
        UserError: There is none, or a file is something else.
    """
    results = {path: Result.load(path) for path in sorted(folder.rglob('*.json'))}
    if not results:
        raise UserError(f'{folder} has no results of `hetconv reproduce`')
    return results
