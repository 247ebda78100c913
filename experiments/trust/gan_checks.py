"""Checks of a GAN's step, of a run, and of the report on it, on the package's own objects.

As in `mechanism_checks`: functions without arguments that pass where the package is correct, and
otherwise raise `Violation`, or the package's own `InputError`. Those that compile a step of a GAN
take some seconds.
"""

from __future__ import annotations

import contextlib
import functools
import math
import pathlib
import re
import tempfile
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from dpgan_jax import _environment
from dpgan_jax.budget.ledger import Ledger
from dpgan_jax.data import datasets
from dpgan_jax.data.spec import Spec
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.gan import GAN, GANState, StepMetrics
from dpgan_jax.publishing import run_statement
from dpgan_jax.run import loop, metrics, plan, stages, trainer
from dpgan_jax.run.directory import RunDir
from experiments.trust import statistical_checks as statistics
from experiments.trust.statistical_checks import Stop, Violation

N, SHAPE, CLASSES = 60, (8, 8, 1), 3
SPEC = Spec(num_records=N, shape=SHAPE, class_names=('a', 'b', 'c'), name='random')
SEED = 987654321


def _make(*, sigma: float = 1.0, clip: float = 1.0, **settings: Any) -> GAN:
  config = TrainConfig(
    noise_multiplier=sigma, steps=40, batch_size=12, l2_clip_norm=clip, delta=1e-3,
    **{'generator': 'compact', 'discriminator': 'compact', 'd_optimizer': 'sgd'} | settings,
  )  # fmt: skip
  return GAN(config, plan.make_budget(config, N).mechanism, SPEC)


@functools.cache
def dataset() -> tuple[jax.Array, jax.Array]:
  """Random images, and classes in shares of 8/10, 1/10 and 1/10."""
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (N, *SHAPE)).astype(np.uint8)
  labels = np.maximum(np.arange(N) % 10 - 7, 0).astype(np.int32)
  return jnp.asarray(images), jnp.asarray(labels)


def _state(gan: GAN) -> GANState:
  return jax.jit(lambda key: gan.init(key))(jax.random.key(3))


def _step(gan: GAN) -> Any:
  # A function made here and now: what was compiled before a fault was planted is not used again.
  return jax.jit(lambda state, images, labels: gan.step(state, images, labels))


def _leaves(tree: Any) -> dict[str, np.ndarray]:
  found = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      leaf = jax.random.key_data(leaf)
    found[jax.tree_util.keystr(path)] = np.asarray(leaf)
  return found


def _differing(one: Any, two: Any) -> list[str]:
  a, b = _leaves(one), _leaves(two)
  return [name for name in a if not np.array_equal(a[name], b[name], equal_nan=True)]


# --- where private data go ------------------------------------------------------------------------


def _two_worlds() -> tuple[list[str], list[str]]:
  """What a step on other data changes while D stands still: leaves of the state, and metrics.

  D's learning rate is so small that its parameters do not move in float32, and G moves after every
  step of D. What differs has looked at the private data past D's update.
  """
  gan = _make(d_learning_rate=1e-30, d_steps_per_g_step=1)
  step, state, (images, labels) = _step(gan), _state(gan), dataset()
  state = state._replace(
    d_params=jax.tree.map(lambda p: p + 0.01, state.d_params),  # nowhere zero
    pace=state.pace._replace(g_steps=jnp.ones_like(state.pace.g_steps)),  # averages have begun
  )
  after, measured = step(state, images, labels)
  others, others_measured = step(state, 255 - images, (labels + 1) % CLASSES)
  if not _differing(state.g, after.g):
    raise Violation('the generator did not move: the check would see nothing')
  return _differing(after, others), _differing(measured._asdict(), others_measured._asdict())


def private_data_enter_by_the_discriminators_update_alone() -> None:
  if differing := _two_worlds()[0]:
    raise Violation(f'on other data, with D standing still, {", ".join(differing)} are others')


def what_follows_the_data_is_marked_private() -> None:
  """A metric that differs on other data must be one that the report does not cover."""
  differing = {re.sub(r'\W', '', name) for name in _two_worlds()[1]}
  if unmarked := differing - metrics.REAL_DATA_METRICS:
    raise Violation(f'{", ".join(sorted(unmarked))} follow the private data and are not marked')


