"""Checks of the privacy core and of what accounts for it, on the package's own objects.

Each is a function without arguments that looks at the package as it is at that moment, passes where
that is correct, and otherwise raises: `Violation` where a number is wrong, or the package's own
`InputError` where it refuses. All randomness is fixed, so that the same code gives the same answer.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import pathlib
import tempfile
import types
from collections.abc import Callable
from typing import Any
from unittest import mock

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
from dp_accounting import pld

from dpgan_jax.auditing import gradient
from dpgan_jax.budget import budget, cross_check
from dpgan_jax.budget.ledger import Ledger
from dpgan_jax.data.spec import Spec
from dpgan_jax.models.classifier import Classifier
from dpgan_jax.models.classifier_config import ClassifierConfig
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.privacy import accounting, clipping, sampling, step_noise, transforms
from dpgan_jax.privacy.mechanism import DPMechanism
from dpgan_jax.run import loop, plan, secrets, stages
from dpgan_jax.run.directory import RunDir
from experiments.trust import statistical_checks as statistics
from experiments.trust.statistical_checks import Violation
from tests.support import nets

N, Q, STEPS = 50, 0.2, 4000
SHAPE = (100, 50)
SPEC = Spec(num_records=N, shape=(8, 8, 1), class_names=('a', 'b', 'c'), name='random')
MECHANISM = DPMechanism.create(
  num_examples=N, batch_size=10, l2_clip_norm=3.0, noise_multiplier=0.5, steps=20, delta=1e-3
)


def _close(got: Any, want: Any, what: str, tolerance: float = 1e-5) -> None:
  for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    g, w = np.asarray(g, np.float64), np.asarray(w, np.float64)
    if not np.allclose(g, w, rtol=tolerance, atol=tolerance):  # NaN fails too
      raise Violation(f'{what}: off by {np.max(np.abs(g - w)):.3g}')


# --- noise ----------------------------------------------------------------------------------------


@functools.cache
def _zeros() -> dict[str, jax.Array]:
  return {name: jnp.zeros(SHAPE) for name in 'abc'}


def _noise(steps: int, seed: int = 5) -> list[dict[str, np.ndarray]]:
  """Updates of empty batches, [steps][leaf]: nothing but noise, in units of σC/B."""
  transform = MECHANISM.noise_sum(jax.random.key(seed))
  state, updates = transform.init(None), []
  for _ in range(steps):
    update, state = transform.update(_zeros(), state, mask=jnp.zeros(MECHANISM.num_examples, bool))
    scale = MECHANISM.noise_multiplier * MECHANISM.l2_clip_norm / MECHANISM.batch_size
    updates.append({name: np.asarray(u) / scale for name, u in update.items()})
  return updates


def noise_has_the_charged_scale() -> None:
  """Standard deviation σC/B in every leaf and step: Kolmogorov-Smirnov, 5,000 entries each."""
  for update in _noise(2):
    for sample in update.values():
      statistics.noise_is_normal(sample, 1.0)


def noise_is_drawn_once_for_each_entry() -> None:
  """No two leaves, steps or runs share noise, nor do the entries of a leaf."""
  updates = [*_noise(3), *_noise(1, seed=6)]
  samples = [sample for update in updates for sample in update.values()]
  for sample in samples:
    statistics.noise_is_white(sample, (1, SHAPE[1]))
  statistics.noise_is_unshared(samples)


def noise_leaves_no_bits_of_the_sum() -> None:
  """Noisy sums are multiples of a grid that depends on σC alone, though the sums are not."""
  unit = step_noise.grid_of(MECHANISM.noise_multiplier * MECHANISM.l2_clip_norm)
  transform = transforms.noise_sum(
    MECHANISM.l2_clip_norm, MECHANISM.noise_multiplier, 1.0, jax.random.key(1)
  )
  totals = {'a': jnp.asarray(np.random.default_rng(0).standard_normal(SHAPE), jnp.float32)}
  noisy, _ = transform.update(totals, transform.init(None))
  units = np.asarray(noisy['a'], np.float64) / unit
  if between := int((units != np.round(units)).sum()):
    raise Violation(f'{between} of {units.size} numbers lie between the multiples of the grid')


def a_release_sums_exactly() -> None:
  """A classifier's centre is the same, bit for bit, in whatever order the records come."""
  config = ClassifierConfig(
    noise_multiplier=1.0, steps=1, batch_size=2, delta=1e-3, angles=2, centre_noise_multiplier=2.0
  )
  model = Classifier.create(config, SPEC)
  state = model.init(jax.random.key(0))
  x = np.random.default_rng(0).standard_normal((N, *model.input_shape)).astype(np.float32)
  centre, reverse = (
    np.asarray(model.release_centre(state, rows, bytes(32)).centre) for rows in (x, x[::-1])
  )
  if differing := int((centre != reverse).sum()):
    raise Violation(f'{differing} of {centre.size} numbers follow the order of the records')


