"""Peak memory of training, each way in a fresh process of its own; no time is measured.

    ./run.sh python -m experiments.benchmarks.memory \\
        --flagfile=experiments/study_2020/revisited_eps10.flags \\
        --out=experiments/results/memory.json

Takes a few steps of the GAN that the flags describe on random images of MNIST's number and size, as
training does (n_D, fakes, optimizers and the compiled loop are those of `gan` and `loop`), within
several memory budgets and in bfloat16; then of an ordinary GAN of the same networks, which takes
the gradient of a mean; then D's real half alone, privately and not. What a peak includes: Python,
its libraries, the compiler at work, the data and the state. Minutes for the flags above.

    ./run.sh python -m experiments.benchmarks.memory --estimates \
        --out=experiments/results/memory_estimates.json

compares what `dpgan_jax.memory` tells before compiling with what XLA plans, for the real half of
every discriminator by name; nothing is run.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import optax
from absl import flags

from dpgan_jax import _markdown, _validate, cli, memory, models
from dpgan_jax.config import TrainConfig
from dpgan_jax.gan import GAN, GANState
from dpgan_jax.loop import make_chunk
from experiments.benchmarks import cases
from experiments.benchmarks.ordinary_gan import EXAMPLES, SHAPE, OrdinaryGAN, make_gan, random_data
from experiments.benchmarks.protocol import peak_memory

FLAGS = flags.FLAGS
STEPS = 3  # the first compiles and allocates; in the others nothing may grow
MIB = 2**20

CASES: dict[str, tuple[str, dict[str, Any]]] = {
  'data and state only': ('idle', {}),
  'private GAN': ('gan', {}),
  'private GAN, budget 0.5 GiB': ('gan', {'memory_budget_gib': 0.5}),
  'private GAN, budget 0.125 GiB': ('gan', {'memory_budget_gib': 0.125}),
  'private GAN, bfloat16': ('gan', {'compute_dtype': 'bfloat16'}),
  'ordinary GAN': ('ordinary_gan', {}),
  'private D, real half': ('d', {}),
  'private D, real half, budget 0.5 GiB': ('d', {'memory_budget_gib': 0.5}),
  'ordinary D, real half': ('ordinary_d', {}),
}
RATIOS = (
  ('private ÷ ordinary GAN', 'private GAN', 'ordinary GAN'),
  ('private ÷ ordinary D, real half', 'private D, real half', 'ordinary D, real half'),
)
TARGETS = {'ratio': 1.5, 'gib': 3.0}


def real_half(gan: GAN) -> Any:
  """D's real half alone, `STEPS` times in a compiled loop: gradient, noise, optimizer."""
  mechanism, unused = gan.mechanism, jax.random.key(0)

  def step(state: GANState, images: jax.Array, labels: jax.Array) -> GANState:
    if isinstance(gan, OrdinaryGAN):
      real = gan.real_batch(state, images, labels)
      return gan.take(state, jax.grad(gan.d_loss)(state.d_params, *real))
    batch = mechanism.sampler(state.batch_key, state.step)
    clip = mechanism.clipped_grad(gan._real_loss, microbatch_size=gan.examples_at_once)
    total = clip(state.d_params, images[batch.indices], labels[batch.indices], mask=batch.mask).sum
    updates, opt_state = gan.d_optimizer(unused).update(total, state.d_opt_state, state.d_params)
    params = optax.apply_updates(state.d_params, updates)
    return state._replace(step=state.step + 1, d_params=params, d_opt_state=opt_state)

  @functools.partial(jax.jit, donate_argnums=0)
  def chunk(state: GANState, images: jax.Array, labels: jax.Array) -> tuple[GANState, None]:
    return jax.lax.scan(lambda s, _: (step(s, images, labels), None), state, None, length=STEPS)

  return chunk


def measure(kind: str, config: TrainConfig) -> dict[str, Any]:
  """What one process does: takes the steps, then says what it needed."""
  gan = make_gan(config, ordinary=kind.startswith('ordinary'))
  images, labels = random_data()
  state = jax.jit(gan.init)(jax.random.key(0))
  found: dict[str, Any] = {}
  if kind != 'idle':
    chunk = make_chunk(gan, STEPS) if kind.endswith('gan') else real_half(gan)
    compiled = chunk.lower(state, images, labels).compile()
    state = jax.block_until_ready(compiled(state, images, labels)[0])
    moved = [bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(state.d_params)]
    if not all(moved) or int(state.step) != STEPS:
      raise RuntimeError('the steps that were measured did not do their work')
    found['planned_mib'] = round(compiled.memory_analysis().temp_size_in_bytes / MIB)
    if not isinstance(gan, OrdinaryGAN):
      found['examples_at_once'] = gan.examples_at_once
      found['batch'] = gan.mechanism.truncated_batch_size
  stats = jax.devices()[0].memory_stats() or {}
  if 'peak_bytes_in_use' in stats:
    found['device_peak_mib'] = round(stats['peak_bytes_in_use'] / MIB)
  return {'peak_mib': round(peak_memory() / MIB), **found}


