"""Layers whose arithmetic suits the backend; parameters and results are those of Flax's own layers.

On XLA:CPU a convolution inside a compiled loop is several times slower than the same sums written
as products of matrices, and compiles far longer. `Conv` therefore has several implementations
behind one set of parameters (`kernel` [h, w, in, out] and `bias` [out], as `flax.linen.Conv`),
chosen when it is traced.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dpgan_jax import _validate

Padding = Literal['SAME', 'VALID']

ImageShape = tuple[int, ...]
"""(H, W, C)."""


def patches(x: jax.Array, window: tuple[int, int], stride: int, padding: Padding) -> jax.Array:
  """All windows of an image: [n, h, w, c] → [n, h', w', window·c], ordered as a conv kernel."""
  pads = ((0, 0), (0, 0))
  if padding == 'SAME':
    low_high = jax.lax.padtype_to_pads(x.shape[1:3], window, (stride, stride), 'SAME')
    pads = (tuple(low_high[0]), tuple(low_high[1]))
  return _patches(x, window, stride, pads)


Pads = tuple[tuple[int, int], ...]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _patches(x: jax.Array, window: tuple[int, int], stride: int, pads: Pads) -> jax.Array:
  """Copies whole rows of windows: a row of a window is one contiguous piece of a row of the image.

  Cut out tap by tap instead, the pieces are single pixels, and XLA:CPU takes two to three times as
  long. The gradient is written by hand for the same reason.
  """
  height, width = window
  x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
  n, rows, columns, channels = x.shape
  out_rows, out_columns = (rows - height) // stride + 1, (columns - width) // stride + 1
  flat = x.reshape(n, rows, columns * channels)
  starts = [j * stride * channels for j in range(out_columns)]
  x = jnp.stack([flat[:, :, i : i + width * channels] for i in starts], axis=2)
  last = (out_rows - 1) * stride + 1
  return jnp.concatenate([x[:, i : i + last : stride] for i in range(height)], axis=-1)


def _patches_forward(
  x: jax.Array, window: tuple[int, int], stride: int, pads: Pads
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  return _patches(x, window, stride, pads), (x[:0],)  # only its shape matters, beside the count


def _patches_backward(
  window: tuple[int, int], stride: int, pads: Pads, residual: tuple[jax.Array, ...], g: jax.Array
) -> tuple[jax.Array]:
  """Adds every patch back where it came from: taps a stride apart overlap, those between do not."""
  rows, columns, channels = residual[0].shape[1:]
  n, out_rows, out_columns, _ = g.shape
  reach = [-(-size // stride) for size in window]  # a window in strides, rounded up
  g = g.reshape(n, out_rows, out_columns, *window, channels)
  extra = [(0, r * stride - size) for r, size in zip(reach, window, strict=True)]
  g = jnp.pad(g, ((0, 0), (0, 0), (0, 0), *extra, (0, 0)))
  g = g.reshape(n, out_rows, out_columns, reach[0], stride, reach[1], stride, channels)
  blocks = sum(
    jnp.pad(
      g[:, :, :, i, :, j],
      ((0, 0), (i, reach[0] - 1 - i), (j, reach[1] - 1 - j), (0, 0), (0, 0), (0, 0)),
    )
    for i in range(reach[0])
    for j in range(reach[1])
  )
  image = jnp.asarray(blocks).transpose(0, 1, 3, 2, 4, 5)
  image = image.reshape(n, image.shape[1] * stride, image.shape[3] * stride, channels)
  # Pixels that no window reaches get nothing; those of the padding are cut off.
  (top, _), (left, _) = pads
  missing = [max(0, top + rows - image.shape[1]), max(0, left + columns - image.shape[2])]
  image = jnp.pad(image, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)))
  return (image[:, top : top + rows, left : left + columns],)


_patches.defvjp(_patches_forward, _patches_backward)


def conv2d(
  x: jax.Array,
  kernel: jax.Array,
  *,
  stride: int = 1,
  padding: Padding = 'SAME',
  implementation: Literal['patches', 'shifts', 'lax'] | None = None,
) -> jax.Array:
  """2-D convolution (cross-correlation), NHWC × HWIO → NHWC.

  'patches' copies every window out and multiplies once; 'shifts' (stride 1, padding SAME)
  multiplies every pixel by every tap and adds up shifted results. The first moves window · in
  numbers per pixel, the second window · out: the last layer of a generator, with one or three
  channels to go to, is several times as fast by the second (experiments/benchmarks/last_layer.py).

  Args:
    x: [n, height, width, in].
    kernel: [kernel height, kernel width, in, out].
    stride: the same in both directions.
    padding: as XLA understands it.
    implementation: None chooses 'patches' or 'shifts' on a CPU and 'lax' elsewhere.

  Raises:
    InputError: 'shifts' was asked for with another stride or padding.
  """
  can_shift = stride == 1 and padding == 'SAME'
  if implementation is None and jax.default_backend() == 'cpu':
    few = 2 * kernel.shape[3] <= kernel.shape[2]
    implementation = 'shifts' if can_shift and few else 'patches'
  if implementation == 'shifts':
    if not can_shift:
      raise _validate.InputError(
        f"'shifts' is for stride 1 and padding SAME, got {stride} and {padding}"
      )
    return _shifts(x, kernel)
  if implementation in ('lax', None):
    return jax.lax.conv_general_dilated(
      x, kernel, (stride, stride), padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
  window = (kernel.shape[0], kernel.shape[1])
  return patches(x, window, stride, padding) @ kernel.reshape(-1, kernel.shape[-1])


def _same_pads(x: jax.Array, kernel: jax.Array) -> Pads:
  pads = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], (1, 1), 'SAME')
  return tuple((low, high) for low, high in pads)


@jax.custom_vjp
def _shifts(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """A convolution of stride 1 and padding SAME as one product per pixel and tap, then sums.

  The gradient is written by hand, from windows of the output's: of the sums' own, XLA:CPU makes
  loops that add up the same taps again for every use.
  """
  n, rows, columns, _ = x.shape
  height, width, channels, features = kernel.shape
  vertical, horizontal = _same_pads(x, kernel)
  taps = x @ kernel.transpose(2, 0, 1, 3).reshape(channels, -1)
  taps = taps.reshape(n, rows, columns, height, width * features)
  taps = jnp.pad(taps, ((0, 0), vertical, (0, 0), (0, 0), (0, 0)))
  by_row = functools.reduce(jnp.add, [taps[:, i : i + rows, :, i] for i in range(height)])
  by_row = by_row.reshape(n, rows, columns, width, features)
  by_row = jnp.pad(by_row, ((0, 0), (0, 0), horizontal, (0, 0), (0, 0)))
  return functools.reduce(jnp.add, [by_row[:, :, j : j + columns, j] for j in range(width)])


def _shifts_forward(
  x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  return _shifts(x, kernel), (x, kernel)


def _shifts_backward(
  residual: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
  x, kernel = residual
  height, width, channels, features = kernel.shape
  (top, bottom), (left, right) = _same_pads(x, kernel)
  windows: Any = _patches(g, (height, width), 1, ((bottom, top), (right, left)))
  flipped = kernel[::-1, ::-1].transpose(0, 1, 3, 2).reshape(-1, channels)
  d_kernel = jnp.einsum('nijc,nijp->cp', x, windows).reshape(channels, height, width, features)
  return windows @ flipped, d_kernel.transpose(1, 2, 0, 3)[::-1, ::-1]


_shifts.defvjp(_shifts_forward, _shifts_backward)


class Conv(nn.Module):
  """A convolution that is fast on the backend at hand; a stand-in for `flax.linen.Conv`."""

  features: int
  kernel_size: tuple[int, int]
  stride: int = 1
  padding: Padding = 'SAME'
  use_bias: bool = True
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (*self.kernel_size, x.shape[-1], self.features)
    kernel = self.param('kernel', self.kernel_init, shape, jnp.float32)
    y = conv2d(x, kernel.astype(x.dtype), stride=self.stride, padding=self.padding)
    if self.use_bias:
      bias = self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32)
      y = y + bias.astype(x.dtype).reshape((1,) * (y.ndim - 1) + (-1,))
    return y


def max_pool(x: jax.Array, window: int, stride: int) -> jax.Array:
  """Max pooling without padding, NHWC, as a maximum of shifted rows and then of shifted columns.

  XLA:CPU's own gradient of a max pool (select-and-scatter) is many times slower than this one's.
  Where several entries of a window are largest, they share the gradient.
  """
  for axis in (1, 2):
    last = (x.shape[axis] - window) // stride * stride + 1
    shifted = [jax.lax.slice_in_dim(x, i, i + last, stride, axis) for i in range(window)]
    x = functools.reduce(jnp.maximum, shifted)
  return x


def _fold_matrix(size: int) -> np.ndarray:
  """[phase, coarse offset, tap]: which coarse pixel a tap of a kernel reads after upsampling by
  two.

  Output pixel 2i + a reads fine pixels 2i + a + d, which are copies of coarse pixel i + ⌊(a +
  d)/2⌋.
  """
  half = size // 2
  reach = (half + 1) // 2
  fold = np.zeros((2, 2 * reach + 1, size), np.float32)
  for phase in range(2):
    for tap in range(size):
      fold[phase, (phase + tap - half) // 2 + reach, tap] = 1.0
  return fold


def upsample_conv2d(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """`conv2d` of x with every pixel doubled, for an odd square kernel, without that large image.

  The taps that would read copies of the same pixel are added up first, which leaves four small
  kernels, one for each pixel of a 2×2 block. A 5×5 convolution then takes 9 instead of 25 products
  per output pixel, and a quarter of the positions need patches.

  Raises:
    InputError: the kernel is not square or not odd, where another padding would apply.
  """
  if kernel.shape[0] != kernel.shape[1] or kernel.shape[0] % 2 == 0:
    raise _validate.InputError(f'expected an odd square kernel, got {kernel.shape[:2]}')
  fold = _fold_matrix(kernel.shape[0])
  small = jnp.einsum('aud,bve,decf->uvcabf', fold, fold, kernel)
  small = small.reshape(*small.shape[:3], -1)
  return depth_to_space(conv2d(x, small))


class UpsampleConv(nn.Module):
  """Nearest-neighbour upsampling by two, then `Conv` of the same parameters, in one cheaper go."""

  features: int
  kernel_size: int = 5
  use_bias: bool = True

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
    kernel = self.param('kernel', nn.initializers.lecun_normal(), shape, jnp.float32)
    y = upsample_conv2d(x, kernel.astype(x.dtype))
    if self.use_bias:
      bias = self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32)
      y = y + bias.astype(x.dtype).reshape((1,) * (y.ndim - 1) + (-1,))
    return y


def depth_to_space(x: jax.Array, factor: int = 2) -> jax.Array:
  """[n, h, w, factor²·c] → [n, factor·h, factor·w, c] (sub-pixel convolution, Shi et al. 2016)."""
  n, h, w, c = x.shape
  x = x.reshape(n, h, w, factor, factor, c // factor**2)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, h * factor, w * factor, c // factor**2)


def space_to_depth(x: jax.Array) -> jax.Array:
  """[n, h, w, c] → [n, ⌈h/2⌉, ⌈w/2⌉, 4·c]: of odd sizes the last row and column stand twice."""
  x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)), mode='edge')
  n, h, w, c = x.shape
  x = x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(n, h // 2, w // 2, 4 * c)


def one_hot(labels: jax.Array, num_classes: int, dtype: Any) -> jax.Array:
  """In the dtype of what it is used with: a float32 vector beside bfloat16 would widen the rest."""
  return jax.nn.one_hot(labels, num_classes, dtype=dtype)


def kernel_size(size: tuple[int, ...]) -> int:
  """The paper's kernels at stride 2: 3×3 where the larger side of the step is odd, else 4×4."""
  return 3 if all(length % 2 for length in size) else 4


def count_parameters(params: Any) -> int:
  """How many numbers a pytree of parameters (or of their shapes) holds."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def tutorial_features(images: jax.Array) -> jax.Array:
  """Convolutions of the TF-Privacy MNIST tutorial, each with max pooling: [n, H, W, C] → [n, f].

  16 of 8×8 and 32 of 4×4, both stride 2. A part of modules: call it within a compact one.
  """

  def pooled(x: jax.Array) -> jax.Array:
    # Of an image smaller than 7 pixels nothing would be left.
    return max_pool(x, window=2, stride=1) if min(x.shape[1:3]) > 1 else x

  x = pooled(nn.relu(Conv(16, (8, 8), stride=2)(images)))
  # The tutorial's padding; images too small for it keep their border.
  padding = 'VALID' if min(x.shape[1:3]) >= 6 else 'SAME'
  x = pooled(nn.relu(Conv(32, (4, 4), stride=2, padding=padding)(x)))
  return x.reshape(x.shape[0], -1)
