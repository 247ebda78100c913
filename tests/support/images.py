"""Small data sets and image files, hostile ones among them, for tests of readers."""

from __future__ import annotations

import gzip
import pathlib
import random
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from dpgan_jax._validate import InputError
from dpgan_jax.data import datasets, readers


def save_idx(path: pathlib.Path, array: np.ndarray) -> None:
  """An IDX file; a name ending in .gz is compressed."""
  data = readers.idx_bytes(array)
  path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == '.gz' else data)


def small(num: int = 12, num_classes: int = 3, channels: int = 1) -> datasets.ImageDataset:
  shape = (num, 4, 5, channels)
  return datasets.ImageDataset(
    images=np.random.default_rng(0).integers(0, 256, shape, np.uint8),
    labels=np.arange(num, dtype=np.int32) % num_classes, num_classes=num_classes, name='small',
    class_names=tuple(map(str, range(num_classes))),
  )  # fmt: skip


def refused(call: Callable[[], object], *words: str) -> str:
  """Asserts that `call` fails in one line that holds `words`; returns the line."""
  with pytest.raises(InputError) as caught:
    call()
  message = str(caught.value)
  assert '\n' not in message
  for word in words:
    assert word in message
  return message


def png_folder(root: pathlib.Path, source: datasets.ImageDataset, names: tuple[str, ...]) -> str:
  for i, (image, label) in enumerate(zip(source.images, source.labels, strict=True)):
    folder = root / names[label]
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.squeeze()).save(folder / f'{i}.png')
  return str(root)


def png(
  pixels: np.ndarray,
  depth: int,
  colour: int,
  *chunks: tuple[bytes, bytes],
  interlace: bool = False,
) -> bytes:
  """A PNG file of grey (colour 0) or RGB (2) pixels of `depth` bits, written without a library."""

  def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', checksum)

  def rows(part: np.ndarray) -> bytes:
    numbers = np.ascontiguousarray(part.reshape(len(part), -1), '>u2').view(np.uint8)
    bits = np.unpackbits(numbers, axis=1).reshape(len(part), -1, 16)[:, :, 16 - depth :]
    return b''.join(b'\0' + np.packbits(row).tobytes() for row in bits)

  passes = [(0, 0, 1, 1)]
  if interlace:  # Adam7
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
              (1, 0, 2, 1)]  # fmt: skip
  parts = [pixels[y::down, x::right] for y, x, down, right in passes]
  body = zlib.compress(b''.join(rows(part) for part in parts if part.size))
  height, width = pixels.shape[:2]
  head = struct.pack('>IIBBBBB', width, height, depth, colour, 0, 0, interlace)
  all_chunks = [(b'IHDR', head), *chunks, (b'IDAT', body), (b'IEND', b'')]
  return b'\x89PNG\r\n\x1a\n' + b''.join(chunk(*each) for each in all_chunks)


def mutations(valid: bytes, count: int, seed: int):
  """Yields damaged copies: bits flipped, bytes replaced, cut, repeated, grown, and pure noise."""
  rng = random.Random(seed)
  for i in range(count):
    content = bytearray(valid)
    for _ in range(rng.choice((1, 1, 2, 8))):
      place = rng.randrange(len(content) or 1)
      match rng.randrange(6):
        case 0 if content:
          content[place % len(content)] ^= 1 << rng.randrange(8)
        case 1 if content:
          content[place % len(content)] = rng.choice((0, 1, 127, 128, 255))
        case 2:
          del content[place:]
        case 3:
          content[place:place] = content[: rng.randrange(40)]
        case 4:
          content += rng.randbytes(rng.randrange(20))
        case _:
          content[place : place + 4] = struct.pack('<i', rng.choice((-1, 0, 2**31 - 1, 2**20)))
    yield rng.randbytes(rng.randrange(200)) if i % 20 == 0 else bytes(content)


def fuzz(
  path: pathlib.Path, valid: bytes, read: Callable[[], object], count: int, named: str = ''
) -> None:
  """Has damaged copies of a file read: a result, or one line that names the file."""
  refusals = 0
  for content in mutations(valid, count, seed=count):
    path.write_bytes(content)
    try:
      read()
    except InputError as error:
      message = str(error)
    else:
      continue
    assert '\n' not in message
    assert (named or str(path)) in message
    refusals += 1
  assert refusals > count // 2  # else the fuzzing did not reach what it should
