"""Hostile files and command lines, drawn at random: what fuzz.py feeds to the readers.

Each function takes a `random.Random` and gives one input. Inputs are built from the format's parts
with some of them wrong (a structure that a byte-wise mutation would never keep), then sometimes
damaged byte by byte.
"""

from __future__ import annotations

import copy
import gzip
import io
import json
import math
import os
import pathlib
import pickle
import random
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

INTEGERS = (
  0, 1, 2, 3, 5, 7, 8, 255, 256, 1000, 2**15, 2**16, 2**20, 2**31 - 1, 2**31, 2**32 - 1, 2**32,
  2**40, 2**63 - 1, 2**63, 2**64, 10**30, -1, -2, -(2**31), -(2**63),
)  # fmt: skip
WORDS = (
  '', ' ', 'x', 'y', 'nan', 'inf', '-inf', '1e999', '-0.0', '1e-320', '0x10', '1_000', '٣', 'True',
  'None', '\0', '\n', '\x1b[2J', '../../etc/passwd', '/etc/passwd', '~', '%s%n', '9' * 5000,
  'ü' * 300, '\udcff', '{}', '[]', "__import__('os').system('x')",
)  # fmt: skip


class Exploding:
  """Unpickling one is running code: the audit in fuzz.py sees it, and so would its victim."""

  def __reduce__(self) -> tuple[Any, ...]:
    return eval, ('__import__("os").system("true")',)


def mangle(rng: random.Random, data: bytes) -> bytes:
  """Flips, overwrites, cuts, repeats, inserts; sometimes nothing, sometimes much."""
  content = bytearray(data)
  for _ in range(rng.choice((0, 1, 1, 2, 4, 16))):
    place = rng.randrange(len(content) + 1)
    match rng.randrange(8):
      case 0 if place < len(content):
        content[place] ^= 1 << rng.randrange(8)
      case 1 if place < len(content):
        content[place] = rng.choice((0, 1, 10, 127, 128, 255))
      case 2:
        del content[place:]
      case 3:
        del content[place : place + rng.randrange(1, 64)]
      case 4:
        start = rng.randrange(len(content) + 1)
        content[place:place] = content[start : start + rng.randrange(1, 200)]
      case 5:
        content[place:place] = rng.randbytes(rng.randrange(1, 32))
      case 6:
        number = rng.choice(INTEGERS) % 2**32
        content[place : place + 4] = struct.pack(rng.choice('<>') + 'I', number)
      case _:
        number = rng.choice(INTEGERS) % 2**64
        content[place : place + 8] = struct.pack('<Q', number)
  return bytes(content)


# --- IDX -----------------------------------------------------------------------------------------


def idx(rng: random.Random) -> bytes:
  """An IDX file, perhaps in gzip: a header that may promise anything, a body that may keep it."""
  sizes = {8: 1, 9: 1, 0x0B: 2, 0x0C: 4, 0x0D: 4, 0x0E: 8}
  code = rng.choice((*sizes, 8, 8, 8, 0, 10, 255))
  ndim = rng.choice((1, 3, 3, 3, 4, 0, 2, 5, 255))
  small = rng.random() < 0.6
  shape = [rng.randrange(6) if small else rng.choice(INTEGERS) % 2**32 for _ in range(ndim)]
  promised = math.prod(shape) * sizes.get(code, 1)
  body = rng.randbytes(min(promised, 4096) if rng.random() < 0.8 else rng.randrange(200))
  if rng.random() < 0.3:
    body = bytes(len(body))
  data = struct.pack(f'>HBB{ndim}I', rng.choice((0, 0, 0, 0, 1)), code, ndim, *shape) + body
  if rng.random() < 0.3:
    data = mangle(rng, data)
  if rng.random() < 0.4:
    data += bytes(rng.choice((0, 0, 10**6)))
    data = gzip.compress(data, rng.choice((1, 9)), mtime=0)
    if rng.random() < 0.2:
      data += rng.choice((gzip.compress(b'', mtime=0), b'x', bytes(100)))
    if rng.random() < 0.4:
      data = mangle(rng, data)
  return data