def noise_reaches_far() -> None:
  """The least likely of the random words: 9.4 standard deviations, 1e-20 of the mass beyond."""
  words = [jnp.zeros(1, jnp.uint32)] * 5
  reach = float(step_noise.from_words(words, 2.0**19)[0].max()) / 2**19
  if reach < 9.4:
    raise Violation(f'no noise is larger than {reach:.2f} standard deviations')


def keys_come_from_the_operating_system() -> None:
  """64 runs without a seed: each asks for 256 bits, all of them are random, no two are equal."""
  records = types.SimpleNamespace(spec=SPEC, fingerprint=lambda: 'f00d')
  planned = types.SimpleNamespace(budget=budget.Budget(MECHANISM), to_record=dict)
  asked, secret_words, keys, urandom = [], [], set(), os.urandom

  def asking(count: int) -> bytes:
    asked.append(count)
    return urandom(count)

  with tempfile.TemporaryDirectory() as folder, mock.patch.object(os, 'urandom', asking):
    for number in range(64):
      place: Any = pathlib.Path(folder) / str(number)
      opened = loop.Run.open(place, {}, records, make=lambda: planned, read=None, progress=False)
      with opened as (_, run):
        secret = bytes.fromhex(json.loads(run.directory.secret.read_bytes())['secret'])
        secret_words.append(np.frombuffer(secret, np.uint32))
        keys.add(jax.random.key_data(run._secret.key(budget.STAGE)).tobytes())
  statistics.key_bits_are_random(np.stack(secret_words))
  if len(keys) < 64:
    raise Violation('two runs without a seed have the same key')
  if (of_all := sum(count >= 32 for count in asked)) < 64:
    raise Violation(f'{of_all} of 64 runs without a seed ask for 256 bits')


# --- clipped sums ---------------------------------------------------------------------------------


def _gradients(n: int) -> dict[str, jax.Array]:
  """Per-example gradients of two leaves, norms from far below to far above C = 1."""
  rng = np.random.default_rng(0)
  sizes = np.geomspace(0.05, 50, n)[:, np.newaxis]
  values = {'a': rng.standard_normal((n, 7)), 'b': rng.standard_normal((n, 4))}
  return {name: jnp.asarray(sizes * value, jnp.float32) for name, value in values.items()}


def _linear(params: Any, gradient: Any) -> jax.Array:
  """A loss on one example whose gradient is that example."""
  return sum((jnp.vdot(p, g) for p, g in zip(params.values(), gradient.values(), strict=True)),
             start=jnp.zeros(()))  # fmt: skip


def _dense(params: Any, x: jax.Array) -> jax.Array:
  """A loss whose weights enter by matrix products: norms are found without gradients."""
  return jnp.sum(jnp.tanh(jnp.tanh(x @ params['w']) @ params['v']) ** 2)


