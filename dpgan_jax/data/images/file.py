"""One image file, written by whom ever, as 8-bit pixels: as it is, or as a `Preparation` says.

Pillow reads PNG, JPEG, TIFF, WebP and BMP, told apart by their content. What is not plain 8-bit
grey or RGB, upright and alone in its file, is refused unless a setting says what becomes of it:
nothing is changed unasked.
"""

from __future__ import annotations

import io
import pathlib
import re
import warnings
from collections import Counter
from typing import Any

import numpy as np

from dpgan_jax._validate import InputError
from dpgan_jax.data import readers
from dpgan_jax.data.spec import LARGEST_SIDE, Preparation

SUFFIXES = ('.png', '.jpg', '.jpeg', '.tif', '.tiff', '.webp', '.bmp')
_FORMATS = ('PNG', 'JPEG', 'TIFF', 'WEBP', 'BMP')
# What Pillow decodes 16 bits a channel from, of which it keeps the upper 8 in modes of several.
_DEEP = re.compile(r';16[BLN]|I;1[26]')
_TURNED_INTO_8_BITS = ('1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'RGBa')
_ORIENTATION, _PHOTOMETRIC = 0x112, 0x106  # tags of Exif and of TIFF
_USUAL_GAMMA = 0.45455  # of PNG: 1/2.2
DEEP = 'reduced to 8 bits'  # the one change that a reader may want to look after


class Unfit(Exception):
  """A file that cannot be taken as it is.

  Attributes:
    what: is wrong: the same words for all files with the same fault.
    remedy: what would help.
    detail: of this file; may be empty.
  """

  def __init__(self, what: str, remedy: str, detail: str = '') -> None:
    super().__init__(what, remedy, detail)
    self.what, self.remedy, self.detail = what, remedy, detail


def read(path: pathlib.Path, preparation: Preparation) -> tuple[np.ndarray, set[str]]:
  """Reads an image file: uint8 [H, W, C], C = 1 or 3, and in words what was done to it.

  A file that promises more pixels than Pillow's limit is refused before any is decoded.

  Raises:
    Unfit: with what would help.
  """
  from PIL import Image, UnidentifiedImageError  # here, as most runs read no image files

  if not path.is_file():  # a pipe or a device would be read without end
    raise Unfit('link to nowhere, or no regular file', 'remove it')
  if path.stat().st_size > readers.MAX_BYTES:
    raise Unfit(f'file of more than {readers.MAX_BYTES} bytes', 'remove it')
  data = path.read_bytes()
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # of metadata
      # Pillow warns from 89 million pixels and fails from twice as many; here both are refused.
      warnings.simplefilter('error', Image.DecompressionBombWarning)
      with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        return _pixels(image, preparation)
  except Unfit:
    raise
  except (Image.DecompressionBombWarning, Image.DecompressionBombError):
    most = f'{Image.MAX_IMAGE_PIXELS:,}'
    raise Unfit(f'image of more than {most} pixels (a bomb?)', 'remove it') from None
  except UnidentifiedImageError:
    raise Unfit('file that is no PNG, JPEG, TIFF, WebP or BMP inside', 'remove it') from None
  # Pillow's decoders raise SyntaxError, struct.error, OSError, ... on damage; the bytes are in
  # memory already, so none of these can be the file system's.
  except Exception as error:
    reason = ' '.join(str(error).split())[:80] or type(error).__name__
    raise Unfit('damaged image', 'restore or remove it', reason) from None


def prepare_all(
  where: str, images: np.ndarray, preparation: Preparation
) -> tuple[np.ndarray, Counter[str]]:
  """The same for images uint8 [N, H, W] or [N, H, W, C] that are in memory already.

  Returns:
    uint8 [N, H, W, C], and how many images each change was made to.

  Raises:
    InputError: images that cannot be turned into what is asked for.
  """
  from PIL import Image

  changes: Counter[str] = Counter()
  if images.ndim == 3:
    images = images[..., np.newaxis]
  if preparation == Preparation():
    return images, changes
  if images.shape[3] not in (1, 3, 4):
    raise InputError(f'{where}: expected 1, 3 or 4 (RGBA) channels, got {images.shape[3]}')
  kept = []
  for image in images:
    try:
      pixels, done = _pixels(Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image),
                             preparation)  # fmt: skip
    except Unfit as error:
      raise InputError(f'{where}: {error.what}; {error.remedy}') from None
    if not kept:
      require_room(where, len(images), pixels)
    kept.append(pixels)
    changes.update(done)
  return np.stack(kept), changes


