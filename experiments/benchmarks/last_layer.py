"""What the two ways to convolve on a CPU cost: `./run.sh python -m
experiments.benchmarks.last_layer` (half a minute; run nothing beside it).

Prints, for convolutions that generators have, the time of 'patches' divided by that of 'shifts'
(`layers.conv2d`): the convolution alone, and its gradient with respect to input and kernel, both
followed by tanh. The two take turns in every round; given are the median ratio and the middle 80 %
of rounds.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpgan_jax import layers

ROUNDS, CALLS = 15, 5
CONVOLUTIONS = {  # (input [n, height, width, in], kernel [height, width, in, out])
  "the report's last: 32 → 1, upsampled": ((120, 14, 14, 32), (3, 3, 32, 4)),
  'three colours: 32 → 3, upsampled': ((120, 16, 16, 32), (3, 3, 32, 12)),
  'half as many, not upsampled: 64 → 32': ((120, 14, 14, 64), (3, 3, 64, 32)),
  "the report's first: 64 → 32, upsampled": ((120, 7, 7, 64), (3, 3, 64, 128)),
}


def seconds(call: Callable[..., Any], *args: jax.Array) -> float:
  start = time.perf_counter()
  for _ in range(CALLS):
    jax.block_until_ready(call(*args))
  return time.perf_counter() - start


def main() -> None:
  print('| convolution | alone: patches ÷ shifts | gradient: patches ÷ shifts | chosen |')
  print('| --- | --- | --- | --- |')
  for title, (image, kernel) in CONVOLUTIONS.items():
    x, k = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate((image, kernel)))
    cells = []
    for wrap in (jax.jit, lambda f: jax.jit(jax.grad(lambda *a: jnp.sum(f(*a)), (0, 1)))):
      ways = []
      for name in ('patches', 'shifts'):
        conv = functools.partial(layers.conv2d, implementation=name)
        ways.append(wrap(lambda x, k, conv=conv: jnp.tanh(conv(x, k))))
        seconds(ways[-1], x, k)  # compiles
      ratios = [seconds(ways[0], x, k) / seconds(ways[1], x, k) for _ in range(ROUNDS)]
      low, middle, high = np.quantile(ratios, [0.1, 0.5, 0.9])
      cells.append(f'{middle:.2f} ({low:.2f}–{high:.2f})')
    chosen = 'shifts' if '_shifts' in str(jax.make_jaxpr(layers.conv2d)(x, k)) else 'patches'
    print(f'| {title} | {" | ".join(cells)} | {chosen} |', flush=True)


if __name__ == '__main__':
  main()