def _clipped_sums() -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
  """name ↦ (a function of a batch and a mask that gives a sum clipped to C = 1, the batch)."""
  mechanism = dataclasses.replace(MECHANISM, l2_clip_norm=1.0, noise_multiplier=0.0)
  gradients = _gradients(24)
  params = jax.tree.map(lambda g: jnp.zeros(g.shape[1:]), gradients)
  noiseless = mechanism.clip_and_noise(jax.random.key(0))

  def by_transform(batch: Any, mask: jax.Array) -> Any:
    update, _ = noiseless.update(batch, noiseless.init(params), params, mask=mask)
    return jax.tree.map(lambda u: u * mechanism.batch_size, update)

  rng = np.random.default_rng(1)
  x = jnp.asarray(np.geomspace(0.01, 100, 24)[:, None] * rng.standard_normal((24, 6)), jnp.float32)
  layers = {'w': jnp.asarray(rng.standard_normal((6, 5)), jnp.float32),
            'v': jnp.asarray(rng.standard_normal((5, 3)), jnp.float32)}  # fmt: skip
  by_loss, by_layers = mechanism.clipped_grad(_linear), mechanism.clipped_grad(_dense)
  return {
    'clip_and_noise': (by_transform, (gradients,)),
    'clipped_grad': (lambda b, mask: by_loss(params, b, mask=mask).sum, (gradients,)),
    'clipped_grad of layers': (lambda b, mask: by_layers(layers, b, mask=mask).sum, (x,)),
  }


def one_example_moves_the_sum_by_at_most_the_clip_norm() -> None:
  """Adding any one of 24 examples with gradients of 0.05 to 150 times C, in every way of clipping.

  One of them at least must move it by C, or the clipping would be tighter than it says.
  """
  for name, (clipped, (batch,)) in _clipped_sums().items():
    masks = np.ones((25, 24), bool)
    masks[np.arange(24), np.arange(24)] = False
    sums = jax.vmap(lambda mask, f=clipped, b=batch: f(b, mask))(jnp.asarray(masks))
    moved = jax.tree.map(lambda s: np.asarray(s[24] - s[:24], np.float64), sums)
    norms = np.sqrt(sum((m**2).reshape(24, -1).sum(1) for m in jax.tree.leaves(moved)))
    if not norms.max() <= 1 + 1e-4:
      raise Violation(f'{name}: one example moves a sum clipped to 1 by {norms.max():.3f}')
    if name != 'clipped_grad of layers' and norms.max() < 0.999:
      raise Violation(f'{name}: large gradients are clipped to {norms.max():.3f} instead of 1')


def a_bad_example_contributes_nothing() -> None:
  """NaN, infinity, and a norm beyond float32, in one leaf of one example: that example is zero."""
  mask = jnp.ones(24, bool)
  for bad in (math.nan, math.inf, 3e38):
    for name, (clipped, (batch,)) in _clipped_sums().items():
      if name == 'clipped_grad of layers':
        continue  # tanh takes infinities to ones
      poisoned = {**batch, 'a': batch['a'].at[4, :2].set(bad)}
      got, want = clipped(poisoned, mask), clipped(batch, mask.at[4].set(False))
      _close(got, want, f'{name}: an example with {bad} contributes')


def microbatches_change_nothing() -> None:
  """The clipped sum of all at once, and of 5, or 1, at a time."""
  gradients = _gradients(24)
  params = jax.tree.map(lambda g: jnp.zeros(g.shape[1:]), gradients)
  mechanism = dataclasses.replace(MECHANISM, l2_clip_norm=1.0)
  mask = jnp.arange(24) % 3 > 0
  whole = mechanism.clipped_grad(_linear)(params, gradients, mask=mask).sum
  for size in (5, 1):
    parts = mechanism.clipped_grad(_linear, microbatch_size=size)(params, gradients, mask=mask).sum
    _close(parts, whole, f'microbatches of {size} change the sum')


def sums_and_noise_are_float32() -> None:
  """4,000 bfloat16 gradients of 0.01 and one of 8: in bfloat16 the sum would be lost."""
  values = np.full((4001, 2), 0.01, np.float32)
  values[0] = 8
  gradients = {'a': jnp.asarray(values, jnp.bfloat16)}
  found = clipping.clipped_sum(gradients, l2_clip_norm=100.0)
  _close(found.sum, {'a': np.asarray(gradients['a'], np.float64).sum(0)}, 'sum', 1e-3)
  noise = step_noise.add_gaussian(jax.random.key(0), gradients, 1.0, 1.0)
  for name, tree in (('the sum', found.sum), ('the noise', noise)):
    if tree['a'].dtype != jnp.float32:
      raise Violation(f'{name} of bfloat16 gradients is {tree["a"].dtype}')