def require_room(where: object, count: int, first: np.ndarray) -> None:
  """Refuses as many images like the first as memory should not be asked for."""
  if first.nbytes * count > readers.MAX_BYTES:
    raise InputError(
      f'{where}: {count} images of {first.shape}; expected at most {readers.MAX_BYTES} bytes: give '
      'a smaller --image_size'
    )


def _pixels(image: Any, preparation: Preparation) -> tuple[np.ndarray, set[str]]:
  """Of an opened image, whose pixels are decoded only when it is known to be wanted."""
  from PIL import Image, ImageOps

  changes: set[str] = set()
  if getattr(image, 'is_animated', False):
    raise Unfit('file of several images (pages, an animation)', 'keep one image a file')
  raw = [image.mode, *(str(tile[3]) for tile in getattr(image, 'tile', ()))]
  deep = any(_DEEP.search(mode) for mode in raw) and image.format != 'BMP'
  clear = image.has_transparency_data
  gamma = image.info.get('gamma') or _USUAL_GAMMA
  if 'srgb' not in image.info and abs(gamma - _USUAL_GAMMA) > _USUAL_GAMMA / 20:
    raise Unfit('image of another gamma than sRGB', 'convert it to sRGB', f'gamma {gamma:g}')
  if image.mode not in ('L', 'RGB') or deep or clear:
    how = ', '.join([image.mode, *(['more than 8 bits'] * deep), *(['transparency'] * clear)])
    white_is_0 = deep and getattr(image, 'tag_v2', {}).get(_PHOTOMETRIC) == 0
    one_of_16 = image.mode.startswith('I;16')
    if not (one_of_16 or image.mode in _TURNED_INTO_8_BITS) or white_is_0 or (
      # What is transparent is said by a value of 16 bits, which Pillow does not compare so.
      deep and 'transparency' in image.info
    ):  # fmt: skip
      raise Unfit('image of a kind that is not read', 'save it as 8-bit grey or RGB', how)
    if preparation.channels is None:
      raise Unfit(
        'image that is not plain 8-bit grey or RGB', '--channels=1 or --channels=3 makes it so', how
      )
  size = (preparation.size or (image.height, image.width))[::-1]
  if max(size) > LARGEST_SIDE:
    what = f'image of more than {LARGEST_SIDE} pixels a side'
    raise Unfit(what, '--image_size=28 makes it small')
  if image.getexif().get(_ORIENTATION, 1) != 1:
    if preparation.size is None:
      raise Unfit('image that is to be shown turned (Exif)', '--image_size=28 turns it upright')
    image = ImageOps.exif_transpose(image)
    changes.add('turned upright')
  if clear:
    black = Image.new('RGBA', image.size, (0, 0, 0, 255))
    image = Image.alpha_composite(black, image.convert('RGBA')).convert('RGB')
    changes.add('laid on black where transparent')
  if deep:
    changes.add(DEEP)
    if image.mode.startswith('I;16'):
      shift = 4 if any('I;12' in mode for mode in raw) else 8
      image = Image.fromarray((np.asarray(image) >> shift).astype(np.uint8))
  wanted = {None: image.mode, 1: 'L', 3: 'RGB'}[preparation.channels]
  if image.mode != wanted:
    image = image.convert(wanted)
    changes.add('turned into grey' if wanted == 'L' else 'turned into RGB')
  if image.size != size:
    image = image.resize(size, Image.Resampling.BICUBIC)
    changes.add('resized')
  pixels = np.array(image)
  return pixels if pixels.ndim == 3 else pixels[..., np.newaxis], changes