# --- npz -----------------------------------------------------------------------------------------

_DESCRS = (
  '|u1', '|u1', '|u1', '<i8', '<i4', '<f4', '<f8', '>f4', '<f2', '<c16', '|b1', '|O', '<U3', '|S5',
  '<M8[s]', '|V8', '<u16', '<f16', ',', '(2,3)<f4', '(1000000,1000000)<f8', [('a', '<f4')],
  [('a', '|O')], None, 3, '', '|u1' * 1000,
)  # fmt: skip


def npy(rng: random.Random, shape: Sequence[Any] | None = None) -> bytes:
  """A .npy file whose header need not fit its data."""
  if shape is None or rng.random() < 0.2:
    shape = [rng.choice((*INTEGERS, 1.5, True, 'x', None)) for _ in range(rng.randrange(5))]
  descr = rng.choice(_DESCRS) if rng.random() < 0.5 else '|u1'
  header: Any = {
    'descr': descr,
    'fortran_order': rng.choice((False, False, True, 1, None)),
    'shape': tuple(shape),
  }
  match rng.randrange(12):
    case 0:
      header[rng.choice(('extra', 1))] = 0
    case 1:
      header.pop(rng.choice(list(header)))
    case 2:
      header = rng.choice(([], 3, (), {1, 2}))
  text = repr(header)
  match rng.randrange(16):
    case 0:
      text = '(' * 300 + ')' * 300
    case 1:
      text = rng.choice(WORDS)
    case 2:
      text = text.replace('False', "__import__('os').system('x')")
  raw = text.encode('utf-8', 'surrogateescape') + b'\n'
  version = rng.choice(((1, 0), (1, 0), (1, 0), (2, 0), (3, 0), (0, 0), (255, 255)))
  length = len(raw) if rng.random() < 0.9 else rng.choice(INTEGERS)
  width = 2 if version == (1, 0) else 4
  size = (length % 256**width).to_bytes(width, 'little')
  count = math.prod(n for n in shape if isinstance(n, int) and 0 <= n < 100)
  width = int(descr[2:]) if isinstance(descr, str) and descr[2:].isdigit() else 1
  body = rng.randbytes(min(count * width, 5000))
  if rng.random() < 0.1:
    body = pickle.dumps(Exploding())
  data = b'\x93NUMPY' + bytes(version) + size + raw + body
  return mangle(rng, data) if rng.random() < 0.2 else data


def _array(rng: random.Random, name: str, count: int) -> bytes:
  """A .npy file as numpy writes it, of values that may be wrong."""
  if name.startswith('y'):
    array: Any = np.arange(count).astype(rng.choice(('u1', 'i4', 'i8')))
    if rng.random() < 0.2:
      array = array.astype(rng.choice(('f4', 'i8', 'U2', 'O')))
    if rng.random() < 0.2 and array.dtype.kind in 'i':
      array[rng.randrange(count)] = rng.choice((-1, 2**31 - 1, 100))
  else:
    shape = (count, 4, 3, *rng.choice(((), (), (1,), (3,), (2,))))
    array = np.frombuffer(rng.randbytes(math.prod(shape)), np.uint8).reshape(shape)
    if rng.random() < 0.4:
      array = (array / 255).astype(rng.choice(('f2', 'f4', 'f8', '>f4', 'g', 'c8', '?', 'O', 'i8')))
      if array.dtype.kind == 'f' and rng.random() < 0.4:
        array[rng.randrange(count)] = rng.choice((math.nan, math.inf, -1, 1.0001, 1e-320))
    if rng.random() < 0.1:
      array = np.asfortranarray(array)
    if rng.random() < 0.05:
      array = np.array([Exploding()] * count, dtype=object)
  buffer = io.BytesIO()
  np.save(buffer, array, allow_pickle=True)
  return buffer.getvalue()


