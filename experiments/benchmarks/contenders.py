"""Who takes part in the speed benchmark, where it runs, and what would not fit into memory."""

from __future__ import annotations

import dataclasses
import pathlib

from experiments.benchmarks import nets


@dataclasses.dataclass(frozen=True)
class Contender:
  """`family` groups the modes of one library, of which targets take the fastest."""

  name: str
  environment: str  # 'jax' (the project's own), 'torch', 'tensorflow', or 'gan' for whole steps
  mode: str
  title: str
  family: str
  private: bool = True
  # What it keeps in memory at once: nothing special, 'gradients' (one of every example), or
  # 'jacobian' (the activations' gradients of every loss with respect to every example).
  holds: str | None = None


CONTENDERS = {
  row[0]: Contender(*row)
  for row in (
    ('ours_nonprivate', 'jax', 'ours_nonprivate_scan', 'dpgan_jax, not private', 'ours_nonprivate',
     False),
    ('ours_ghost', 'jax', 'ours_ghost_scan', 'dpgan_jax, ghost (auto)', 'ours_ghost'),
    ('ours_vmap', 'jax', 'ours_vmap_scan', 'dpgan_jax, vmap', 'ours_vmap', True, 'gradients'),
    ('torch_nonprivate', 'torch', 'nonprivate', 'PyTorch, not private', 'torch_nonprivate', False),
    ('opacus_hooks', 'torch', 'hooks', 'Opacus, hooks', 'opacus', True, 'gradients'),
    ('opacus_ghost', 'torch', 'ghost', 'Opacus, ghost', 'opacus'),
    ('jax_nonprivate_scan', 'jax', 'nonprivate_scan', 'Flax nn.Conv in scan, not private',
     'jax_nonprivate', False),
    ('jax_nonprivate_jit', 'jax', 'nonprivate_jit', 'Flax nn.Conv, jit, not private',
     'jax_nonprivate', False),
    ('jax_privacy_scan', 'jax', 'jax_privacy_scan', 'jax-privacy clipped_grad in scan',
     'jax_privacy', True, 'gradients'),
    ('jax_privacy_jit', 'jax', 'jax_privacy_jit', 'jax-privacy clipped_grad, jit', 'jax_privacy',
     True, 'gradients'),
    ('optax_scan', 'jax', 'optax_scan', 'optax.contrib in scan', 'optax', True, 'gradients'),
    ('optax_jit', 'jax', 'optax_jit', 'optax.contrib, jit', 'optax', True, 'gradients'),
    ('tf_nonprivate', 'tensorflow', 'nonprivate', 'TensorFlow, not private', 'tf_nonprivate',
     False),
    ('tfp_tape', 'tensorflow', 'tape', 'TF-Privacy, losses under a tape', 'tfp_tape', True,
     'jacobian'),
    ('tfp_vectorized', 'tensorflow', 'vectorized', 'TF-Privacy, vectorized', 'tfp_vectorized', True,
     'jacobian'),
    ('tfp_fast', 'tensorflow', 'fast', 'TF-Privacy DPModel (XLA)', 'tfp_fast', True, 'gradients'),
    ('tfp_fast_no_xla', 'tensorflow', 'fast_no_xla', 'TF-Privacy DPModel (no XLA)', 'tfp_fast',
     True, 'gradients'),
  )
}  # fmt: skip

# Three ways to take a whole step of a GAN. `ordinary_equal` draws as many real examples as the
# private batch has slots: what is left of the ratio is the price of clipping and noise, without
# that of a batch whose size varies.
WAYS = {
  row[0]: Contender(*row)
  for row in (
    ('gan_private', 'gan', 'private', 'private', 'gan_private'),
    ('gan_ordinary', 'gan', 'ordinary', 'not private', 'gan_ordinary', False),
    ('gan_ordinary_equal', 'gan', 'ordinary_equal',
     'not private, as many real examples as the private batch has slots', 'gan_ordinary_equal',
     False),
  )
}  # fmt: skip
ALL: dict[str, Contender] = {**CONTENDERS, **WAYS}


@dataclasses.dataclass(frozen=True)
class Gan:
  """A GAN whose whole step is timed: settings in a flag file of `experiments/`."""

  name: str
  title: str
  flag_file: str
  batch: int  # real examples expected in a batch: what the flag file says
  chunk: int  # steps in one compiled loop, as many as make a turn of about a second
  # A flag for files without a budget; how much noise there is makes no difference to time.
  budget: tuple[str, ...] = ()

  @property
  def path(self) -> pathlib.Path:
    return pathlib.Path(__file__).resolve().parents[1] / self.flag_file


GANS = {
  row[0]: Gan(*row)
  for row in (
    ('gan_report', "the report's networks, as trained on MNIST", 'mnist.flags', 240, 10,
     ('--target_epsilon=1',)),
    ('gan_revisited', '1.7 M discriminator ("Private GANs, Revisited")',
     'study_2020/revisited_eps10.flags', 512, 2),
  )
}  # fmt: skip


def select(names: list[str]) -> list[Contender]:
  """The contenders of these names; a name may also be a family or an environment.

  Raises:
    ValueError: a name that fits nothing.
  """
  chosen: dict[str, Contender] = {}
  for name in names:
    found = [c for c in CONTENDERS.values() if name in (c.name, c.family, c.environment)]
    if not found:
      raise ValueError(f'unknown contender {name!r}; expected some of {", ".join(CONTENDERS)}')
    chosen |= {c.name: c for c in found}
  return list(chosen.values())


def too_large(contender: Contender, net: nets.Net, batch: int, limit: float) -> str | None:
  """Why a combination is not tried on a machine with `limit` bytes for it, or None.

  What a step holds at once, roughly: three copies of all per-example gradients (made, clipped, an
  intermediate), or twelve of the largest activation's gradient for every pair of a loss and an
  example (8 were measured for the tutorial's CNN, more for the large discriminator).
  """
  needed, what = {
    None: (0, ''),
    'gradients': (3 * 4 * batch * nets.count_parameters(net), 'per-example gradients'),
    'jacobian': (12 * 4 * batch**2 * nets.largest_activation(net), 'the Jacobian'),
  }[contender.holds]
  if needed <= limit:
    return None
  return f'skipped: {what} would take about {needed / 2**30:.0f} GiB'
