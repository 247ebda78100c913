"""The GAN: its state, a private discriminator step, a free generator step.

A discriminator step takes a Poisson batch of real examples (fresh, and charged, every time), clips
each one's gradient, adds noise to the sum, divides by the expected batch size, and adds the
gradient of a constant number of fakes, which are public. The generator only ever sees the
discriminator, so what it learns is post-processing.

Balance of the two halves (`fake_gradient`): beside a fake half left whole ('plain', as the report
had it) the clipped real half starves as raw gradients outgrow C. By default fakes' gradients are
clipped alike: no noise, no privacy cost.

Key schedule: every random draw of step t comes from `fold_in(purpose key, t)`, so a resumed run
draws what the interrupted one would have drawn. Real batches, fakes, and noise have separate keys.

Precision (`compute_dtype`). Parameters, losses, per-example norms, clipping, sums, noise,
optimizers and batch-norm averages are float32; 'bfloat16' narrows what the networks compute between
their parameters and their logits or images, forwards and backwards. `generate` is float32 always.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Annotated, Any, NamedTuple, get_type_hints

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from dpgan_jax import _keys, _validate
from dpgan_jax.data.images.dataset import to_model_range
from dpgan_jax.data.spec import Spec
from dpgan_jax.models import pace
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.gans.optimizers import optimizer
from dpgan_jax.models.pace import Pace
from dpgan_jax.networks import discriminators, generators, layers, losses, per_example
from dpgan_jax.networks.losses import LOSSES
from dpgan_jax.privacy import clipping, memory, sharding
from dpgan_jax.privacy.mechanism import DPMechanism

PyTree = Any
_LARGEST_SCATTERED = 256  # side of an image


class GeneratorState(NamedTuple):
  """What samples are drawn from: parameters; and batch-norm averages, or what was released of
  moments (`networks.refiner`), empty without either.
  """

  params: PyTree
  batch_stats: PyTree


class GANState(NamedTuple):
  """All that training carries from step to step.

  The generator's part may be released. The rest may not: the discriminator is private by the same
  guarantee, but `d_opt_state` holds the noise key and `batch_key` the sampling key.

  Attributes:
    step: int32, discriminator steps taken.
    d_params: discriminator parameters.
    d_opt_state: state of noise (with its key) and optimizer.
    g: generator as trained.
    g_opt_state: its optimizer's state.
    g_average: exponential moving average of `g`, what samples are drawn from.
    pace: when the next generator step is due.
    batch_key: key of the Poisson batches; private.
    fake_key: key of z and the fakes' labels; public.
  """

  step: jax.Array
  d_params: PyTree
  d_opt_state: PyTree
  g: GeneratorState
  g_opt_state: PyTree
  g_average: GeneratorState
  pace: Pace
  batch_key: jax.Array
  fake_key: jax.Array


Private = Annotated[jax.Array, 'computed on real records without noise: outside the guarantee']


class StepMetrics(NamedTuple):
  """Scalars of one step; `PRIVATE_METRICS` names those that no guarantee covers."""

  d_loss_real: Private
  d_loss_fake: jax.Array
  g_loss: jax.Array  # nan on steps without a generator step
  d_real_accuracy: Private  # nan with a gradient penalty, which is part of the loss
  d_fake_accuracy: jax.Array
  clipped_fraction: Private
  realised_batch: Private
  n_d: jax.Array  # discriminator steps that a generator step waits for


PRIVATE_METRICS = frozenset(
  name
  for name, hint in get_type_hints(StepMetrics, include_extras=True).items()
  if hint is Private
)


@dataclasses.dataclass(frozen=True)
class GAN:
  """The parts of one run, built from settings and a mechanism; all methods are pure functions.

  Attributes:
    config: the settings.
    mechanism: the privacy mechanism, which makes sampler, clipping and noise.
    spec: what is public of the data.
    microbatch_size: what `examples_at_once` was in an earlier part of the run; None to choose it.
  """

  config: TrainConfig
  mechanism: DPMechanism
  spec: Spec
  microbatch_size: int | None = None

  def __post_init__(self) -> None:
    if self.config.discriminator in discriminators.SCATTERED:
      # The filters take thousands of times the memory of an image: 1 GiB for 512 × 512 pixels.
      for size in self.spec.shape[:2]:
        _validate.integer('image_shape', size, minimum=1, maximum=_LARGEST_SCATTERED)
    images = jax.ShapeDtypeStruct((2, *self.spec.shape), jnp.float32)
    labels = jax.ShapeDtypeStruct((2,), jnp.int32)
    per_example.require_per_example(self.discriminator, images, labels)

  @property
  def generator(self) -> nn.Module:
    return generators.make_generator(self.config.generator, self.spec.shape, self.spec.num_classes)

  @property
  def discriminator(self) -> nn.Module:
    return discriminators.make_discriminator(
      self.config.discriminator, self.spec.shape, self.spec.num_classes
    )

  @property
  def is_conditional(self) -> bool:
    """Whether the generator is told the class."""
    return self.config.generator not in generators.UNCONDITIONAL

  @property
  def fake_batch_size(self) -> int:
    """Fakes per discriminator step: a constant, never the realised number of real examples."""
    return self.config.fake_batch_size or self.config.batch_size

  @property
  def g_batch_size(self) -> int:
    """Fakes per generator step."""
    return self.config.g_batch_size or self.config.batch_size

  @functools.cached_property
  def noise_in_d(self) -> float:
    """Noise that reaches D between two generator steps, relative to the longest mean of gradients.

    √P·σ / (B·√n_D): the noise has P coordinates of standard deviation σC/B in each of n_D steps,
    and a mean of B clipped gradients is no longer than C. Public. On MNIST generators learnt at
    values up to 3.0, and from 3.9 on got worse with every step (experiments/results/QUALITY.md);
    longer training at the same ε means a larger value.
    """
    d_params = jax.eval_shape(self.init, _keys.from_seed(0)).d_params
    m = self.mechanism
    parameters, n_d = layers.count_parameters(d_params), self.config.d_steps_per_g_step
    return math.sqrt(parameters / n_d) * m.noise_multiplier / m.batch_size

  @functools.cached_property
  def examples_at_once(self) -> int:
    """How many examples of either half a discriminator step looks at at once.

    `config.microbatch_size` if that is given, else as many as is fast (`clipping.fast_microbatch`)
    or, where that would not fit the budget (`config.memory_budget_gib`), as many as do. The sums'
    last bits depend on it.

    Raises:
      InputError: the gradient of one example alone is beyond the budget.
    """
    if (size := self.microbatch_size or self.config.microbatch_size) is not None:
      return size
    cap = min(self.mechanism.truncated_batch_size, self.mechanism.num_examples)
    count = max(cap, self.fake_batch_size)
    each = lambda dtype, *shape: jax.ShapeDtypeStruct((count, *shape), dtype)  # noqa: E731
    images, labels = each(jnp.uint8, *self.spec.shape), each(jnp.int32)
    fakes = each(jnp.float32, *self.spec.shape)
    partners = (fakes, each(jnp.float32)) if self.config.gradient_penalty else ()
    return clipping.largest_microbatch(
      self._real_loss,
      jax.eval_shape(self.discriminator.init, _keys.from_seed(0), fakes, labels)['params'],
      (images, labels, *partners),
      budget=memory.budget_bytes(self.config.memory_budget_gib),
      strategy=self._strategy,
    )

  @property
  def _strategy(self) -> Any:  # one of clipping.STRATEGIES, as the settings have checked
    return self.config.clipping_strategy

  @property
  def g_optimizer(self) -> optax.GradientTransformation:
    updates = self.mechanism.steps // self.config.d_steps_per_g_step  # if n_D is fixed
    return optimizer(self.config, 'g', updates)

  def d_optimizer(self, key: jax.Array | None = None) -> optax.GradientTransformationExtraArgs:
    """Noise, then the optimizer: the only way from a clipped sum to the parameters; `init` needs
    the noise key, `update` finds it in the state.
    """
    return optax.chain(
      self.mechanism.noise_sum(key), optimizer(self.config, 'd', self.mechanism.steps)
    )

  def init(self, key: jax.Array) -> GANState:
    """The state before the first step. `key` must be secret if the run is to be private."""
    keys = jax.random.split(_keys.require('key', key), 5)
    g_key, d_key, noise_key, batch_key, fake_key = keys
    z = jnp.zeros((2, self.config.latent_dim), jnp.float32)
    labels = jnp.zeros((2,), jnp.int32)
    g_variables = self.generator.init(g_key, z, labels, train=False)
    g = GeneratorState(g_variables['params'], g_variables.get('batch_stats', {}))
    images = jnp.zeros((2, *self.spec.shape), jnp.float32)
    d_params = self.discriminator.init(d_key, images, labels)['params']
    return GANState(
      step=jnp.zeros((), jnp.int32),
      d_params=d_params,
      d_opt_state=self.d_optimizer(noise_key).init(d_params),
      g=g,
      g_opt_state=self.g_optimizer.init(g.params),
      g_average=jax.tree.map(jnp.copy, g),  # a copy: donated state must not hold a buffer twice
      pace=pace.start(self.config.d_steps_per_g_step),
      batch_key=batch_key,
      fake_key=fake_key,
    )

  # --- one step ----------------------------------------------------------------------------------

  def step(self, state: GANState, *data: Any) -> tuple[GANState, StepMetrics]:
    """One discriminator step and, when n_D of them have been taken, a generator step.

    Args:
      state: the state before.
      *data: the private images, uint8 [N, H, W, C], and their classes, int32 [N]; or what
        `sampling.Drawn` has of them.

    Guarantee: the state after depends on `data` only through the mechanism's noisy sum (and the
      keys); metrics marked private do not.
    """
    state, d_metrics = self._d_step(state, *data)
    skip = lambda s: (s, jnp.float32(jnp.nan))  # noqa: E731
    state, g_loss = jax.lax.cond(pace.is_due(state.pace), self._g_step, skip, state)
    return state, d_metrics._replace(g_loss=g_loss)

  def _d_step(self, state: GANState, *data: Any) -> tuple[GANState, StepMetrics]:
    config, mechanism, loss = self.config, self.mechanism, LOSSES[self.config.loss]
    split, fake_count = sharding.here(), self.fake_batch_size

    def fake_loss(params: PyTree, image: jax.Array, label: jax.Array) -> jax.Array:
      return loss.d_fake(self._logit(params, image, label))

    of_own = self._split_of_fakes(state.g)
    fakes, fake_labels, _ = self._fakes(state.g, self._fake_key(state, 0), fake_count, of_own)
    batch = mechanism.sampler.take(state.batch_key, state.step, data, split)
    partners: tuple[jax.Array, ...] = ()
    if config.gradient_penalty:
      pairs = losses.partners(self._fake_key(state, 2), batch.indices, fake_count)
      partners = (fakes[pairs.fake], pairs.share)
    how: Any = {
      'strategy': self._strategy,
      'microbatch_size': self.examples_at_once,
      'axis_name': split.axis,
    }
    real = mechanism.clipped_grad(self._real_loss, **how)(
      state.d_params, *batch.rows, *partners, mask=batch.mask
    )

    bound = mechanism.l2_clip_norm if config.fake_gradient == 'clipped' else math.inf
    if of_own != split:
      fakes, fake_labels = split.rows((fakes, fake_labels))
    fake = clipping.clipped_grad(fake_loss, l2_clip_norm=bound, **how)(
      state.d_params, fakes, fake_labels, mask=split.present(fake_count)
    )
    public_grads = jax.tree.map(lambda g: g / fake_count, fake.sum)

    updates, d_opt_state = self.d_optimizer().update(
      real.sum, state.d_opt_state, state.d_params, public_grads=public_grads
    )
    d_params = optax.apply_updates(state.d_params, updates)
    if (bound := config.d_weight_clip) is not None:
      d_params = jax.tree.map(lambda p: jnp.clip(p, -bound, bound), d_params)

    real_mean = functools.partial(split.masked_mean, mask=batch.mask, count=batch.realised)
    certain = lambda x: (x < loss.d_real(jnp.zeros(()))).astype(jnp.float32)  # noqa: E731
    nan = jnp.float32(jnp.nan)
    metrics = StepMetrics(
      d_loss_real=real_mean(real.losses),
      d_loss_fake=split.mean(fake.losses, fake_count),
      g_loss=nan,
      d_real_accuracy=nan if partners else real_mean(certain(real.losses)),
      d_fake_accuracy=split.mean(certain(fake.losses), fake_count),
      clipped_fraction=real_mean((real.norms > mechanism.l2_clip_norm).astype(jnp.float32)),
      realised_batch=batch.realised,
      n_d=state.pace.n_d.astype(jnp.float32),
    )
    state = state._replace(
      step=state.step + 1,
      d_params=d_params,
      d_opt_state=d_opt_state,
      pace=pace.after_d_step(state.pace),
    )
    return state, metrics

  def _real_loss(
    self, params: PyTree, image: jax.Array, label: jax.Array, *partner: jax.Array
  ) -> jax.Array:
    """D's loss on one real image uint8 [H, W, C]; `partner` is its fake and share, if penalised."""
    image = to_model_range(image)
    value = LOSSES[self.config.loss].d_real(self._logit(params, image, label))
    if partner:  # inside the loss that is clipped and noised: it looks at a private image
      logit = lambda x: self._logit(params, x, label)  # noqa: E731
      penalty = losses.gradient_penalty(logit, image, *partner)
      value += (self.config.gradient_penalty or 0.0) * penalty
    return value

  def _logit(self, d_params: PyTree, image: jax.Array, label: jax.Array) -> jax.Array:
    return self.logits(d_params, image[None], label[None])[0]

  def logits(self, d_params: PyTree, images: jax.Array, labels: jax.Array) -> jax.Array:
    """float32[n], whatever the discriminator computes in."""
    d_params, images = self._narrow((d_params, images))
    logits: Any = self.discriminator.apply({'params': d_params}, images, labels)
    return logits.astype(jnp.float32)

  def _narrow(self, tree: PyTree) -> PyTree:
    """Parameters and inputs in the dtype that networks compute in; their gradients are float32."""
    return jax.tree.map(lambda x: x.astype(self.config.compute_dtype), tree)

  def _g_step(self, state: GANState) -> tuple[GANState, jax.Array]:
    key, split = self._fake_key(state, 1), self._split_of_fakes(state.g)

    def mean_loss(params: PyTree) -> tuple[jax.Array, tuple[PyTree, jax.Array]]:
      g = GeneratorState(params, state.g.batch_stats)
      fakes, fake_labels, batch_stats = self._fakes(g, key, self.g_batch_size, split)
      logits = self.logits(state.d_params, fakes, fake_labels)
      mean = functools.partial(split.part_of_mean, length=self.g_batch_size)
      recognised = mean((logits < 0).astype(jnp.float32))
      return mean(LOSSES[self.config.loss].g(logits)), (batch_stats, recognised)

    loss_and_grad = jax.value_and_grad(mean_loss, has_aux=True)
    (value, (batch_stats, recognised)), grads = loss_and_grad(split.own(state.g.params))
    value, recognised, grads = split.total((value, recognised, grads))
    updates, g_opt_state = self.g_optimizer.update(grads, state.g_opt_state, state.g.params)
    g = GeneratorState(optax.apply_updates(state.g.params, updates), batch_stats)
    # The average starts from the first generators, so its decay grows from 0 to its final value.
    before = state.pace.g_steps.astype(jnp.float32)
    decay = jnp.minimum(self.config.g_ema_decay, before / (before + 10))
    average = jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, state.g_average, g)
    now = pace.after_g_step(
      state.pace,
      recognised,
      threshold=self.config.n_d_threshold,
      patience=self.config.n_d_patience,
    )
    return state._replace(g=g, g_opt_state=g_opt_state, g_average=average, pace=now), value

  # --- fakes -------------------------------------------------------------------------------------

  def _fake_key(self, state: GANState, purpose: int) -> jax.Array:
    """The key of D's (0) or G's (1) fakes, or of the pairs of real and fake (2), at a step."""
    return jax.random.fold_in(jax.random.fold_in(state.fake_key, state.step), purpose)

  def _split_of_fakes(self, g: GeneratorState) -> sharding.Split:
    """Not at all where one depends on others (batch norm), or a real example may need any."""
    together = jax.tree.leaves(g.batch_stats) or self.config.gradient_penalty
    return sharding.WHOLE if together else sharding.here()

  def _fakes(
    self, g: GeneratorState, key: jax.Array, count: int, split: sharding.Split = sharding.WHOLE
  ) -> tuple[jax.Array, jax.Array, PyTree]:
    """`split`'s rows of `count` fakes, with uniform labels (real counts are private); averages."""
    z_key, label_key = jax.random.split(key)
    z = jax.random.normal(z_key, (count, self.config.latent_dim), jnp.float32)
    labels = jax.random.randint(label_key, (count,), 0, self.spec.num_classes, jnp.int32)
    z, labels = split.rows((z, labels))
    variables = {'params': self._narrow(g.params), 'batch_stats': g.batch_stats}
    fakes, updated = self.generator.apply(
      variables, self._narrow(z), labels, train=True, mutable=['batch_stats']
    )
    return fakes.astype(jnp.float32), labels, updated.get('batch_stats', g.batch_stats)

  def generate(self, g: GeneratorState, key: jax.Array, labels: jax.Array) -> jax.Array:
    """Images [n, H, W, C] in [-1, 1] of the given classes: post-processing, no privacy cost."""
    z = jax.random.normal(key, (labels.shape[0], self.config.latent_dim), jnp.float32)
    images: Any = self.generator.apply(g._asdict(), z, labels, train=False)
    return images