def npz(rng: random.Random) -> bytes:
  """An archive with what a reader looks for, something wrong with it, and strangers beside it."""
  buffer = io.BytesIO()
  count = rng.randrange(1, 5)
  with zipfile.ZipFile(buffer, 'w') as archive, warnings.catch_warnings():
    warnings.simplefilter('ignore')  # of names that occur twice, which is the point
    names = ['x.npy', 'y.npy']
    names += rng.sample(('x_test.npy', 'y_test.npy', '../x.npy', '/x.npy', 'x', 'y/', 'x.npy'), 2)
    names += [rng.choice(WORDS).replace('\0', '0')[:2000] or 'e'] if rng.random() < 0.3 else []
    for name in names if rng.random() < 0.7 else rng.sample(names, rng.randrange(len(names))):
      if rng.random() < 0.35:
        data = npy(rng, (count, 4, 3) if 'x' in name else (count,))
      else:
        data = _array(rng, name, count)
      method = rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED) * 3 + (zipfile.ZIP_BZIP2,))
      if rng.random() < 0.05:
        data += bytes(10**6)
      archive.writestr(zipfile.ZipInfo(name.encode('utf-8', 'replace').decode()), data, method)
    if rng.random() < 0.1:
      archive.comment = rng.randbytes(50)
  data = buffer.getvalue()
  match rng.randrange(6):
    case 0:
      return mangle(rng, data)
    case 1:  # a directory entry whose sizes, method, flags or offset lie
      content, entry = bytearray(data), data.rfind(b'PK\1\2')
      if entry >= 0:
        field, width = rng.choice(((8, 2), (10, 2), (20, 4), (24, 4), (28, 2), (30, 2), (42, 4)))
        number = rng.choice(INTEGERS) % 256**width
        content[entry + field : entry + field + width] = number.to_bytes(width, 'little')
      return bytes(content)
    case 2 if rng.random() < 0.2:
      return pickle.dumps(Exploding())
  return data


# --- PNG -----------------------------------------------------------------------------------------


def _chunk(kind: bytes, data: bytes) -> bytes:
  return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def png(rng: random.Random) -> bytes:
  """A PNG file with chunks changed, repeated, moved or added, their checksums right again."""
  mode = rng.choice(('L',) * 8 + ('RGB',) * 3 + ('P', '1', 'I;16', 'RGBA', 'LA'))
  width, height = rng.choice(((3, 4),) * 6 + ((1, 1), (4, 3), (64, 64)))
  buffer = io.BytesIO()
  info = PngImagePlugin.PngInfo()
  if rng.random() < 0.1:
    info.add_text('Comment', 'hello', zip=True)
  Image.new(mode, (width, height), rng.randrange(2)).save(buffer, 'PNG', pnginfo=info)
  data = buffer.getvalue()
  chunks, place = [], 8
  while place < len(data):
    length = int.from_bytes(data[place : place + 4], 'big')
    chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
    place += 12 + length
  for _ in range(rng.choice((0, 0, 0, 1, 1, 2))):
    i = rng.randrange(len(chunks))
    match rng.randrange(6):
      case 0:
        sizes = [rng.choice((0, 1, 3, 4, 1000, 20000, 2**16, 2**31 - 1, 2**32 - 1)) for _ in '12']
        rest = bytes(rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255)) for _ in range(5))
        chunks[0] = (b'IHDR', struct.pack('>II', *sizes) + rng.choice((chunks[0][1][8:], rest)))
      case 1:
        del chunks[i]
      case 2:
        chunks.insert(i, rng.choice(chunks or [(b'IEND', b'')]))
      case 3:
        chunks[i] = (chunks[i][0], mangle(rng, chunks[i][1]))
      case 4:
        kind = rng.choice((b'tEXt', b'zTXt', b'iTXt', b'iCCP', b'PLTE', b'tRNS', b'acTL', b'fcTL',
                           b'fdAT', b'eXIf', b'gAMA', b'CgBI', b'abcd'))  # fmt: skip
        bomb = b'k\0\0' + zlib.compress(bytes(rng.choice((10, 10**5, 2 * 10**6))), 9)
        chunks.insert(i, (kind, rng.choice((bomb, rng.randbytes(30), bytes(26)))))
      case _:
        rng.shuffle(chunks)
    if not chunks:
      break
  data = data[:8] + b''.join(_chunk(kind, content) for kind, content in chunks)
  return mangle(rng, data) if rng.random() < 0.15 else data