def the_divisor_is_public() -> None:
  """0, 1 and 24 of 24 examples present: the update is their sum over B, whatever came."""
  gradients = _gradients(24)
  mechanism = dataclasses.replace(MECHANISM, l2_clip_norm=math.inf, noise_multiplier=0.0)
  for transform, of in (
    (mechanism.clip_and_noise(jax.random.key(0)), lambda g, mask: g),
    (
      mechanism.noise_sum(jax.random.key(0)),
      lambda g, mask: clipping.clipped_sum(g, l2_clip_norm=math.inf, mask=mask).sum,
    ),
  ):
    for present in (0, 1, 24):
      mask = jnp.arange(24) < present
      update, _ = transform.update(of(gradients, mask), transform.init(None), mask=mask)
      want = {k: np.asarray(g)[:present].sum(0) / 10 for k, g in gradients.items()}
      _close(update, want, f'{present} examples are not divided by B = 10', 1e-4)


def public_gradients_are_added_after_the_noise() -> None:
  """With and without them, the same noise: the difference is what was passed, unscaled."""
  transform = MECHANISM.noise_sum(jax.random.key(5))
  public = {name: jnp.full(SHAPE, 7.0) for name in 'abc'}
  without, _ = transform.update(_zeros(), transform.init(None))
  with_public, _ = transform.update(_zeros(), transform.init(None), public_grads=public)
  _close(jax.tree.map(jnp.subtract, with_public, without), public, 'public gradients', 1e-4)


# --- batches --------------------------------------------------------------------------------------


def _joined(mechanism: DPMechanism, steps: int = STEPS) -> np.ndarray:
  sampler, key = mechanism.sampler, jax.random.key(0)

  def one(step: jax.Array) -> jax.Array:
    batch = sampler(key, step)
    return jnp.zeros(sampler.num_examples, int).at[batch.indices].add(batch.mask)

  counts = np.asarray(jax.jit(jax.vmap(one))(jnp.arange(steps)))
  if counts.max() > 1:
    raise Violation('an example is in a batch twice')
  return counts.astype(bool)


def batches_are_poisson() -> None:
  """4,000 batches of N = 50 at q = 0.2: rates, pairs, sizes and steps, false alarm 1e-6 each."""
  joined = _joined(dataclasses.replace(MECHANISM, truncated_batch_size=N))
  statistics.inclusion_rate_is(joined, Q)
  statistics.everybody_joins_alike(joined, Q)
  for lag in (1, 2, 4):
    statistics.steps_are_independent(joined, Q, lag=lag)
  statistics.batch_size_is_binomial(joined, Q)
  statistics.pairs_are_independent(joined, Q)


def a_cut_keeps_a_random_subset() -> None:
  """25 join on average and 5 are kept, in 4,000 batches."""
  cut = dataclasses.replace(
    MECHANISM, batch_size=25, sampling_probability=0.5, truncated_batch_size=5
  )
  statistics.cut_is_uniform(_joined(cut), 5)


def few_of_many_are_poisson() -> None:
  """4,000 batches of N = 1,000 at q = 0.01, their size drawn first: no two places have one example;
  rates, sizes and steps, false alarm 1e-6 each.
  """
  q, many = sampling.exact_probability(0.01), 1000
  few = dataclasses.replace(
    MECHANISM, num_examples=many, batch_size=10, sampling_probability=q, truncated_batch_size=40
  )
  with mock.patch.multiple(sampling, _MANY=many, _MANY_PER_PLACE=25):
    if not few.sampler.draws_a_count:
      raise Violation('no count is drawn')
    joined = _joined(few)
  statistics.inclusion_rate_is(joined, q)
  statistics.everybody_joins_alike(joined, q)
  statistics.batch_size_is_binomial(joined, q)
  statistics.steps_are_independent(joined, q, lag=1)


