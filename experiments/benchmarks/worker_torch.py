"""PyTorch without privacy, and Opacus in both of its modes; see `protocol`.

Opacus's classes are used directly, with batches of constant size: its data loader is no part of
what is compared.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import opacus
import torch
from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import nn
from torch.nn import functional

from experiments.benchmarks import nets, protocol
from experiments.benchmarks.protocol import Job, Session, cores, measure_peak, serve

DEVICE = torch.device('cuda' if torch.cuda.is_available() else 'cpu')


class Model(nn.Module):
  """A network of `nets`. Flax's names, PyTorch's order of axes."""

  def __init__(self, net: nets.Net):
    super().__init__()
    self.net = net
    for sized in nets.sized_layers(net):
      layer = sized.layer
      if layer.kernel:
        padding = nets.symmetric_padding(layer, sized.inputs[0])
        module = nn.Conv2d(sized.inputs[2], layer.out, layer.kernel, layer.stride, padding)
      else:
        module = nn.Linear(sized.kernel[0], layer.out)
      self.add_module(layer.name, module)

  def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    x = images
    for index, layer in enumerate(self.net.layers):
      x = self._layer(layer, x if layer.kernel else x.flatten(1))
      if index == 0 and self.net.label_layer:
        planes = functional.one_hot(labels, nets.CLASSES).to(x.dtype)[:, :, None, None]
        planes = planes.expand(-1, -1, *images.shape[2:])
        x = torch.cat([x, self._layer(self.net.label_layer, planes)], 1)
    return x if self.net.loss == 'softmax' else x.flatten()

  def _layer(self, layer: nets.Layer, x: torch.Tensor) -> torch.Tensor:
    x = getattr(self, layer.name)(x)
    if layer.activation:
      x = functional.relu(x) if layer.activation == 'relu' else functional.leaky_relu(x, 0.2)
    return functional.max_pool2d(x, 2, 1) if layer.pool else x


def _to_torch(sized: nets.Sized, kernel: np.ndarray) -> np.ndarray:
  if sized.layer.kernel:
    return kernel.transpose(3, 2, 0, 1)
  # A dense layer after a convolution reads channels first here, and last elsewhere.
  shaped = kernel.reshape(*sized.inputs, sized.layer.out)
  return np.moveaxis(shaped, -2, 0).reshape(kernel.shape).T


def _from_torch(sized: nets.Sized, kernel: np.ndarray) -> np.ndarray:
  if sized.layer.kernel:
    return kernel.transpose(2, 3, 1, 0)
  shape = (sized.inputs[-1], *sized.inputs[:-1], sized.layer.out)
  return np.moveaxis(kernel.T.reshape(shape), 0, -2).reshape(sized.kernel)


class Program(protocol.Program):
  """One mode, `nonprivate`, `hooks` or `ghost`, one step at a time."""

  def __init__(self, job: Job):
    torch.manual_seed(0)
    self.job = job
    self.model = Model(job.spec)
    self._load(nets.init_params(job.spec))
    self.model.to(DEVICE)
    images, labels = job.data()
    self.images = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).to(DEVICE)
    self.labels = torch.from_numpy(labels).long().to(DEVICE)
    self.real = torch.ones(job.batch, device=DEVICE)
    self.criterion: Any = (
      nn.CrossEntropyLoss() if job.spec.loss == 'softmax' else nn.BCEWithLogitsLoss()
    )
    self.wrapped: nn.Module = self.model
    self.optimizer: Any = torch.optim.SGD(self.model.parameters(), lr=job.learning_rate)
    privacy = {
      'noise_multiplier': job.noise,
      'max_grad_norm': job.clip,
      'expected_batch_size': job.batch,
    }
    if job.mode == 'hooks':
      self.wrapped = GradSampleModule(self.model)
      self.optimizer = DPOptimizer(self.optimizer, **privacy)
    elif job.mode == 'ghost':
      self.wrapped = GradSampleModuleFastGradientClipping(self.model, max_grad_norm=job.clip)
      self.optimizer = DPOptimizerFastGradientClipping(self.optimizer, **privacy)
      self.criterion = DPLossFastGradientClipping(self.wrapped, self.optimizer, self.criterion)
    elif job.mode != 'nonprivate':
      raise ValueError(f'unknown mode {job.mode!r}')

  def run(self, steps: int) -> int:
    for _ in range(steps):
      self._step()
    if DEVICE.type == 'cuda':
      torch.cuda.synchronize()
    return steps

  def _step(self) -> None:
    if self.job.fixed_batch:
      index = torch.arange(self.job.batch, device=DEVICE)
    else:
      index = torch.randint(self.job.examples, (self.job.batch,), device=DEVICE)
    images, labels = self.images[index], self.labels[index]
    self.optimizer.zero_grad()
    target = labels if self.job.spec.loss == 'softmax' else self.real
    self.criterion(self.wrapped(images, labels), target).backward()
    self.optimizer.step()

  def _load(self, params: dict[str, np.ndarray]) -> None:
    with torch.no_grad():
      for sized in nets.sized_layers(self.job.spec):
        module = getattr(self.model, sized.layer.name)
        kernel = _to_torch(sized, params[f'{sized.layer.name}/kernel'])
        module.weight.copy_(torch.from_numpy(np.ascontiguousarray(kernel)))
        module.bias.copy_(torch.from_numpy(params[f'{sized.layer.name}/bias']))

  def parameters(self) -> dict[str, np.ndarray]:
    found = {}
    for sized in nets.sized_layers(self.job.spec):
      module = getattr(self.model, sized.layer.name)
      weight = module.weight.detach().cpu().numpy()
      found[f'{sized.layer.name}/kernel'] = _from_torch(sized, weight).copy()
      found[f'{sized.layer.name}/bias'] = module.bias.detach().cpu().numpy().copy()
    return found

  @property
  def device_bytes(self) -> int | None:
    return torch.cuda.max_memory_allocated() if DEVICE.type == 'cuda' else None


def _describe() -> dict[str, Any]:
  versions = {'torch': torch.__version__, 'opacus': opacus.__version__, 'numpy': np.__version__}
  return {'versions': versions, 'threads': torch.get_num_threads(), 'device': str(DEVICE)}


def _peak() -> float:
  size = 3072 if DEVICE.type == 'cpu' else 8192
  a = torch.rand(size, size, device=DEVICE)

  def multiply() -> None:
    a @ a
    if DEVICE.type == 'cuda':
      torch.cuda.synchronize()

  return measure_peak(multiply, size)


if __name__ == '__main__':
  warnings.filterwarnings('ignore')
  torch.set_num_threads(cores())
  serve(Session(Program, _describe, _peak))