def png_folder(rng: random.Random, folder: pathlib.Path, outside: pathlib.Path) -> None:
  """Fills a folder like <class>/<n>.png; with links, strange names and things that are no files.

  Args:
    rng: what to draw with.
    folder: the folder to fill.
    outside: a PNG file that is no part of it.
  """
  base = folder / rng.choice(('', '', 'train', 'test'))
  sound = io.BytesIO()
  Image.new('L', (3, 4)).save(sound, 'PNG')
  strange = (*WORDS[9:20], '.hidden', '1' * 200, 'a/b', '１', 'train', 'x' * 240)
  for label in range(rng.randrange(1, 4)):
    name = str(label) if rng.random() < 0.8 else _file_name(rng.choice(strange))
    home = base / name
    if rng.random() < 0.05:
      home = home.joinpath(*['d'] * rng.choice((1, 40)))
    home.mkdir(parents=True, exist_ok=True)
    for n in range(rng.choice((0, 1, 1, 2, 3))):
      stem = str(n) if rng.random() < 0.85 else _file_name(rng.choice(strange))
      path = home / (stem + rng.choice(('.png',) * 8 + ('.PNG', '.jpg', '')))
      if os.path.lexists(path):
        continue
      match rng.randrange(20):
        case 0:
          path.symlink_to(rng.choice((outside, '/etc/passwd', '/dev/zero', path.name, 'nowhere')))
        case 1:
          path.mkdir()
        case 2:
          os.mkfifo(path)
        case 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10:
          path.write_bytes(sound.getvalue())
        case _:
          path.write_bytes(png(rng))
  if rng.random() < 0.1:
    link = folder / rng.choice(('5', 'train', 'test'))
    if not os.path.lexists(link):
      link.symlink_to(rng.choice((outside.parent, '/', '.', '..', 'nowhere')))


def _file_name(text: str) -> str:
  name = text.replace('/', '_').replace('\0', '0')[:120]
  return name if name.strip('.') else 'dots'


# --- JSON and safetensors ------------------------------------------------------------------------


def json_value(rng: random.Random) -> Any:
  """A value of some JSON type, most likely the wrong one."""
  deep: Any = []
  for _ in range(rng.choice((1, 3, 60))):
    deep = rng.choice(([deep], {'a': deep}))
  return rng.choice(
    (*INTEGERS, *WORDS, 0.5, -1.5, 1e308, math.nan, math.inf, None, True, False, [], {}, deep,
     [1] * 100, 'compact', 'report', 'report_conditional')
  )  # fmt: skip


def mangle_json(rng: random.Random, tree: Any) -> Any:
  """A copy in which some values are others, some names gone, some new."""
  tree = copy.deepcopy(tree)
  for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
    node, parents = tree, []
    while isinstance(node, dict | list) and node:
      key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
      parents.append((node, key))
      node = node[key]
      if rng.random() < 0.15:
        break
    if not parents:
      break
    holder, key = parents[-1]
    match rng.randrange(8):
      case 0:
        del holder[key]
      case 1 if isinstance(holder, dict):
        holder[rng.choice(WORDS)] = json_value(rng)
      case _:
        holder[key] = json_value(rng)
  return tree


def json_bytes(rng: random.Random, tree: Any) -> bytes:
  """The tree, mangled, as text that may be no JSON."""
  match rng.randrange(20):
    case 0:
      return mangle(rng, json.dumps(tree).encode())
    case 1:
      deep = (b'[' * 10**5, b'{"a":' * 10**5)
      return rng.choice((b'', b'null', b'[]', *deep, b'\xff\xfe', b'9' * 9999))
  return json.dumps(mangle_json(rng, tree)).encode('utf-8', 'surrogateescape')


