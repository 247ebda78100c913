"""Features to compare images by: fixed ones, the same in every run and version, chosen in public.

Of two kinds, between which the public description of the data chooses (`choose`):

* `mnist_features_v1`: what a small classifier of MNIST digits says. For handwritten digits in
  MNIST's format only, known by name: of all other images it knows nothing. It is a file of this
  package, trained once on the public MNIST training images by
  `experiments/classifiers/train_features.py` and checked against its SHA-256 whenever it is loaded.
* `scattering_features_v1`: fixed wavelets (`networks.scattering`) of luminance and colours, for all
  other images. Every number in it is a public constant; nothing was trained and no data are read.

Scores on one kind compare between runs, settings and machines, and with nothing that was computed
on another (Inception's above all).

>>> extract(np.zeros((2, 9, 12, 3), np.uint8), SCATTERING).shape
(2, 64)
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import math
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from dpgan_jax import _validate
from dpgan_jax.data.spec import Spec
from dpgan_jax.models import fitting
from dpgan_jax.networks import layers, scattering

MNIST, SCATTERING = 'mnist_features_v1', 'scattering_features_v1'
"""A name changes whenever its features do; scores of different names do not compare."""
NUM_FEATURES = 64
SIZE = 28
FILE = pathlib.Path(__file__).with_name(f'{MNIST}.safetensors')
_SHA256 = 'a7be3789beec2c990e2ff4bb4d73d88c5d84a69a47d9af3cf553e6a1b3c76857'
_DIGITS = ('mnist', 'emnist_digits')
# ITU-R BT.601, full range, as JPEG has it: luminance and two differences of colours.
_YCBCR = np.array(
  [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32
)
_SMALLEST, _LARGEST = 8, 64  # sides of images that wavelets are taken of as they are
_ANGLES = 4
_AT_ONCE = 1000


def choose(spec: Spec) -> str:
  """The features for images like these: `MNIST` for digits in its format, else `SCATTERING`.

  Args:
    spec: public; its name and its shape decide. Digits in files of one's own (`idx`, `npz`, `png`)
      have no name that says what they are, and get `SCATTERING`.
  """
  return MNIST if spec.name in _DIGITS and spec.shape == (SIZE, SIZE, 1) else SCATTERING


def off_ground(name: str, shape: tuple[int, ...]) -> str | None:
  """Why features say less than usual of images of this shape (H, W, C); None where they do not.

  Args:
    name: `MNIST`, `SCATTERING` or 'inception'.
    shape: of one image.
  """
  height, width = shape[:2]
  if name == 'inception':
    return f'trained on colour photographs of 299×299 pixels, given {height}×{width}'
  if name == MNIST:
    return None  # `choose` takes them for digits of their size only
  if min(height, width) < _SMALLEST:
    return f'images enlarged to {_SMALLEST} pixels a side, which wavelets need'
  if max(height, width) > _LARGEST:
    return f'images reduced to {_LARGEST} pixels a side: finer detail is not seen'
  return None


def extract(images: np.ndarray, name: str) -> np.ndarray:
  """Features float32 [n, 64] of uint8 images [n, h, w, c], c = 1 or 3.

  Args:
    images: any number of them, at least one; features of an image depend on it alone.
    name: `MNIST`: 28×28×1. On MNIST's training images their variance is 1 on average, which gives
      the FID its unit. `SCATTERING`: of any size.

  Raises:
    InputError: other arrays, no image, or a damaged file of weights.
  """
  images = np.asarray(images)
  if (
    images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3)
    or 0 in images.shape
  ):  # fmt: skip
    raise _validate.InputError(
      f'expected at least one image, uint8 [N, H, W, C] with C = 1 or 3, got {images.dtype} '
      f'{images.shape}'
    )
  if name == SCATTERING:
    return _scattered(images)
  if images.shape[1:] != (SIZE, SIZE, 1):
    raise _validate.InputError(
      f'expected images of {SIZE}×{SIZE}×1 for {name}, got {images.shape[1:]}'
    )
  params, scale = _weights()
  return fitting.forward(Network(), params, images, method='activations') * scale


# --- wavelets ------------------------------------------------------------------------------------


def _scattered(images: np.ndarray) -> np.ndarray:
  """Scattering coefficients in public units, projected on 64 public directions.

  Luminance has orders 0 to 2, each of the two colour planes 0 and 1; coefficients are divided by
  what bars of all directions give (`Scattering.usual`), and each order of each plane has the same
  weight, however many channels it has. The directions are of random signs, which keep distances
  (Achlioptas 2003, Database-friendly random projections): 64 numbers need few images for an FID.
  """
  planes = _planes(_resized(images))
  height, width, count = planes.shape[1:]
  most = 2 + (min(height, width) >= 32) + (min(height, width) >= 64)
  scales = scattering.most_scales(height, width, at_most=most)
  total, seen = np.zeros((len(images), NUM_FEATURES), np.float32), 0
  for order, chosen in ((2, slice(0, 1)), (1, slice(1, count))):
    part = np.ascontiguousarray(planes[..., chosen])
    if not part.shape[3]:
      continue
    transform = scattering.Scattering(height, width, scales, _ANGLES, order)
    orders = np.array([len(path) for path in transform.paths])
    units = transform.usual * np.sqrt(np.bincount(orders)[orders] * NUM_FEATURES)
    found = scattering.of_images(transform, part)
    found /= np.tile(units, part.shape[3]) * math.sqrt(found.shape[1] * found.shape[2])
    found = found.reshape(len(found), -1)
    total += found @ _signs(seen, found.shape[1])
    seen += found.shape[1]
  return total


def _signs(first: int, count: int) -> np.ndarray:
  """Rows `first` to `first + count` of a fixed endless matrix of ±1, float32 [count, 64]."""
  size = NUM_FEATURES // 8
  stream = hashlib.shake_256(SCATTERING.encode()).digest((first + count) * size)[first * size :]
  bits = np.unpackbits(np.frombuffer(stream, np.uint8)).reshape(count, NUM_FEATURES)
  return bits.astype(np.float32) * 2 - 1


def _planes(images: np.ndarray) -> np.ndarray:
  """Luminance, and of colour images the two differences: uint8 [n, h, w, 1 or 3]."""
  if images.shape[3] == 1:
    return images
  planes = np.empty(images.shape, np.uint8)
  for start in range(0, len(images), _AT_ONCE):
    part = images[start : start + _AT_ONCE].astype(np.float32) @ _YCBCR.T
    part += np.array([0, 128, 128], np.float32)
    planes[start : start + _AT_ONCE] = np.rint(part).clip(0, 255)
  return planes


def _resized(images: np.ndarray) -> np.ndarray:
  """Images with all sides in [8, 64], the same array where they are: others are resized."""
  sides = tuple(min(max(side, _SMALLEST), _LARGEST) for side in images.shape[1:3])
  if sides == images.shape[1:3]:
    return images
  parts = []
  for start in range(0, len(images), _AT_ONCE):
    part = jnp.asarray(images[start : start + _AT_ONCE], jnp.float32)
    part = jax.image.resize(part, (len(part), *sides, images.shape[3]), 'bilinear')
    parts.append(np.rint(np.asarray(part).clip(0, 255)).astype(np.uint8))
  return np.concatenate(parts)


# --- digits --------------------------------------------------------------------------------------


class Network(nn.Module):
  """Two 3×3 convolutions and two dense layers; the features are what the first dense layer says."""

  outputs: int = 10

  def setup(self) -> None:
    self.conv1, self.conv2 = layers.Conv(16, (3, 3)), layers.Conv(32, (3, 3))
    self.hidden, self.output = nn.Dense(NUM_FEATURES), nn.Dense(self.outputs)
    self.dropout = nn.Dropout(0.25)

  def activations(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """[n, 28, 28, 1] in [-1, 1] → [n, 64], ≥ 0."""
    for conv in (self.conv1, self.conv2):
      x = layers.max_pool(nn.relu(conv(x)), 2, 2)
    x = self.dropout(x.reshape(len(x), -1), deterministic=not train)
    return nn.relu(self.hidden(x))

  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    return self.output(self.dropout(self.activations(x, train=train), deterministic=not train))


@functools.cache
def _weights() -> tuple[Any, float]:
  """The parameters and the factor that the activations are multiplied by."""
  return load(FILE, _SHA256)


def load(path: pathlib.Path, sha256: str) -> tuple[Any, float]:
  """Reads weights that `save` wrote.

  Raises:
    InputError: no such file, or another one than the checksum was taken of.
  """
  try:
    raw = path.read_bytes()
  except FileNotFoundError:
    raise _validate.InputError(f'{path.name} is missing; install dpgan_jax again') from None
  if (found := hashlib.sha256(raw).hexdigest()) != sha256:
    raise _validate.InputError(
      f'{path.name} is damaged or of another version (SHA-256 {found[:12]}…, expected '
      f'{sha256[:12]}…); install dpgan_jax again'
    )
  tensors = safetensors.numpy.load(raw)
  scale = float(tensors.pop('scale')[0])
  tree: dict[str, dict[str, jax.Array]] = {}
  for name, array in tensors.items():
    layer, leaf = name.split('/')
    tree.setdefault(layer, {})[leaf] = jnp.asarray(array, jnp.float32)
  return {'params': tree}, scale


def save(params: Any, scale: float) -> bytes:
  """The bytes of a file of weights: half precision, which halves the file and costs no accuracy."""
  tensors = {
    f'{layer}/{leaf}': np.asarray(array, np.float16)
    for layer, leaves in params['params'].items()
    for leaf, array in leaves.items()
  }
  return safetensors.numpy.save({**tensors, 'scale': np.float32(scale).reshape(1)})


# --- Inception -----------------------------------------------------------------------------------


INCEPTION_WEIGHTS = 'weights-inception-2015-12-05-6726825d.pth'
"""What torch-fidelity downloads once; before that it looks into PyTorch's cache."""


