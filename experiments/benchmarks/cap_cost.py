"""What the batch cap costs in ε: `./run.sh python -m experiments.benchmarks.cap_cost` (2 minutes).

Prints ε of 2,000 steps (N = 60,000, σ = 1, δ = 1e-5) without a cap, at the default cap, and at
tighter ones, for several batch sizes.
"""

from __future__ import annotations

import math

import dp_accounting

from dpgan_jax import DPMechanism
from dpgan_jax.accounting import epsilon


def main() -> None:
  print('| B | ε uncut | default cap | ε there | excess | excess at B + 4.5·√B | at B |')
  print('| --- | --- | --- | --- | --- | --- | --- |')
  for batch in (32, 128, 256, 512):
    settings = {
      'num_examples': 60_000, 'batch_size': batch, 'l2_clip_norm': 1.0, 'noise_multiplier': 1.0,
      'steps': 2_000, 'delta': 1e-5,
    }  # fmt: skip
    default = DPMechanism.create(**settings)
    tight = DPMechanism.create(
      **settings, truncated_batch_size=math.ceil(batch + 4.5 * math.sqrt(batch))
    )
    tightest = DPMechanism.create(**settings, truncated_batch_size=batch)
    step = dp_accounting.PoissonSampledDpEvent(
      default.sampling_probability, dp_accounting.GaussianDpEvent(1.0)
    )
    uncut = epsilon(dp_accounting.SelfComposedDpEvent(step, 2_000), delta=1e-5)
    excess = [f'{m.epsilon() / uncut - 1:.3%}' for m in (default, tight, tightest)]
    cap = default.truncated_batch_size
    print(f'| {batch} | {uncut:.4f} | {cap} | {default.epsilon():.4f} | {" | ".join(excess)} |')


if __name__ == '__main__':
  main()