def _moved_by_one_example(**settings: Any) -> float:
  """How far one other image moves D, relative to what a clipped gradient can: 2·C/B."""
  clip = 0.1
  gan = _make(clip=clip, d_learning_rate=1.0, d_steps_per_g_step=9, **settings)
  (images, labels), state = dataset(), _state(gan)
  sampler = gan.mechanism.sampler
  joins = jax.jit(jax.vmap(lambda t: sampler.inclusion_mask(state.batch_key, t)[0]))
  first = int(np.argmax(joins(jnp.arange(40))))
  state, step = state._replace(step=jnp.asarray(first, jnp.int32)), _step(gan)
  one, _ = step(state, images, labels)
  two, _ = step(state, images.at[0].set(255 - images[0]), labels)
  squares = jax.tree.map(lambda a, b: float(jnp.sum((a - b) ** 2)), one.d_params, two.d_params)
  moved = math.sqrt(sum(jax.tree.leaves(squares)))
  if moved == 0:
    raise Violation('an example of the batch does not move D: the check would see nothing')
  return moved / (2 * clip / gan.mechanism.batch_size)


def one_example_moves_the_discriminator_by_at_most_its_share() -> None:
  if (moved := _moved_by_one_example()) > 1 + 1e-4:
    raise Violation(f'one image moves D by {moved:.2f} times what its clipped gradient can')


def one_example_moves_a_penalised_discriminator_no_further() -> None:
  """With a gradient penalty between real images and fakes."""
  moved = _moved_by_one_example(loss='wasserstein', gradient_penalty=10.0)
  if moved > 1 + 1e-4:
    raise Violation(f'one image moves D by {moved:.2f} times what its clipped gradient can')


def the_fake_half_does_not_follow_the_real_batch() -> None:
  """The same fakes beside real batches of other sizes, which hardly count: the same update of D."""
  gan = _make(
    sigma=0.0, clip=1e-6, fake_gradient='plain', d_learning_rate=1.0, d_steps_per_g_step=9
  )
  step, state, sizes, params = _step(gan), _state(gan), set(), []
  for seed in range(3):
    after, measured = step(state._replace(batch_key=jax.random.key(seed)), *dataset())
    sizes.add(int(measured.realised_batch))
    params.append(np.concatenate([np.ravel(p) for p in jax.tree.leaves(after.d_params)]))
  if len(sizes) < 2:
    raise Violation(f'real batches of {sizes} only: the check would see nothing')
  if (furthest := max(np.abs(p - params[0]).max() for p in params)) > 1e-5:
    raise Violation(f'real batches of {sorted(sizes)} change the fakes\' half by {furthest:.3g}')


def labels_of_fakes_are_uniform() -> None:
  """3,000 labels of fakes beside data of which 8 in 10 are of one class."""
  gan = _make()
  labels = jax.jit(lambda state: gan._fakes(state.g, jax.random.key(2), 3000)[1])(_state(gan))
  statistics.labels_are_uniform(np.asarray(labels), CLASSES)


def the_discriminator_looks_at_one_example_at_a_time() -> None:
  """Planning a run is where a layer that mixes examples is refused."""
  _make()


# --- runs -----------------------------------------------------------------------------------------

CONFIG = TrainConfig(
  dataset='digits', generator='compact', noise_multiplier=6.0, steps=6, batch_size=32,
  steps_per_report=3, d_steps_per_g_step=2, num_samples=20, delta=1e-4, seed=SEED,
)  # fmt: skip


@contextlib.contextmanager
def _folder() -> Iterator[pathlib.Path]:
  with tempfile.TemporaryDirectory() as folder:
    yield pathlib.Path(folder)


def steps_are_charged_before_they_are_taken() -> None:
  """When a chunk of steps is called, the ledger on the disk covers it."""
  seen = []

  def make_chunk(stage: Any, length: int) -> Any:
    def chunk(state: GANState, *_: Any) -> Any:
      run = RunDir(folder / 'run')
      ledger = Ledger.read(run.ledger, stages=stage.mechanisms, identity=run.identity())
      seen.append((ledger, length))
      raise Stop

    return chunk

  with _folder() as folder:
    with mock.patch.object(stages, 'make_chunk', make_chunk), contextlib.suppress(Stop):
      trainer.train(CONFIG, datasets.load_dataset('digits'), folder / 'run', progress=False)
    ((ledger, length),) = seen
  if ledger.charged_steps() < length:
    raise Violation(f'{length} steps are taken and {ledger.charged_steps()} are charged')


