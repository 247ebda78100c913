"""What the two ways to convolve on a CPU cost: `./run.sh python -m
experiments.benchmarks.last_layer` (half a minute; run nothing beside it).

Prints, for convolutions that generators have, the time of 'patches' divided by that of 'shifts'
(`layers.conv2d`): the convolution alone, and its gradient with respect to input and kernel, both
followed by tanh. Given are the median of the ratios within a round, and the middle 80 %.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from dpgan_jax import layers
from experiments.benchmarks import turns

ROUNDS = 15
CONVOLUTIONS = {  # (input [n, height, width, in], kernel [height, width, in, out])
  "the report's last: 32 → 1, upsampled": ((120, 14, 14, 32), (3, 3, 32, 4)),
  'three colours: 32 → 3, upsampled': ((120, 16, 16, 32), (3, 3, 32, 12)),
  'half as many, not upsampled: 64 → 32': ((120, 14, 14, 64), (3, 3, 64, 32)),
  "the report's first: 64 → 32, upsampled": ((120, 7, 7, 64), (3, 3, 64, 128)),
}


def main() -> None:
  print('| convolution | alone: patches ÷ shifts | gradient: patches ÷ shifts | chosen |')
  print('| --- | --- | --- | --- |')
  for title, (image, kernel) in CONVOLUTIONS.items():
    x, k = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate((image, kernel)))
    cells = []
    for wrap in (jax.jit, lambda f: jax.jit(jax.grad(lambda *a: jnp.sum(f(*a)), (0, 1)))):
      calls = {}
      for name in ('patches', 'shifts'):
        conv = functools.partial(layers.conv2d, implementation=name)
        call = wrap(lambda x, k, conv=conv: jnp.tanh(conv(x, k))).lower(x, k).compile()
        calls[name] = lambda call=call, x=x, k=k: len([jax.block_until_ready(call(x, k))])
      times = turns.take(calls, ROUNDS, seconds=0.03)
      cells.append(str(turns.ratio(times['patches'], times['shifts'])))
    chosen = 'shifts' if '_shifts' in str(jax.make_jaxpr(layers.conv2d)(x, k)) else 'patches'
    print(f'| {title} | {" | ".join(cells)} | {chosen} |', flush=True)


if __name__ == '__main__':
  main()
