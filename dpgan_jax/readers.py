"""Readers of IDX files, .npz files and folders of PNG images; the writer of IDX.

Files are read as if an adversary had written them: sizes are checked before memory is taken,
nothing is unpickled, and whatever is wrong becomes a one-line `InputError` that names the file.

>>> import pathlib, tempfile
>>> with tempfile.TemporaryDirectory() as folder:
...   path = pathlib.Path(folder) / 'labels-idx1-ubyte.gz'
...   save_idx(path, np.array([5, 0, 4], np.uint8))
...   read_idx(path, 'labels')
array([5, 0, 4], dtype=uint8)
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import math
import os
import pathlib
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np

from dpgan_jax._files import atomic_write
from dpgan_jax._validate import InputError

PathLike = str | os.PathLike[str]

# No file may promise (or unpack to) more than this: a gzip, zip or PNG bomb is refused, not read.
MAX_BYTES = 4 * 2**30
MOST_CLASSES = 2**16
# DEFLATE cannot expand further than this, so a short file that promises more is refused unread.
_MAX_DEFLATE_RATIO = 1032
_MAX_IDX_NDIM = 4  # count, height, width, channel
_USUAL_GAMMA, _ORIENTATION = 45455, 0x112  # of PNG: 1/2.2 in units of 1e-5; the Exif tag


# --- IDX -----------------------------------------------------------------------------------------

# The code in the third byte of the magic number -> the big-endian dtype (LeCun et al., MNIST page).
_IDX_DTYPES: dict[int, np.dtype] = {
  0x08: np.dtype('u1'), 0x09: np.dtype('i1'), 0x0B: np.dtype('>i2'),
  0x0C: np.dtype('>i4'), 0x0D: np.dtype('>f4'), 0x0E: np.dtype('>f8'),
}  # fmt: skip
_IDX_CODES = {dtype.newbyteorder('='): code for code, dtype in _IDX_DTYPES.items()}


def read_idx(path: PathLike, kind: Literal['images', 'labels'] | None = None) -> np.ndarray:
  """Reads an IDX file, gzip-compressed or not (told by its first bytes, not by its name).

  Args:
    path: the file.
    kind: 'images' insists on unsigned bytes in 3 dimensions (magic number 2051) or 4 (2052, with
      channels), 'labels' on integers in 1 dimension (2049 for unsigned bytes).

  Returns:
    the array, 1 to 4 dimensions, in native byte order.

  Raises:
    InputError: missing, truncated or longer than its header promises, a wrong magic number, or more
      than `MAX_BYTES`. No more than the promised bytes are ever held, whatever a gzip expands to.
  """
  path = _regular_file(path)
  size = path.stat().st_size
  with path.open('rb') as raw:
    packed = raw.read(2) == b'\x1f\x8b'
    raw.seek(0)
    try:
      if packed:
        with gzip.GzipFile(fileobj=raw) as file:
          return _parse_idx(file, path, kind, size * _MAX_DEFLATE_RATIO, exact=False)
      return _parse_idx(raw, path, kind, size, exact=True)
    except EOFError:
      raise InputError(f'{path}: the gzip stream is cut short; expected a complete file') from None
    except (zlib.error, gzip.BadGzipFile) as error:
      raise InputError(f'{path}: expected a valid gzip stream, got {error}') from None


def _parse_idx(
  file: io.BufferedIOBase, path: pathlib.Path, kind: str | None, available: int, *, exact: bool
) -> np.ndarray:
  head = file.read(4)
  if len(head) < 4:
    raise InputError(f'{path}: expected an IDX header of at least 8 bytes, got {len(head)} bytes')
  code, ndim = head[2], head[3]
  magic = int.from_bytes(head, 'big')
  if head[:2] != b'\0\0' or code not in _IDX_DTYPES or not 1 <= ndim <= _MAX_IDX_NDIM:
    raise InputError(
      f'{path}: expected an IDX magic number (2051 for images, 2049 for labels), got {magic}'
    )
  _check_idx_kind(path, kind, code, ndim, magic)
  dims = file.read(4 * ndim)
  if len(dims) < 4 * ndim:
    raise InputError(f'{path}: truncated in its header; expected {ndim} dimension sizes')
  shape = struct.unpack(f'>{ndim}I', dims)
  dtype = _IDX_DTYPES[code]
  header = 4 + 4 * ndim
  # Zeros are left out: [0, 2^32 - 1, 2^32 - 1] is empty, yet not a shape that numpy can hold.
  if math.prod(filter(None, shape)) * dtype.itemsize > MAX_BYTES:
    raise InputError(f'{path}: its header promises {shape}; expected at most {MAX_BYTES} bytes')
  promised = math.prod(shape) * dtype.itemsize
  if exact and header + promised < available:
    raise InputError(
      f'{path}: {available - header - promised} trailing bytes; expected {header + promised} bytes '
      f'for {shape}, got {available}'
    )
  if header + promised > available:
    raise InputError(
      f'{path}: truncated; expected {header + promised} bytes for {shape}, got '
      f'{"" if exact else "at most "}{available}'
    )
  data = np.empty(promised, np.uint8)
  filled = 0
  while filled < promised:
    got = file.readinto(data.data[filled:])
    if not got:
      raise InputError(
        f'{path}: truncated; expected {header + promised} bytes for {shape}, got {header + filled}'
      )
    filled += got
  if file.read(1):  # reaching the end is also what makes gzip compare its checksum
    raise InputError(f'{path}: trailing bytes; expected {header + promised} bytes for {shape}')
  return data.view(dtype).reshape(shape).astype(dtype.newbyteorder('='), copy=False)


def _check_idx_kind(path: pathlib.Path, kind: str | None, code: int, ndim: int, magic: int) -> None:
  if kind == 'images':
    if ndim == 1:
      raise InputError(
        f'{path}: expected images (magic number 2051), got labels (magic number {magic}); are the '
        'image and label files exchanged?'
      )
    if code != 0x08 or ndim == 2:
      raise InputError(f'{path}: expected byte images (magic number 2051), got {magic}')
  if kind == 'labels':
    if ndim > 1:
      raise InputError(
        f'{path}: expected labels (magic number 2049), got images (magic number {magic}); are the '
        'image and label files exchanged?'
      )
    if _IDX_DTYPES[code].kind == 'f':
      raise InputError(f'{path}: expected integer labels (magic number 2049), got {magic}')


def idx_bytes(array: np.ndarray) -> bytes:
  """Returns `array` (1 to 4 dimensions; u1, i1, i2, i4, f4 or f8) as the bytes of an IDX file."""
  code = _IDX_CODES.get(array.dtype.newbyteorder('='))
  if code is None or not 1 <= array.ndim <= _MAX_IDX_NDIM:
    raise InputError(f'expected 1 to 4 dimensions of a dtype that IDX has, got {describe(array)}')
  head = struct.pack(f'>HBB{array.ndim}I', 0, code, array.ndim, *array.shape)
  return head + array.astype(_IDX_DTYPES[code], copy=False).tobytes()


def save_idx(path: PathLike, array: np.ndarray) -> None:
  """Writes `array` as an IDX file, whole or not at all; a name ending in .gz is compressed."""
  data = idx_bytes(array)
  if os.fspath(path).endswith('.gz'):
    data = gzip.compress(data, mtime=0)
  with atomic_write(path, 'wb') as file:
    file.write(data)


# --- npz -----------------------------------------------------------------------------------------


def read_npz(
  path: PathLike, *, split: str = 'train', parts: tuple[str, ...] = ('x', 'y')
) -> tuple[np.ndarray, ...]:
  """Reads images `x` and labels `y` (for the test split `x_test` and `y_test`) from an .npz file.

  Nothing is unpickled and no other member is read.

  Args:
    path: the file.
    split: 'train' or 'test'.
    parts: which of 'x' and 'y' to read.

  Returns:
    the parts in order: x as uint8 [N, H, W] or [N, H, W, C] (floats in [0, 1] are scaled by 255), y
    as int32 [N].

  Raises:
    InputError: not such a file; pixels that are NaN, infinite or outside [0, 1]; more than
      `MAX_BYTES` once unpacked.
  """
  path = _regular_file(path)
  suffix = '_test' if split == 'test' else ''
  with _open_npz(path) as archive:
    arrays = _read_members(path, archive, [part + suffix for part in parts])
  readers = {'x': _uint8_pixels, 'y': int32_labels}
  return tuple(readers[p](f'{path}: {p}{suffix}', a) for p, a in zip(parts, arrays, strict=True))


def npz_names(path: PathLike) -> tuple[str, ...]:
  """Returns the names of the arrays that an .npz file lists; none of them is read.

  Raises:
    InputError: not such a file.
  """
  with _open_npz(_regular_file(path)) as archive:
    return tuple(name.removesuffix('.npy') for name in archive.namelist())


@contextlib.contextmanager
def _open_npz(path: pathlib.Path) -> Iterator[zipfile.ZipFile]:
  """Opens an archive; what zipfile raises on damage, then or later, becomes `InputError`."""
  with path.open('rb') as file:
    try:
      with zipfile.ZipFile(file) as archive:
        yield archive
    except InputError:
      raise
    # What zipfile raises on damage is not one family; RuntimeError is its "encrypted".
    # A damaged offset makes it seek to before the beginning: EINVAL. Other OSErrors are the disk's.
    except (
      zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError, OSError
    ) as error:  # fmt: skip
      if isinstance(error, OSError) and error.errno != errno.EINVAL:
        raise
      reason = ' '.join(str(error).split())
      raise InputError(f'{path}: expected an undamaged .npz file, got {reason}') from None


def _read_members(
  path: pathlib.Path, archive: zipfile.ZipFile, names: list[str]
) -> list[np.ndarray]:
  infos = {info.filename.removesuffix('.npy'): info for info in archive.infolist()}
  for name in names:
    if name not in infos:
      listed = ', '.join(sorted(infos)[:10]) or 'nothing'
      raise InputError(f'{path}: expected an array named {name}, got {listed}')
    info = infos[name]
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
      raise InputError(f'{path}: {name}: expected data stored or deflated, as by numpy.savez')
    # zipfile believes the archive's directory, and asks for as much memory as it promises.
    packed = min(info.compress_size, path.stat().st_size)
    most = packed if info.compress_type == zipfile.ZIP_STORED else packed * _MAX_DEFLATE_RATIO
    if info.compress_size > packed or info.file_size > most:
      raise InputError(
        f'{path}: {name}: promises {info.file_size} bytes; expected at most {most} from '
        f'{packed} bytes of the file'
      )
  total = sum(infos[name].file_size for name in names)
  if total > MAX_BYTES:
    raise InputError(f'{path}: unpacks to {total} bytes; expected at most {MAX_BYTES}')
  return [_parse_npy(f'{path}: {name}', archive.read(infos[name])) for name in names]


def _parse_npy(where: str, data: bytes) -> np.ndarray:
  # numpy.load would take the memory that the header asks for before it looks at what there is.
  stream = io.BytesIO(data)
  try:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
      shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    else:
      shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
  # The header is a Python literal: on damage numpy raises ValueError, TokenError, TypeError, ...
  except Exception as error:
    reason = ' '.join(str(error).split())[:200]
    raise InputError(f'{where}: expected a .npy header of version 1 or 2: {reason}') from None
  if dtype.hasobject or dtype.kind not in 'iuf':
    raise InputError(f'{where}: expected numbers, got dtype {dtype} (pickled data are not read)')
  offset, shape = stream.tell(), tuple(map(int, shape))  # numpy lets True pass for 1
  if min(shape, default=0) < 1 or math.prod(shape) * dtype.itemsize != len(data) - offset:
    raise InputError(
      f'{where}: expected a non-empty array whose header fits its data, got shape {shape} of '
      f'{dtype} and {len(data) - offset} bytes'
    )
  return np.frombuffer(data, dtype, offset=offset).reshape(shape, order='F' if fortran else 'C')


def _uint8_pixels(where: str, pixels: np.ndarray) -> np.ndarray:
  if pixels.ndim not in (3, 4):
    raise InputError(f'{where}: expected [N, H, W] or [N, H, W, C], got {describe(pixels)}')
  if pixels.dtype == np.uint8:
    return pixels
  if pixels.dtype.kind != 'f':
    raise InputError(f'{where}: expected uint8 or floats in [0, 1], got {pixels.dtype}')
  for wrong, what in (
    (np.isnan(pixels), 'NaN'), (np.isinf(pixels), 'inf'), ((pixels < 0) | (pixels > 1), 'others')
  ):  # fmt: skip
    if wrong.any():
      image = int(np.argwhere(wrong)[0, 0])
      raise InputError(
        f'{where}: expected uint8 or floats in [0, 1], got {int(wrong.sum())} {what} (the first in '
        f'image {image})'
      )
  return np.rint(pixels.astype(np.float32) * 255).astype(np.uint8)


# --- PNG folders ---------------------------------------------------------------------------------


def read_png_folder(
  path: PathLike, *, split: str = 'train'
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
  """Reads `<path>/<split>/<class>/*.png`, or `<path>/<class>/*.png` (train only).

  Classes and files are taken in the order of their names, as numbers where all are numbers. Names
  that begin with a dot are ignored.

  Returns:
    images uint8 [N, H, W] or [N, H, W, 3], labels int32 [N], class names.

  Raises:
    InputError: a file that is not a grey or RGB PNG of at most 8 bits (named), or whose pixels mean
      something else than they say (gamma, a transparent colour, ...), images of differing size or
      mode, an empty class, a link that leads out of the folder, more than `MAX_BYTES` of pixels.
  """
  root = existing_folder(path)
  home = root.resolve()
  base = root / split
  if not base.is_dir():
    if split == 'test' or (root / 'test').is_dir():
      raise InputError(f'{root}: expected a folder {split}/ that holds <class>/*.png')
    base = root
  _refuse_outside(base, root, home)
  classes = _by_name(entry for entry in base.iterdir() if entry.is_dir())
  if not classes:
    raise InputError(f'{base}: expected <class>/*.png, got no folder')
  files: list[tuple[pathlib.Path, int]] = []
  for label, folder in enumerate(classes):
    _refuse_outside(folder, root, home)
    members = _by_name(folder.iterdir())
    if not members:
      raise InputError(f'{folder}: class {label} ({folder.name!r}) is empty; expected PNG files')
    files += [(member, label) for member in members]
  images: np.ndarray | None = None
  for i, (file, _) in enumerate(files):
    _refuse_outside(file, root, home)
    pixels = _read_png(file)
    if images is None:
      if pixels.nbytes * len(files) > MAX_BYTES:
        raise InputError(
          f'{root}: {len(files)} images of {pixels.shape}; expected at most {MAX_BYTES} bytes'
        )
      images = np.empty((len(files), *pixels.shape), np.uint8)
    if pixels.shape != images.shape[1:]:
      raise InputError(
        f'{file}: expected the size of the first image {files[0][0].name}, {images.shape[1:]}, got '
        f'{pixels.shape}'
      )
    images[i] = pixels
  assert images is not None
  labels = np.array([label for _, label in files], np.int32)
  return images, labels, tuple(folder.name for folder in classes)


def _refuse_outside(path: pathlib.Path, root: pathlib.Path, home: pathlib.Path) -> None:
  """Refuses a link out of the folder, before a file behind it is read or a folder listed."""
  if not pathlib.Path(os.path.realpath(path)).is_relative_to(home):
    raise InputError(f'{path}: links to a place outside {root}; expected files within it')


def _read_png(path: pathlib.Path) -> np.ndarray:
  from PIL import Image  # here, as most runs read no PNG

  if path.suffix.lower() != '.png':
    raise InputError(f'{path}: expected only PNG files in a class folder')
  path = _regular_file(path)
  if path.stat().st_size > MAX_BYTES:
    raise InputError(f'{path}: expected at most {MAX_BYTES} bytes')
  data = path.read_bytes()
  try:
    with warnings.catch_warnings():
      # Pillow warns from 89 million pixels and fails from twice as many; here both are refused.
      warnings.simplefilter('error', Image.DecompressionBombWarning)
      with Image.open(io.BytesIO(data), formats=['PNG']) as image:
        if image.mode not in ('L', 'RGB'):
          raise InputError(f'{path}: expected 8-bit grey (L) or RGB, got mode {image.mode}')
        if what := _lost_in_png(data):
          raise InputError(
            f'{path}: {what}; expected pixels of at most 8 bits that mean what they say: convert '
            'the image to 8-bit grey or sRGB'
          )
        if image.getexif().get(_ORIENTATION, 1) != 1:
          raise InputError(f'{path}: is to be shown turned (Exif); expected it upright as stored')
        return np.array(image)
  except (Image.DecompressionBombWarning, Image.DecompressionBombError):
    raise InputError(
      f'{path}: expected at most {Image.MAX_IMAGE_PIXELS} pixels (decompression bomb?)'
    ) from None
  except InputError:
    raise
  # Pillow's decoders raise SyntaxError, struct.error, OSError, ... on damage; the bytes are in
  # memory already, so none of these can be the file system's.
  except Exception as error:
    reason = ' '.join(str(error).split()) or type(error).__name__
    raise InputError(f'{path}: expected an undamaged PNG image, got: {reason}') from None


def _lost_in_png(data: bytes) -> str | None:
  """What of a PNG file its decoded 8-bit pixels would not show; None if they show all.

  Grey of 1 to 4 bits is spread over 0 to 255 exactly, and interlacing is only an order of rows.
  """
  if data[12:16] != b'IHDR':
    return 'does not begin with its header'
  if data[24] > 8:  # the depth
    return f'has {data[24]} bits a channel, of which the lower ones would be lost'
  found = {}
  place = 8
  while place + 8 <= len(data) and (kind := data[place + 4 : place + 8]) not in (b'IDAT', b'IEND'):
    length = int.from_bytes(data[place : place + 4], 'big')
    found[kind] = data[place + 8 : place + 8 + length]
    place += 12 + length
  if b'tRNS' in found:
    return 'has a transparent colour, which would be shown'
  if b'acTL' in found:
    return 'is an animation, of which one image would be taken'
  gamma = int.from_bytes(found.get(b'gAMA', b''), 'big') or _USUAL_GAMMA
  if b'sRGB' not in found and abs(gamma - _USUAL_GAMMA) > _USUAL_GAMMA / 20:
    return f'has gamma {gamma / 1e5:g} (not {_USUAL_GAMMA / 1e5:g}, as sRGB has)'
  return None


def _by_name(entries: Iterable[pathlib.Path]) -> list[pathlib.Path]:
  """Sorts by name, numerically where every stem is a number; leaves hidden entries out."""
  paths = sorted((p for p in entries if not p.name.startswith('.')), key=lambda p: p.name)
  if all(p.stem.isascii() and p.stem.isdecimal() for p in paths):
    # By length first without leading zeros: int() refuses names of thousands of digits.
    paths.sort(key=lambda p: (len(p.stem.lstrip('0')), p.stem.lstrip('0')))
  return paths


# --- what all readers check -----------------------------------------------------------------------


def int32_labels(where: str, labels: np.ndarray) -> np.ndarray:
  """Returns integer `labels` [N] of any width as int32, or refuses them as those of `where`."""
  if labels.ndim != 1 or labels.dtype.kind not in 'iu':
    raise InputError(f'{where}: expected integer labels [N], got {describe(labels)}')
  if len(labels) and (labels.min() < 0 or labels.max() >= 2**31):
    raise InputError(f'{where}: expected labels >= 0, got {labels.min()} to {labels.max()}')
  return labels.astype(np.int32)


def describe(array: Any) -> str:
  """Returns the dtype and shape of `array`, never a value of it: for messages."""
  if not isinstance(array, np.ndarray):
    return type(array).__name__
  return f'{array.dtype} {array.shape}'


def existing_folder(path: PathLike) -> pathlib.Path:
  """Returns `path`, or says that it is no folder."""
  folder = pathlib.Path(path)
  if not folder.is_dir():
    state = 'is not a folder' if folder.exists() else 'does not exist'
    raise InputError(f'{folder} {state}; expected a folder of data files')
  return folder


def _regular_file(path: PathLike) -> pathlib.Path:
  path = pathlib.Path(path)
  if not path.is_file():  # a pipe or a device would be read without end
    state = 'is not a regular file' if path.exists() else 'does not exist'
    raise InputError(f'{path} {state}; expected a data file')
  return path