def a_resumed_run_ends_as_an_uninterrupted_one() -> None:
  """Stopped after 6 steps but before their checkpoint, and run again: the same state, bit for bit.
  """
  digits = datasets.load_dataset('digits')

  class Stopping(loop.Checkpoints):
    def save(self, step: int, *rest: Any) -> None:
      if step == 6:
        raise Stop
      super().save(step, *rest)

  ends = []
  with _folder() as folder:

    def keep(model: Any, state: GANState, *_: Any) -> None:
      ends.append(_leaves(state))

    with mock.patch.object(trainer, '_leave_signs', keep):
      trainer.train(CONFIG, digits, folder / 'one', progress=False)
      with mock.patch.object(loop, 'Checkpoints', Stopping), contextlib.suppress(Stop):
        trainer.train(CONFIG, digits, folder / 'two', progress=False)
      trainer.train(CONFIG, digits, folder / 'two', progress=False)
  one, two = ends
  if differing := [name for name in one if not np.array_equal(one[name], two[name])]:
    raise Violation(f'after a restart {len(differing)} leaves differ: {", ".join(differing[:3])}')


# --- the report -----------------------------------------------------------------------------------


DIGITS = Spec(
  num_records=1440, shape=(8, 8, 1), class_names=tuple(map(str, range(10))), name='digits'
)


def begun(path: pathlib.Path, planned: Any, charged: int) -> RunDir:
  """The directory of a run on digits that was killed after it had charged so many steps."""
  run = RunDir.open(path, create=True)
  run.save_config({
    'format': loop.FORMAT, **planned.to_record(), 'data': DIGITS.to_record(),
    'environment': dict(_environment.environment()),
  })  # fmt: skip
  Ledger.open(
    run.ledger, stages=planned.budget.stages, data_fingerprint='f00d', identity=run.identity()
  ).charge(charged)
  return run


@contextlib.contextmanager
def _reported(**changes: Any) -> Iterator[tuple[Any, str]]:
  """The report of a run that was killed after its first charge: (facts, all its words)."""
  config = CONFIG.replace(**changes)
  planned = plan.make(config, DIGITS)
  with _folder() as folder:
    run = begun(folder / 'run', planned, 4)
    with mock.patch.object(run_statement, '_CURVE_POINTS', 3):
      statement = run_statement.write(run)
    names = ('report.md', 'report.json', 'report.html')
    words = ''.join((run.path / name).read_text('utf-8') for name in names)
    yield statement.to_json(), words + statement.summary()


def _require_words(words: str, *wanted: str) -> None:
  if absent := [text for text in wanted if text not in words]:
    raise Violation(f'the report does not say {absent[0]!r}')


def the_report_names_a_seed_and_does_not_tell_it() -> None:
  with _reported() as (facts, words):
    _require_words(facts['statement'], 'not private against those who know the seed')
    if str(SEED) in words:
      raise Violation('the report tells the seed')
    publish = {row['file']: row['publish'] for row in facts['files']}
    if publish['config.json'] != 'no':
      raise Violation('config.json, which holds the seed, may be published')


def the_report_counts_what_is_charged() -> None:
  """4 steps charged, none in a checkpoint: 4 are spent."""
  with _reported() as (facts, _):
    steps, epsilon = facts['progress']['steps_charged'], facts['guarantee']['epsilon']
    if steps != 4 or not epsilon > 0:
      raise Violation(f'4 steps are charged and the report gives epsilon {epsilon} for {steps}')


def the_report_covers_nothing_computed_on_real_data() -> None:
  with _reported() as (facts, _):
    named = set(re.findall(r'\w+', ' '.join(facts['covered']))) & set(StepMetrics._fields)
    if claimed := named & metrics.REAL_DATA_METRICS:
      raise Violation(f'the report covers {", ".join(sorted(claimed))}')
    private = ('checkpoints/', 'ledger.jsonl', 'metrics.jsonl', 'losses.png', 'anything else')
    allowed = [row['file'] for row in facts['files'] if row['publish'] != 'no']
    if leaked := [name for name in private if name in ', '.join(allowed)]:
      raise Violation(f'the report lets {leaked[0]} be published')


def the_report_says_that_tuning_costs() -> None:
  with _reported() as (_, words):
    _require_words(words, 'that choice costs privacy', '2110.03620', 'has not said how')


def the_report_states_its_caveats() -> None:
  with _reported() as (_, words):
    _require_words(words, 'floating-point', 'Mironov 2012', 'threefry2x32', 'cryptographic')


def the_report_names_its_relation() -> None:
  """The relation's own ε and words, under each of the three."""
  for relation, sentence in (
    ('add_or_remove_one', 'one record more than the other'),
    ('replace_one', 'differ in one record'),
    ('replace_special', 'a blank that contributes nothing'),
  ):
    with _reported(neighboring_relation=relation) as (facts, _):
      _require_words(facts['statement'], relation, sentence)