def table(found: dict[str, dict[str, Any]]) -> str:
  """The table, in Markdown."""
  rows = []
  for name, case in found.items():
    at_once = f'{case["examples_at_once"]} of {case["batch"]}' if 'batch' in case else '–'
    planned = case.get('planned_mib')
    shown = '–' if planned is None else f'{planned:,}'
    rows.append([name, at_once, shown, f'{case["peak_mib"]:,}'])
  head = ['', 'examples at once', 'XLA plans, MiB', 'peak of the process, MiB']
  return _markdown.table(head, rows)


def ratios(found: dict[str, dict[str, Any]]) -> dict[str, float]:
  """Peaks of processes, one ÷ the other."""
  return {
    text: round(found[above]['peak_mib'] / found[below]['peak_mib'], 3)
    for text, above, below in RATIOS
    if above in found and below in found
  }


WAYS: dict[str, dict[str, Any]] = {
  'whole': {},
  'whole, vmap': {'clipping_strategy': 'vmap'},
  'whole, bfloat16': {'compute_dtype': 'bfloat16'},
  '64 at once': {'microbatch_size': 64},
}


def estimate(name: str, changes: dict[str, Any]) -> dict[str, Any]:
  """Told before compiling, and planned by XLA: the real half of D's gradient at B = 256."""
  generator = 'report' if name in models.UNCONDITIONAL else 'report_conditional'
  gan = make_gan(
    TrainConfig(
      noise_multiplier=1.0, steps=1000, batch_size=256, generator=generator, discriminator=name,
      **changes,
    )
  )  # fmt: skip
  count = gan.mechanism.truncated_batch_size
  images = jax.ShapeDtypeStruct((count, *SHAPE), jnp.uint8)
  labels = jax.ShapeDtypeStruct((count,), jnp.int32)
  params = jax.eval_shape(gan.init, jax.random.key(0)).d_params
  clip = gan.mechanism.clipped_grad(
    gan._real_loss, strategy=gan._strategy, microbatch_size=gan.config.microbatch_size
  )
  told = memory.working_bytes(clip, params, images, labels) / memory.MARGIN
  compiled = jax.jit(clip).lower(params, images, labels).compile()
  planned = compiled.memory_analysis().temp_size_in_bytes
  return {'told_mib': round(told / MIB, 1), 'planned_mib': round(planned / MIB, 1)}


def estimates() -> None:
  """Prints and writes the comparison of estimates with plans."""
  found = {
    name: {way: estimate(name, changes) for way, changes in WAYS.items()}
    for name in models.DISCRIMINATORS
  }
  shares = [c['planned_mib'] / c['told_mib'] for ways in found.values() for c in ways.values()]
  cell = '{planned_mib} / {told_mib}'.format_map
  rows = [[name, *(cell(ways[way]) for way in WAYS)] for name, ways in found.items()]
  print(_markdown.table(['planned / told, MiB', *WAYS], rows))
  print(f'planned / told: {min(shares):.2f} to {max(shares):.2f}; margin {memory.MARGIN}')
  planned_over_told = [round(min(shares), 3), round(max(shares), 3)]
  cases.write(planned_over_told=planned_over_told, discriminators=found)


def main() -> None:
  if FLAGS.estimates:
    estimates()
    return
  config = cli.config_from_flags(TrainConfig)
  if FLAGS.case is not None:
    kind, changes = CASES[_validate.one_of('case', FLAGS.case, CASES)]
    print(json.dumps(measure(kind, config.replace(**changes))))
    return
  found = {}
  for name in CASES:
    # With nothing compiled before.
    found[name] = cases.in_its_own_process(name, JAX_ENABLE_COMPILATION_CACHE='false')
    cases.say(f'{name}: {found[name]["peak_mib"]:,} MiB')
  print(table(found))
  for text, ratio in ratios(found).items():
    verdict = 'met' if ratio <= TARGETS['ratio'] else 'not met'
    print(f'{text}: {ratio} (wanted: at most {TARGETS["ratio"]}; {verdict})')
  named = ('generator', 'discriminator', 'batch_size', 'fake_batch_size', 'latent_dim')
  cases.write(
    settings={name: getattr(config, name) for name in named},
    data=f'{EXAMPLES:,} random images {list(SHAPE)}', steps=STEPS, cases=found,
    ratios=ratios(found),
  )  # fmt: skip


if __name__ == '__main__':
  flags.DEFINE_bool('estimates', False, 'Compare estimates with plans instead; runs nothing.')
  cases.run(main)
