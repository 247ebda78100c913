"""Features to compare images by: a small fixed classifier, the same in every run and version.

FID and KID depend on the network whose features they compare. This one is part of the package:
`mnist_features_v1.safetensors`, trained once on the public MNIST training images by
`experiments/classifiers/train_features.py`, checked against its SHA-256 whenever it is loaded. Scores on it
compare between runs, settings and machines, and with nothing that was computed on other features
(Inception's above all).

Images of another size are resized to 28×28 (bilinear, antialiased) and colour images greyed, so
scores on those see neither colour nor fine detail. Digits and letters are what it knows best.

>>> extract(np.zeros((2, 8, 8, 3), np.uint8)).shape
(2, 64)
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from dpgan_jax import _validate, judges, layers

NAME = 'mnist_features_v1'
"""Changes whenever the features do; scores of different names do not compare."""
NUM_FEATURES = 64
SIZE = 28
FILE = pathlib.Path(__file__).with_name(f'{NAME}.safetensors')
_SHA256 = 'a7be3789beec2c990e2ff4bb4d73d88c5d84a69a47d9af3cf553e6a1b3c76857'
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as Pillow greys images
_RESIZE_AT_ONCE = 1000


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


def extract(images: np.ndarray) -> np.ndarray:
  """Features float32 [n, 64] of uint8 images [n, h, w, c], c = 1 or 3.

  On the MNIST training images their variance is 1 on average, which gives the FID its unit.

  Raises:
    InputError: other arrays, no image, or a damaged file of weights.
  """
  params, scale = _weights()
  return judges.forward(Network(), params, to_size(images), method='activations') * scale


def to_size(images: np.ndarray) -> np.ndarray:
  """uint8 [n, h, w, c] → [n, 28, 28, 1], the same array where that is what it is already.

  Raises:
    InputError: other arrays, or no image.
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
  if images.shape[1:] == (SIZE, SIZE, 1):
    return images
  parts = []
  for start in range(0, len(images), _RESIZE_AT_ONCE):
    part = images[start : start + _RESIZE_AT_ONCE].astype(np.float32)
    grey = part @ _LUMA[:, np.newaxis] if part.shape[3] == 3 else part
    resized = jax.image.resize(jnp.asarray(grey), (len(grey), SIZE, SIZE, 1), 'bilinear')
    parts.append(np.rint(np.asarray(resized).clip(0, 255)).astype(np.uint8))
  return np.concatenate(parts)


# --- weights -------------------------------------------------------------------------------------


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