# --- accounting -----------------------------------------------------------------------------------


def the_event_is_what_the_sampler_does() -> None:
  """q to the last bit, the cap, σ, the number of steps, and the larger neighbour's size."""
  for relation in accounting.RELATIONS:
    m = dataclasses.replace(MECHANISM, neighboring_relation=relation)
    event: Any = m.event(7)
    step, sampler = event.event, m.sampler
    done = {
      'count': 7,
      'sampling_probability': sampler._threshold / 2**30,
      'truncated_batch_size': sampler(jax.random.key(0), 0).mask.shape[0],
      'noise_multiplier': m.noise_multiplier,
      'dataset_size': N + (relation == 'add_or_remove_one'),
    }
    charged = {name: getattr(step, name, None) for name in done if name != 'count'}
    charged['count'] = event.count
    wrong = [
      f'{name} is {charged[name]} and {done[name]} is done' for name in done
      if charged[name] != done[name]
    ]  # fmt: skip
    if wrong:
      raise Violation(f'{relation}, accounted event: {"; ".join(wrong)}')


SETTINGS = {
  'num_examples': 1440, 'batch_size': 32, 'l2_clip_norm': 1.0, 'noise_multiplier': 6.0, 'steps': 90,
  'delta': 1e-4,
}  # fmt: skip


def two_computations_of_epsilon_agree() -> None:
  """As `report` does: the accountant against Rényi divergences and the summed privacy loss."""
  for relation in accounting.RELATIONS:
    for cap in (None, 44):
      m = DPMechanism.create(**SETTINGS, neighboring_relation=relation, truncated_batch_size=cap)
      cross_check.require_agreement(
        m.event(), {m.delta: m.epsilon()}, neighboring_relation=relation
      )


def every_stage_is_counted() -> None:
  """A run of two stages costs what dp-accounting composes of them, the second begun or not."""
  first = DPMechanism.create(**{**SETTINGS, 'noise_multiplier': 2.0})
  whole = budget.Budget(DPMechanism.create(**SETTINGS), {'classifier': first})
  for steps in (0, whole.mechanism.steps):
    accountant = pld.PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(first.event())
    if steps:
      accountant.compose(whole.mechanism.event(steps))
    _close(whole.epsilon(steps), accountant.get_epsilon(whole.mechanism.delta), f'{steps} steps')


def what_is_refined_is_counted() -> None:
  """A GAN that refines draws of moments costs what dp-accounting composes of releases and steps."""
  config = TrainConfig(
    target_epsilon=2.0, moments_share=0.5, steps=20, batch_size=64, generator='refiner',
    discriminator=nets.NAME, latent_dim=10,
  )  # fmt: skip
  planned = plan.make(config, dataclasses.replace(SPEC, num_records=1000))
  assert isinstance(planned, plan.GANPlan)
  assert planned.moments is not None
  accountant = pld.PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
  for mechanism in (planned.gan.mechanism, *planned.moments.stages.values()):
    accountant.compose(mechanism.event())
  _close(planned.budget.epsilon(), accountant.get_epsilon(config.delta), 'releases and steps')


def stages_share_no_key() -> None:
  """The GAN and the classifiers that name its samples begin with keys of one secret."""
  config = TrainConfig(
    target_epsilon=math.inf, label_share=0.5, label_cnn_share=0.25, steps=2, batch_size=8,
    **nets.SMALLEST_WITHOUT_CLASSES,
  )  # fmt: skip
  planned = plan.make(config, dataclasses.replace(SPEC, num_records=64))
  none: Any = types.SimpleNamespace(
    restore_latest=lambda _: None, save=lambda *_: None, wait=lambda: None
  )
  data: Any = None
  secret = secrets.Secret.of_seed(0)
  with tempfile.TemporaryDirectory() as folder:
    directory = RunDir(pathlib.Path(folder))
    ledger = Ledger.open(directory.ledger, stages=planned.budget.stages, data_fingerprint='f00d')
    run = loop.Run(directory, ledger, planned.budget, secret, None, progress=False)
    states = [
      run._start_or_resume(stage, none)
      for stage in (
        *(stages.ClassifierStage(c, data) for c in (*planned.before, *planned.after)),
        stages.GANStage(planned.gan, data, directory, data),
      )
    ]
  keys = [
    tuple(np.ravel(jax.random.key_data(leaf)).tolist())
    for leaf in jax.tree.leaves(states)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
  ]
  if len(keys) != 7 or len(set(keys)) < 7:
    raise Violation(f'expected 7 different keys of 3 stages, got {len(set(keys))} of {len(keys)}')


