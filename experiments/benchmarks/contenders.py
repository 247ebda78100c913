"""Who takes part in the speed benchmark, where it runs, and what would not fit into memory."""

from __future__ import annotations

import dataclasses

from experiments.benchmarks import nets


@dataclasses.dataclass(frozen=True)
class Contender:
  """`family` groups the modes of one library, of which targets take the fastest."""

  name: str
  environment: str  # 'jax' (the project's own), 'torch' or 'tensorflow'
  mode: str
  title: str
  family: str
  private: bool = True
  # What it keeps in memory at once: nothing special, 'gradients' (one of every example), or
  # 'jacobian' (the activations' gradients of every loss with respect to every example).
  holds: str | None = None


CONTENDERS = {
  c.name: c
  for c in (
    Contender('ours_nonprivate', 'jax', 'ours_nonprivate_scan', 'dpgan_jax, not private',
              'ours_nonprivate', private=False),
    Contender('ours_ghost', 'jax', 'ours_ghost_scan', 'dpgan_jax, ghost (auto)', 'ours_ghost'),
    Contender('ours_vmap', 'jax', 'ours_vmap_scan', 'dpgan_jax, vmap', 'ours_vmap',
              holds='gradients'),
    Contender('torch_nonprivate', 'torch', 'nonprivate', 'PyTorch, not private',
              'torch_nonprivate', private=False),
    Contender('opacus_hooks', 'torch', 'hooks', 'Opacus, hooks', 'opacus', holds='gradients'),
    Contender('opacus_ghost', 'torch', 'ghost', 'Opacus, ghost', 'opacus'),
    Contender('jax_nonprivate_scan', 'jax', 'nonprivate_scan', 'Flax nn.Conv in scan, not private',
              'jax_nonprivate', private=False),
    Contender('jax_nonprivate_jit', 'jax', 'nonprivate_jit', 'Flax nn.Conv, jit, not private',
              'jax_nonprivate', private=False),
    Contender('jax_privacy_scan', 'jax', 'jax_privacy_scan', 'jax-privacy clipped_grad in scan',
              'jax_privacy', holds='gradients'),
    Contender('jax_privacy_jit', 'jax', 'jax_privacy_jit', 'jax-privacy clipped_grad, jit',
              'jax_privacy', holds='gradients'),
    Contender('optax_scan', 'jax', 'optax_scan', 'optax.contrib in scan', 'optax',
              holds='gradients'),
    Contender('optax_jit', 'jax', 'optax_jit', 'optax.contrib, jit', 'optax', holds='gradients'),
    Contender('tf_nonprivate', 'tensorflow', 'nonprivate', 'TensorFlow, not private',
              'tf_nonprivate', private=False),
    Contender('tfp_tape', 'tensorflow', 'tape', 'TF-Privacy, losses under a tape', 'tfp_tape',
              holds='jacobian'),
    Contender('tfp_vectorized', 'tensorflow', 'vectorized', 'TF-Privacy, vectorized',
              'tfp_vectorized', holds='jacobian'),
    Contender('tfp_fast', 'tensorflow', 'fast', 'TF-Privacy DPModel (XLA)', 'tfp_fast',
              holds='gradients'),
    Contender('tfp_fast_no_xla', 'tensorflow', 'fast_no_xla', 'TF-Privacy DPModel (no XLA)',
              'tfp_fast', holds='gradients'),
  )
}  # fmt: skip


def select(names: list[str]) -> list[Contender]:
  """The contenders of these names; a name may also be a family or an environment.

  Raises:
    ValueError: a name that fits nothing.
  """
  chosen = []
  for name in names:
    found = [c for c in CONTENDERS.values() if name in (c.name, c.family, c.environment)]
    if not found:
      raise ValueError(f'unknown contender {name!r}; expected some of {", ".join(CONTENDERS)}')
    chosen += [c for c in found if c not in chosen]
  return chosen


def memory_needed(contender: Contender, net: nets.Net, batch: int) -> int:
  """Roughly what a step holds at once, in bytes; 0 if it is nothing special.

  Three copies of all per-example gradients (made, clipped, an intermediate), or twelve of the
  largest activation's gradient for every pair of a loss and an example (8 were measured for the
  tutorial's CNN, more for the large discriminator).
  """
  if contender.holds == 'gradients':
    return 3 * 4 * batch * nets.count_parameters(net)
  if contender.holds == 'jacobian':
    return 12 * 4 * batch**2 * nets.largest_activation(net)
  return 0


def too_large(contender: Contender, net: nets.Net, batch: int, limit: float) -> str | None:
  """Why a combination is not tried on a machine with `limit` bytes for it, or None."""
  needed = memory_needed(contender, net, batch)
  if needed <= limit:
    return None
  what = 'per-example gradients' if contender.holds == 'gradients' else 'the Jacobian'
  return f'skipped: {what} would take about {needed / 2**30:.0f} GiB'
