"""Whole steps of a GAN of `contenders`, as training takes them, private or not; see `protocol`.

A step is `GAN.step` in the compiled loop of `dpgan_jax.loop`: a batch, fakes, D's gradients of both
halves, noise, D's optimizer, and G's step when its turn has come. The data is random; so early in
training G's turn comes as often as the flags say at the start.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from absl import flags

from dpgan_jax import cli
from dpgan_jax.config import TrainConfig
from dpgan_jax.gan import GAN
from dpgan_jax.loop import make_chunk
from experiments.benchmarks import contenders, worker_jax
from experiments.benchmarks.ordinary_gan import make_gan, random_data
from experiments.benchmarks.protocol import Job, Session, serve


def settings(gan: contenders.Gan, batch: int) -> TrainConfig:
  """Those of the flag file, scaled to another batch size where one is asked for.

  Raises:
    InputError: a flag file that cannot be read.
    ValueError: its batch size is not what `contenders` says.
  """
  if 'batch_size' not in flags.FLAGS:
    cli.define_flags(TrainConfig)
    flags.DEFINE_string('run_dir', None, 'Ignored: it stands in the flag files of training.')
  flags.FLAGS.unparse_flags()
  cli.parse(['worker_gan', f'--flagfile={gan.path}', *gan.budget])
  config = cli.config_from_flags(TrainConfig)
  if config.batch_size != gan.batch:
    raise ValueError(f'{gan.flag_file} has batch_size {config.batch_size}, not {gan.batch}')
  scaled: dict[str, int] = {'batch_size': batch}
  for name in ('fake_batch_size', 'g_batch_size'):
    if (size := getattr(config, name)) is not None:
      scaled[name] = max(1, size * batch // gan.batch)
  return config.replace(**scaled)


def build(config: TrainConfig, mode: str) -> tuple[GAN, int]:
  """The GAN of a way of `contenders.WAYS`, and how many real examples a step of it looks at.

  Raises:
    ValueError: there is no such way.
  """
  if mode not in {way.mode for way in contenders.WAYS.values()}:
    raise ValueError(f'unknown mode {mode!r}')
  private = make_gan(config)
  slots = private.mechanism.truncated_batch_size
  if mode == 'private':
    return private, slots
  real = slots if mode == 'ordinary_equal' else config.batch_size
  fixed = {'fake_batch_size': private.fake_batch_size, 'g_batch_size': private.g_batch_size}
  return make_gan(config.replace(batch_size=real, **fixed), ordinary=True), real


class Program(worker_jax.Program):
  """One way of one GAN; the state is donated from call to call."""

  def __init__(self, job: Job):
    self.gan, real = build(settings(contenders.GANS[job.net], job.batch), job.mode)
    self.note = (
      f'{real} real and {self.gan.fake_batch_size} fake for D, {self.gan.g_batch_size} fake for G'
    )
    self._data, self._per_call = random_data(), job.chunk
    self._carry = jax.jit(self.gan.init)(jax.random.key(0))
    self._call = make_chunk(self.gan, job.chunk)

  def _after(self, result: Any) -> Any:
    return result[0]  # without the metrics

  def parameters(self) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path((self._carry.d_params, self._carry.g.params))
    return {jax.tree_util.keystr(path): np.array(leaf) for path, leaf in leaves}


if __name__ == '__main__':
  serve(Session(Program, worker_jax.describe, worker_jax.peak))