def a_recorded_rate_is_the_rate_of_the_batches() -> None:
  """What a run directory says of q is taken only if it is B/N as the sampler rounds it."""
  DPMechanism.from_dict({**MECHANISM.to_dict(), **FAULTY_FIELDS})


FAULTY_FIELDS: dict[str, Any] = {}
"""Fields that a planted fault changes in a record, or in the mechanism that resumes a run."""


# --- ledger ---------------------------------------------------------------------------------------

CHARGED = DPMechanism.create(**SETTINGS)
OVERRUN = 0
"""Steps beyond the budget that a planted fault takes."""


def _ledger(path: pathlib.Path, mechanism: DPMechanism, fingerprint: str = 'f00d') -> Ledger:
  return Ledger.open(path, stages={budget.STAGE: mechanism}, data_fingerprint=fingerprint)


def a_run_stays_within_its_budget() -> None:
  """The loop charges its steps; the ledger refuses what the budget does not cover."""
  with tempfile.TemporaryDirectory() as folder:
    ledger = _ledger(pathlib.Path(folder) / 'ledger.jsonl', CHARGED)
    for step in range(5, CHARGED.steps + 1, 5):
      ledger.charge(step)
    ledger.charge(CHARGED.steps + OVERRUN)


def the_ledger_refuses_a_step_beyond_the_budget() -> None:
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'ledger.jsonl'
    ledger = _ledger(path, CHARGED)
    ledger.charge(CHARGED.steps)
    before = path.read_bytes()
    try:
      ledger.charge(CHARGED.steps + 1)
    except ValueError:
      if path.read_bytes() == before:
        return
    raise Violation(f'step {CHARGED.steps + 1} of {CHARGED.steps} was charged')


def a_run_resumes_as_it_began() -> None:
  """A ledger is continued by the mechanism and the data that it was begun with, or not at all."""
  changes = dict(FAULTY_FIELDS)
  fingerprint = changes.pop('data_fingerprint', 'f00d')
  settings = {
    name: getattr(CHARGED, name)
    for name in ('num_examples', 'batch_size', 'l2_clip_norm', 'noise_multiplier', 'steps', 'delta')
  }
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'ledger.jsonl'
    _ledger(path, CHARGED).charge(3)
    again = _ledger(path, DPMechanism.create(**{**settings, **changes}), fingerprint)
    if again.charged_steps() != 3:
      raise Violation(f'3 steps were charged and {again.charged_steps()} are remembered')


# --- audit ----------------------------------------------------------------------------------------

# Few examples, so that one of them is a large part of a batch, and many entries, in which a change
# of the noise's scale shows.
AUDITED = DPMechanism.create(
  num_examples=4, batch_size=4, l2_clip_norm=1.0, noise_multiplier=2.0, steps=1, delta=1e-2
)
PARTS: Callable[[], gradient.Parts] = lambda: gradient.Parts.of(AUDITED)  # noqa: E731


def the_audit_stays_below_the_accounted_epsilon() -> None:
  """8,000 one-step runs with and without a canary: no test errs less than ε, δ allows."""
  found = gradient.gradient_bound(
    AUDITED, trials=8000, key=jax.random.key(1), parts=PARTS(), confidence=0.999, dimension=256
  )
  if found.refuted or found.lower_bound > found.accounted_epsilon:
    raise Violation(
      f'audited epsilon >= {max(found.lower_bound, found.family_bound):.2f}, accounted '
      f'{found.accounted_epsilon:.2f}'
    )
