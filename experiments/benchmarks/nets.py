"""The networks of the speed benchmark, as data: every worker builds the same one from here.

Needs numpy only, because it is imported into environments that share nothing else. Parameters have
one canonical form, that of Flax and Keras: kernels [height, width, in, out] or [in, out], images
[n, height, width, channels].
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

IMAGE = (28, 28, 1)
CLASSES = 10
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Layer:
  """A convolution (`kernel` > 0) or a dense layer, what follows it included."""

  name: str
  out: int
  kernel: int = 0
  stride: int = 1
  same: bool = True
  activation: str | None = None  # 'relu' or 'leaky_relu' (0.2)
  pool: bool = False  # 2×2 max pooling of stride 1


@dataclasses.dataclass(frozen=True)
class Net:
  """`layers` in order; `label_layer` is a convolution of the label's planes beside the first."""

  name: str
  title: str
  loss: str  # 'softmax' over the classes, or 'bce' of one logit against "real"
  layers: tuple[Layer, ...]
  label_layer: Layer | None = None


def _report_layers(outputs: int) -> tuple[Layer, ...]:
  return (
    Layer('conv1', 16, kernel=8, stride=2, activation='relu', pool=True),
    Layer('conv2', 32, kernel=4, stride=2, same=False, activation='relu', pool=True),
    Layer('dense1', 32, activation='relu'),
    Layer('dense2', outputs),
  )


NETS = {
  net.name: net
  for net in (
    Net('tutorial_cnn', "TF-Privacy tutorial's CNN", 'softmax', _report_layers(CLASSES)),
    Net('report_d', "the report's discriminator", 'bce', _report_layers(1)),
    Net(
      'large_d',
      '1.7 M discriminator ("Private GANs, Revisited")',
      'bce',
      (
        Layer('image', 64, kernel=4, stride=2, activation='leaky_relu'),
        Layer('conv1', 256, kernel=4, stride=2, activation='leaky_relu'),
        Layer('conv2', 512, kernel=3, stride=2, activation='leaky_relu'),
        Layer('conv3', 1, kernel=4, same=False),
      ),
      label_layer=Layer('labels', 64, kernel=4, stride=2, activation='leaky_relu'),
    ),
  )
}


@dataclasses.dataclass(frozen=True)
class Sized:
  """A layer with the shapes it meets: `inputs` before it, `outputs` after it, without batch."""

  layer: Layer
  inputs: Shape
  kernel: Shape
  positions: int
  outputs: Shape
  first: bool  # its input is data: no gradient flows further back


def _size(layer: Layer, inputs: Shape, first: bool) -> Sized:
  if not layer.kernel:
    features = math.prod(inputs)
    return Sized(layer, inputs, (features, layer.out), 1, (layer.out,), first)
  height, width, channels = inputs

  def after(length: int) -> int:
    return math.ceil((length if layer.same else length - layer.kernel + 1) / layer.stride)

  rows, columns = after(height), after(width)
  pooled = (rows - layer.pool, columns - layer.pool, layer.out)
  kernel = (layer.kernel, layer.kernel, channels, layer.out)
  return Sized(layer, inputs, kernel, rows * columns, pooled, first)


def sized_layers(net: Net) -> list[Sized]:
  """All layers in canonical order, the one on the labels last."""
  found, shape = [], IMAGE
  for index, layer in enumerate(net.layers):
    found.append(_size(layer, shape, index == 0))
    shape = found[-1].outputs
    if index == 0 and net.label_layer:
      shape = (*shape[:2], shape[2] + net.label_layer.out)
  if net.label_layer:
    found.append(_size(net.label_layer, (*IMAGE[:2], CLASSES), True))
  return found


def symmetric_padding(layer: Layer, length: int) -> int:
  """What a library that pads both sides alike needs for padding 'same'."""
  if not layer.same:
    return 0
  total = (math.ceil(length / layer.stride) - 1) * layer.stride + layer.kernel - length
  if total % 2:
    raise ValueError(f'{layer.name} would need {total} pixels of padding, which is odd')
  return max(total // 2, 0)


def init_params(net: Net) -> dict[str, np.ndarray]:
  """The weights that all contenders start from, under names such as `conv1/kernel`."""
  rng = np.random.default_rng(0)
  params = {}
  for sized in sized_layers(net):
    scale = 1 / math.sqrt(math.prod(sized.kernel[:-1]))
    name = sized.layer.name
    params[f'{name}/kernel'] = (scale * rng.standard_normal(sized.kernel)).astype(np.float32)
    params[f'{name}/bias'] = (0.05 * rng.standard_normal(sized.layer.out)).astype(np.float32)
  return params


def make_data(examples: int, even: bool = True) -> tuple[np.ndarray, np.ndarray]:
  """Random images and labels. Their values do not matter to the time that a step takes.

  `even=False` scales the images from nothing to a lot, so that gradient norms differ widely and
  some are clipped while others are not.
  """
  rng = np.random.default_rng(1)
  images = rng.random((examples, *IMAGE), np.float32)
  if not even:
    images *= np.linspace(0, 2, examples, dtype=np.float32)[:, None, None, None]
  return images, rng.integers(0, CLASSES, examples).astype(np.int32)


def count_parameters(net: Net) -> int:
  return sum(math.prod(s.kernel) + s.layer.out for s in sized_layers(net))


def flops_per_example(net: Net) -> int:
  """Floating-point operations of a forward and a backward pass: two per multiply-add.

  Convolutions and dense layers only; each takes its products once forwards, once for its kernel's
  gradient and, unless its input is data, once for its input's. This is what training *without*
  privacy must compute: whatever a private step adds counts as time, not as work.
  """
  return sum(
    2 * (2 if s.first else 3) * s.positions * math.prod(s.kernel) for s in sized_layers(net)
  )


def largest_activation(net: Net) -> int:
  """Numbers in the largest output of any layer, for one example."""
  return max(s.positions * s.layer.out for s in sized_layers(net))