def require_inception() -> None:
  """Raises an InputError that says how to get torch-fidelity, unless it is there."""
  if importlib.util.find_spec('torch_fidelity') is None:
    raise _validate.InputError(
      'Inception-FID needs the package torch-fidelity, which is not installed: '
      'pip install torch-fidelity'
    )


def inception_fid(real: np.ndarray, fake: np.ndarray) -> float:
  """FID on the features of Inception-v3, by torch-fidelity (which downloads its weights once).

  Args:
    real, fake: uint8 [n, h, w, c]; grey images are repeated in three channels.

  Raises:
    InputError: torch-fidelity is not installed, or cannot get its weights.
  """
  require_inception()
  fidelity, torch = (importlib.import_module(name) for name in ('torch_fidelity', 'torch'))

  class Images(torch.utils.data.Dataset):
    def __init__(self, images: np.ndarray):
      rgb = np.broadcast_to(images, (*images.shape[:3], 3)).transpose(0, 3, 1, 2)
      self.images = torch.from_numpy(np.ascontiguousarray(rgb))

    def __len__(self) -> int:
      return len(self.images)

    def __getitem__(self, index: int) -> Any:
      return self.images[index]

  try:
    scores = fidelity.calculate_metrics(
      input1=Images(fake), input2=Images(real), fid=True, verbose=False, save_cpu_ram=True,
      cuda=bool(torch.cuda.is_available()),
    )  # fmt: skip
  except OSError as error:  # urllib's, where there is no network
    raise _validate.InputError(
      'Inception-FID needs the weights of Inception-v3, which torch-fidelity could not download '
      f'({" ".join(str(error).split())}): run once with a network, or put the file '
      f'{INCEPTION_WEIGHTS} into the folder hub/checkpoints of TORCH_HOME'
    ) from None
  return float(scores['frechet_inception_distance'])
