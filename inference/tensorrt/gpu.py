"""The GPU that an engine is built for, where it is built."""

from ..cuda.libcuda import Libcuda
from ..errors import UserError

__all__ = ['local_sm']


def local_sm() -> int:
    """Compute capability of the first GPU: 86 for 8.6.

    Raises:
        UserError: There is no driver, no GPU, or the driver does not start.
    """
    try:
        return Libcuda().device(0).sm
    except UserError as error:
        raise UserError(f'{error}; --engine tensorrt-rtx builds without a GPU') from error
