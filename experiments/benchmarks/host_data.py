"""Training on more records than a device holds: what drawing and reading their batches take.

    ./run.sh python -m experiments.benchmarks.host_data --out=experiments/results/host_data.json

Writes images of noise to a file (8 GB for 10 million records of 784 bytes; it is removed in the
end), maps it into memory, and takes steps of a small GAN on it with `--data_on=host`. CPU seconds
are of all threads of the process; what it holds in memory is without pages of the file.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
import time
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.gan import GAN
from dpgan_jax.privacy import sampling
from dpgan_jax.run.host.feed import Feed
from dpgan_jax.run.stages import make_chunk
from experiments import pages
from experiments.benchmarks import machine, ordinary_gan
from experiments.benchmarks.protocol import from_proc

SHAPE = (28, 28, 1)
_ROWS_AT_ONCE = 100_000


def write_images(path: pathlib.Path, records: int) -> None:
  """A .npy file of so many images; the noise repeats, which nothing here looks at."""
  block = np.random.default_rng(0).integers(0, 256, (_ROWS_AT_ONCE, *SHAPE), np.uint8)
  file = np.lib.format.open_memmap(path, 'w+', np.uint8, (records, *SHAPE))
  for first in range(0, records, _ROWS_AT_ONCE):
    file[first : first + _ROWS_AT_ONCE] = block[: records - first]
  file.flush()


def measure(folder: pathlib.Path, records: int, batch: int, steps: int) -> dict[str, Any]:
  """CPU and wall-clock seconds a step of drawing, also by a number for each record, of reading, and
  of all of it.
  """
  path = folder / 'x.npy'
  write_images(path, records)
  images = np.load(path, mmap_mode='r')
  labels = (np.arange(records) % 10).astype(np.int32)
  config = TrainConfig(
    noise_multiplier=1.0, steps=100 * steps, batch_size=batch, d_steps_per_g_step=1, delta=1e-8,
    generator='report', discriminator='dense', dataset='npz',
  )  # fmt: skip
  gan: Any = ordinary_gan.make_gan(config, data=ordinary_gan.spec(records, SHAPE))
  assert isinstance(gan, GAN)
  feed = Feed((images, labels), gan.mechanism.sampler, gan.mechanism.steps)
  state = jax.jit(gan.init)(jax.random.key(0))
  found: dict[str, Any] = {
    'records': records, 'bytes': images.nbytes, 'batch_size': batch,
    'cap': gan.mechanism.truncated_batch_size, 'steps': steps,
  }  # fmt: skip

  def timed(name: str, work: Any) -> Any:
    wall, cpu = time.perf_counter(), time.process_time()
    result = jax.block_until_ready(work())
    found[name] = {'cpu_seconds_a_step': (time.process_time() - cpu) / steps,
                   'seconds_a_step': (time.perf_counter() - wall) / steps}  # fmt: skip
    return result

  key = jax.jit(jnp.copy)(state.batch_key)
  jax.block_until_ready(feed._draw(key, 0, steps))  # compiled
  drawn = timed('drawing', lambda: feed._draw(key, 0, steps))
  with mock.patch.object(sampling, '_MANY', 2**31):  # as if there were few
    # A function of its own: that of the feed has been traced.
    numbers = jax.jit(lambda key: gan.mechanism.sampler.ahead(key, jnp.int32(0), steps))
    jax.block_until_ready(numbers(key))
    timed('drawing_numbers', lambda: numbers(key))
  timed('reading', lambda: feed._read(drawn))
  chunk = make_chunk(gan, steps)
  state, _ = jax.block_until_ready(feed.run(state, steps, lambda _: chunk))
  timed('all', lambda: feed.run(state, steps, lambda _: chunk))
  own = from_proc('self/status', 'RssAnon') or '0'  # without pages of files
  found['own_bytes'] = int(own.split()[0]) * 1024
  return found


def main() -> None:
  parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
  parser.add_argument('--records', type=int, nargs='*', default=[60_000, 1_000_000, 10_000_000])
  parser.add_argument('--batch_size', type=int, default=256)
  parser.add_argument('--steps', type=int, default=10)
  parser.add_argument('--out', type=pathlib.Path)
  options = parser.parse_args()
  rows = []
  for records in options.records:
    with tempfile.TemporaryDirectory() as folder:
      rows.append(measure(pathlib.Path(folder), records, options.batch_size, options.steps))
    print(rows[-1], flush=True)
  if options.out:
    command = './run.sh python -m experiments.benchmarks.host_data --out=FILE'
    pages.write_json(options.out, {
      'command': command, **machine.describe(), 'load': machine.load(), 'jax': jax.__version__,
      'rows': rows,
    })  # fmt: skip


if __name__ == '__main__':
  main()
