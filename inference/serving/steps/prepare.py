"""From an encoded image to what a network takes, as timm's transform for evaluation does it with crop_mode 'center'."""

import functools
import io
import math
from collections.abc import Iterable

import numpy as np
from PIL import Image, UnidentifiedImageError

__all__ = ['KEPT_BYTES', 'ImageError', 'prepare', 'prepare_batch']

# An image is at least read before its size is known: what a sender may make a server read and decode.
MAX_BYTES, MAX_PIXELS = 32 << 20, 64 << 20
# For keep_freed_memory: what a photograph takes, and not the blocks of 16 MiB in which Pillow has a larger image.
KEPT_BYTES = 8 << 20
FORMATS = ('JPEG', 'PNG', 'BMP', 'GIF', 'WEBP')
INTERPOLATIONS = {
    'nearest': Image.Resampling.NEAREST,
    'bilinear': Image.Resampling.BILINEAR,
    'bicubic': Image.Resampling.BICUBIC,
    'lanczos': Image.Resampling.LANCZOS,
    'box': Image.Resampling.BOX,
    'hamming': Image.Resampling.HAMMING,
}


class ImageError(ValueError):
    """The sender's mistake, in one line."""


def prepare_batch(images: Iterable[bytes], facts: dict) -> np.ndarray:
    """(batch, C, H, W), float32; arguments and errors as of `prepare`."""
    prepared = [prepare(bytes(image), facts) for image in images]
    return prepared[0][None] if len(prepared) == 1 else np.stack(prepared)


def prepare(data: bytes, facts: dict) -> np.ndarray:
    """One image.

    Args:
        data: An encoded image.
        facts: input_size (C, H, W) with H = W, mean, std, interpolation, crop_pct.

    Returns:
        (C, H, W), float32.

    Raises:
        ImageError: No image, a damaged one, or one that is too large.
    """
    channels, height, width = facts['input_size']
    image = _decode(data, 'L' if channels == 1 else 'RGB')
    image = _resize(image, math.floor(height / facts['crop_pct']), INTERPOLATIONS[facts['interpolation']])
    pixels = np.asarray(_crop(image, height, width)).reshape(-1, channels)
    values = _values(channels, tuple(facts['mean']), tuple(facts['std']))
    planes = np.empty((channels, height, width), np.float32)
    for plane, table, channel in zip(planes, values, pixels.T):
        table.take(channel, out=plane.reshape(-1), mode='clip')  # with 'raise' NumPy makes a copy
    return planes


@functools.lru_cache
def _values(channels: int, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """What the 256 values of a pixel become, (C, 256); one mean or std is for all channels."""
    pixels = np.arange(256, dtype=np.float32) / np.float32(255)
    means, stds = (np.broadcast_to(np.array(x, np.float32), channels)[:, None] for x in (mean, std))
    return (pixels - means) / stds


def _decode(data: bytes, mode: str) -> Image.Image:
    if not data:
        raise ImageError('the image is empty')
    if len(data) > MAX_BYTES:
        raise ImageError(f'the image has {len(data):,} bytes, more than {MAX_BYTES:,}')
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(f'the image is {image.width} x {image.height}, more than {MAX_PIXELS:,} pixels')
            return image.convert(mode)
    except ImageError:
        raise
    except UnidentifiedImageError as error:  # its words name an object in memory
        raise ImageError(f'no image, or a damaged one; {", ".join(FORMATS)} are read') from error
    except Exception as error:  # whatever a decoder says
        raise ImageError(f'no image, or a damaged one: {" ".join(str(error).split())[:200]}') from error


def _resize(image: Image.Image, size: int, interpolation: Image.Resampling) -> Image.Image:
    """The shorter edge to `size`, as torchvision's Resize."""
    short, long = sorted(image.size)
    if short == size:
        return image
    longer = int(size * long / short)
    if size * max(longer, 1) > MAX_PIXELS or not longer:
        raise ImageError(f'the image is {image.width} x {image.height}, too long for its width')
    shape = (size, longer) if image.width <= image.height else (longer, size)
    return image.resize(shape, interpolation)


def _crop(image: Image.Image, height: int, width: int) -> Image.Image:
    """The middle, as torchvision's CenterCrop; what is outside is black."""
    left, top = (max(want - have, 0) // 2 for want, have in ((width, image.width), (height, image.height)))
    if left or top or image.width < width or image.height < height:
        larger = Image.new(image.mode, (max(width, image.width), max(height, image.height)))
        larger.paste(image, (left, top))
        image = larger
    x, y = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((x, y, x + width, y + height))
