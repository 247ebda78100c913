"""Readers of IDX files and .npz files; the writer of IDX. `images.folder` reads images.

Files are read as if an adversary had written them: sizes are checked before memory is taken,
nothing is unpickled, and whatever is wrong becomes a one-line `InputError` that names the file.

>>> import pathlib, tempfile
>>> with tempfile.TemporaryDirectory() as folder:
...   path = pathlib.Path(folder) / 'labels-idx1-ubyte'
...   _ = path.write_bytes(idx_bytes(np.array([5, 0, 4], np.uint8)))
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
import zipfile
import zlib
from collections.abc import Collection, Iterator
from typing import Any, Literal

import numpy as np

from dpgan_jax._files import MAX_BYTES
from dpgan_jax._validate import InputError
from dpgan_jax.data import naming

PathLike = str | os.PathLike[str]

# DEFLATE cannot expand further than this, so a short file that promises more is refused unread.
_MAX_DEFLATE_RATIO = 1032
_MAX_IDX_NDIM = 4  # count, height, width, channel
_SUFFIX = {'train': '', 'test': '_test'}
_KINDS = {'iuf': 'numbers', 'U': 'text'}


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
  path = regular_file(path)
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


# --- npz -----------------------------------------------------------------------------------------


def read_npz(
  path: PathLike, *, split: str = 'train', parts: tuple[str, ...] = ('x', 'y')
) -> tuple[np.ndarray, ...]:
  """Reads images `x` and labels `y` (for the test split `x_test` and `y_test`) from an .npz file.

  Arrays may be called as MedMNIST calls them, too: `train_images`, `train_labels` ([N] or [N, 1])
  and so on; where it has no `test_images`, its `val_images` are for testing. Nothing is unpickled
  and no other member is read.

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
  path = regular_file(path)
  with _open_npz(path) as archive:
    names = npz_members([n.removesuffix('.npy') for n in archive.namelist()], split)
    arrays = _read_members(path, archive, [names[part] for part in parts])
  readers = {'x': _uint8_pixels, 'y': int32_labels}
  found = []
  for part, array in zip(parts, arrays, strict=True):
    column = part == 'y' and names[part] != f'y{_SUFFIX[split]}' and array.shape[1:] == (1,)
    found.append(readers[part](f'{path}: {names[part]}', array[:, 0] if column else array))
  return tuple(found)


def npz_members(listed: Collection[str], split: str) -> dict[str, str]:
  """What images 'x' and labels 'y' of a split are called among the arrays of an .npz file."""
  own = {part: part + _SUFFIX[split] for part in 'xy'}
  for stem in ('train',) if split == 'train' else ('test', 'val'):
    if own['x'] not in listed and f'{stem}_images' in listed:
      return {'x': f'{stem}_images', 'y': f'{stem}_labels'}
  return own


def npz_names(path: PathLike) -> tuple[str, ...]:
  """Returns the names of the arrays that an .npz file lists; none of them is read.

  Raises:
    InputError: not such a file.
  """
  with _open_npz(regular_file(path)) as archive:
    return tuple(name.removesuffix('.npy') for name in archive.namelist())


def npz_class_names(path: PathLike) -> tuple[str, ...] | None:
  """The names in the member `class_names` of an .npz file, as `export` writes it; None without.

  Raises:
    InputError: not such a file, or something else than different names.
  """
  name = naming.FILE.removesuffix('.json')
  found = _npz_text(path, name, ndim=1, longest=naming.LONGEST)
  return None if found is None else naming.checked(f'{path}: {name}', found)


def npz_guarantee(path: PathLike) -> str | None:
  """What an .npz file of samples says that they cost, as `export` writes it; None: nothing.

  Raises:
    InputError: not such a file, or something else than a line.
  """
  return _npz_text(path, 'guarantee', ndim=0, longest=1_000)


def _npz_text(path: PathLike, name: str, *, ndim: int, longest: int) -> Any:
  """The text or texts in a member of an .npz file; None if it has no such member."""
  path = regular_file(path)
  with _open_npz(path) as archive:
    if f'{name}.npy' not in archive.namelist():
      return None
    (array,) = _read_members(path, archive, [name], kinds='U')
  if array.ndim != ndim or array.dtype.itemsize > 4 * longest:
    expected = 'names [K]' if ndim else 'a line'
    raise InputError(f'{path}: expected {name} to be {expected}, got {describe(array)}')
  try:
    return array.tolist()
  except (ValueError, SystemError) as error:  # numbers that are no characters
    raise InputError(f'{path}: expected {name} to be text, got: {error}') from None


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
  path: pathlib.Path, archive: zipfile.ZipFile, names: list[str], kinds: str = 'iuf'
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
  arrays = [_parse_npy(f'{path}: {name}', archive.read(infos[name])) for name in names]
  for name, array in zip(names, arrays, strict=True):
    if array.dtype.kind not in kinds:
      raise InputError(f'{path}: {name}: expected {_KINDS[kinds]}, got dtype {array.dtype}')
  return arrays


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
  if dtype.hasobject or dtype.kind not in 'iufU':
    raise InputError(f'{where}: expected numbers, got dtype {dtype} (pickled data are not read)')
  offset, shape = stream.tell(), tuple(map(int, shape))  # numpy lets True pass for 1
  if min(shape, default=1) < 1 or math.prod(shape) * dtype.itemsize != len(data) - offset:
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


def regular_file(path: PathLike) -> pathlib.Path:
  path = pathlib.Path(path)
  if not path.is_file():  # a pipe or a device would be read without end
    state = 'is not a regular file' if path.exists() else 'does not exist'
    raise InputError(f'{path} {state}; expected a data file')
  return path