def generator(rng: random.Random, valid: bytes) -> bytes:
  """A safetensors file with its header, its record of settings or its bytes changed."""
  length = int.from_bytes(valid[:8], 'little')
  header, body = json.loads(valid[8 : 8 + length]), valid[8 + length :]
  record = json.loads(header['__metadata__']['dpgan_jax'])
  match rng.randrange(6):
    case 0:
      return mangle(rng, valid)
    case 1:
      header = mangle_json(rng, header)
    case 2:  # numbers that cost hours or gigabytes to believe, and a header of megabytes
      record['mechanism']['noise_multiplier'] = rng.choice((0.003, 0.001, 1e-320, 1e300, 4.0))
      record['mechanism']['steps'] = rng.choice((4, 2**31 - 1))
      record['image_shape'] = rng.choice(([8, 8, 1], [4096, 4096, 1], [8, 8, 2**20]))
      record['notes'] = [0] * rng.choice((0, 0, 10**6))
      header['__metadata__']['dpgan_jax'] = json.dumps(record)
    case _:
      header['__metadata__']['dpgan_jax'] = json_bytes(rng, record).decode('utf-8', 'replace')
  text = json.dumps(header).encode('utf-8', 'surrogateescape')
  size = len(text) if rng.random() < 0.95 else rng.choice(INTEGERS) % 2**64
  return struct.pack('<Q', size) + text + (body if rng.random() < 0.9 else mangle(rng, body))


def ledger(rng: random.Random, path: pathlib.Path, seal: Callable[..., tuple[str, str]]) -> None:
  """Adds lines to a ledger, their hashes right, as whoever writes one can; then damages it."""
  content, last = path.read_bytes(), ''
  for line in content.splitlines():
    last = json.loads(line)['hash']
  for _ in range(rng.choice((0, 1, 1, 2, 5))):
    record = {'stage': 'dp_sgd', 'up_to_step': rng.choice((*INTEGERS, 1, 2, 3))}
    if rng.random() < 0.5:
      record[rng.choice(('stage', 'up_to_step', 'x'))] = json_value(rng)
    if rng.random() < 0.1:
      del record[rng.choice(list(record))]
    line, last = seal(record, last)
    content += line.encode()
  path.write_bytes(mangle(rng, content) if rng.random() < 0.3 else content)


# --- command lines -------------------------------------------------------------------------------


def command_line(
  rng: random.Random, folder: pathlib.Path, valid: Sequence[str], names: Sequence[str]
) -> list[str]:
  """Arguments, some of them in flag files of a folder.

  Args:
    rng: what to draw with.
    folder: where flag files are written.
    valid: arguments that make sense.
    names: of all flags.
  """
  arguments = [a for a in valid if rng.random() < 0.9]
  arguments += [_argument(rng, names) for _ in range(rng.choice((0, 1, 1, 2, 5)))]
  rng.shuffle(arguments)
  if rng.random() < 0.3:
    path = folder / 'a.flags'
    lines = [*arguments, rng.choice(('# comment', '// comment', '', '\t'))]
    if rng.random() < 0.3:
      other = rng.choice((path, folder, '/dev/zero', 'nowhere', f'{folder}/./a.flags', '~', ''))
      lines += [f'--flagfile={other}'] * rng.choice((1, 2))
    content = '\n'.join(lines).encode('utf-8', 'surrogateescape')
    path.write_bytes(mangle(rng, content) if rng.random() < 0.3 else content)
    arguments = rng.choice(([f'--flagfile={path}'], ['-flagfile', str(path)]))
  return arguments


def _argument(rng: random.Random, names: Sequence[str]) -> str:
  name = rng.choice(names) if rng.random() < 0.9 else rng.choice(WORDS)
  value = str(rng.choice((*INTEGERS, 0.5, 1e-5, 1e300)))
  if rng.random() < 0.4:
    value = rng.choice(WORDS)
  odd = ('-{}={}', '--{}', '--no{}', '--{}=', '{}={}', '---{}={}', '--')
  return rng.choice(('--{}={}',) * 8 + odd).format(name, value)
