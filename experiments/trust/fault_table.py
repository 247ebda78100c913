"""The table of planted faults: what is planted, where, and which check must catch it, in what way.

Lines are those of the privacy checklist. `planted_faults` runs the table.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import re
from collections.abc import Callable
from typing import Any

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np

from dpgan_jax import _dtypes
from dpgan_jax.auditing import gradient
from dpgan_jax.budget import budget
from dpgan_jax.budget.ledger import Ledger
from dpgan_jax.data import sources
from dpgan_jax.data.tables import persons
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.data.tables.files.open import OpenTable
from dpgan_jax.models import classifier, gan
from dpgan_jax.models.domains import search
from dpgan_jax.models.gans import refining
from dpgan_jax.models.moments import release, settings
from dpgan_jax.models.moments.images import encoding as image_encoding
from dpgan_jax.models.moments.images import scattering_encoding
from dpgan_jax.models.moments.images.encoding import ImageEncoding
from dpgan_jax.models.moments.images.scattering_encoding import ScatteringEncoding
from dpgan_jax.models.moments.series.encoding import SeriesEncoding
from dpgan_jax.models.moments.series.summaries import Summaries
from dpgan_jax.models.moments.tables import encoding as table_encoding
from dpgan_jax.models.moments.tables.encoding import TableEncoding
from dpgan_jax.networks import discriminators, losses, per_example
from dpgan_jax.privacy import (
  accounting,
  clipping,
  exact_noise,
  sampling,
  sharding,
  step_noise,
  transforms,
)
from dpgan_jax.privacy.ghost import convolutions, forms, ghost, sums
from dpgan_jax.privacy.mechanism import DPMechanism
from dpgan_jax.privacy.releases import marginals, pairs, selection
from dpgan_jax.publishing import run_statement, statement, statement_text
from dpgan_jax.run import checkpoint, loop, metrics, secrets
from dpgan_jax.search import sweep_table
from experiments.trust import (
  device_checks,
  faults,
  found_checks,
  gan_checks,
  leaks,
  mechanism_checks,
  moments_checks,
  outside_checks,
  release_checks,
  schema_checks,
  series_checks,
  stream_checks,
  table_checks,
  taint_checks,
  wrapper_checks,
)
from experiments.trust.faults import Swap, swap, to

KINDS = ('refusal', 'statistics', 'exactness', 'data flow', 'second opinion', 'report', 'audit')


@dataclasses.dataclass(frozen=True)
class Fault:
  """A row of the table.

  Attributes:
    id: its name.
    line: of the privacy checklist.
    fault: what is planted.
    swaps: how.
    check: what must catch it.
    kind: in what way; one of `KINDS`.
    slow: whether the fast tests leave it out: its check takes seconds.
  """

  id: str
  line: int
  fault: str
  swaps: tuple[Swap, ...]
  check: Callable[[], None]
  kind: str
  slow: bool = False


_M, _G = mechanism_checks, gan_checks
_T, _R, _S = taint_checks, release_checks, stream_checks
_P, _C, _D, _Q = moments_checks, table_checks, device_checks, series_checks
_W, _O = wrapper_checks, outside_checks
_F, _N = schema_checks, found_checks


def _audited(**faulty: Callable[[], Any]) -> tuple[Swap, ...]:
  """Runs something else in the place of the audited mechanism's parts."""
  parts = lambda right: lambda: dataclasses.replace(  # noqa: E731
    right(), **{name: make() for name, make in faulty.items()}
  )
  return swap(mechanism_checks, 'PARTS', parts)


def _audited_mechanism(**changes: Any) -> tuple[Swap, ...]:
  other = dataclasses.replace(_M.AUDITED, **changes)
  return swap(mechanism_checks, 'PARTS', to(lambda: gradient.Parts.of(other)))


def _resumed(**changes: Any) -> tuple[Swap, ...]:
  return swap(mechanism_checks, 'FAULTY_FIELDS', to(changes))


_MECHANISM = (
  Fault('realised_divisor', 1, 'the noisy sum is divided by the number who came',
        (*swap(DPMechanism, 'noise_sum', faults.divided_by_realised),
         *swap(DPMechanism, 'clip_and_noise', faults.divided_by_realised)),
        _M.the_divisor_is_public, 'exactness'),
  Fault('realised_divisor_audited', 1, 'the noisy sum is divided by the number who came',
        _audited(noise=lambda: functools.partial(
          faults.divided_by_realised(DPMechanism.noise_sum), _M.AUDITED)),
        _M.the_audit_stays_below_the_accounted_epsilon, 'audit', slow=True),
  Fault('half_noise', 2, 'noise at half the standard deviation',
        swap(step_noise, 'add_gaussian', lambda f: lambda key, x, c, s: f(key, x, c, s / 2)),
        _M.noise_has_the_charged_scale, 'statistics'),
  Fault('two_thirds_noise', 2, 'noise at two thirds of the standard deviation',
        swap(step_noise, 'add_gaussian', lambda f: lambda key, x, c, s: f(key, x, c, s / 1.5)),
        _M.noise_has_the_charged_scale, 'statistics'),
  Fault('half_noise_audited', 2, 'noise at half the standard deviation',
        _audited_mechanism(noise_multiplier=0.5),
        _M.the_audit_stays_below_the_accounted_epsilon, 'audit', slow=True),
  Fault('noise_without_clip_norm', 2, 'noise of σ instead of σC',
        swap(transforms, 'noise_sum', lambda f: lambda c, *rest: f(1.0, *rest)),
        _M.noise_has_the_charged_scale, 'statistics'),
  Fault('clip_norm_typed_twice', 2, 'clipping at 2C, noise for C',
        swap(clipping, 'clipped_grad', faults.twice_the_clip_norm),
        _M.one_example_moves_the_sum_by_at_most_the_clip_norm, 'exactness'),
  Fault('skipped_clip', 2, 'nothing is clipped',
        swap(clipping, 'clip_factors', lambda f: lambda norms, c, mask=None: f(
          norms, math.inf, mask)),
        _M.one_example_moves_the_sum_by_at_most_the_clip_norm, 'exactness'),
  Fault('skipped_clip_audited', 2, 'nothing is clipped',
        _audited(clip=lambda: lambda gradients, mask: clipping.clipped_sum(
          gradients, l2_clip_norm=math.inf, mask=mask).sum),
        _M.the_audit_stays_below_the_accounted_epsilon, 'audit', slow=True),
  Fault('clip_by_leaf', 2, "each leaf is clipped to C, instead of the example's whole gradient",
        swap(clipping, 'clipped_sum', faults.by_leaf),
        _M.one_example_moves_the_sum_by_at_most_the_clip_norm, 'exactness'),
  Fault('clip_by_leaf_audited', 2, "each leaf is clipped to C, instead of the whole gradient",
        _audited(clip=lambda: lambda gradients, mask: faults.by_leaf(clipping.clipped_sum)(
          gradients, l2_clip_norm=_M.AUDITED.l2_clip_norm, mask=mask).sum),
        _M.the_audit_stays_below_the_accounted_epsilon, 'audit', slow=True),
  Fault('inferred_norm_too_small', 2, 'ghost clipping forgets one layer in the norms',
        swap(ghost, 'backward', faults.one_layer_forgotten),
        _M.one_example_moves_the_sum_by_at_most_the_clip_norm, 'exactness'),
  Fault('shuffled_epochs', 3, 'shuffled epochs, accounted as Poisson samples',
        swap(sampling.TruncatedPoissonSampler, '__call__', faults.shuffled),
        _M.batches_are_poisson, 'statistics'),
  Fault('fixed_size', 3, 'batches of B without replacement, accounted as Poisson samples',
        swap(sampling.TruncatedPoissonSampler, '__call__', faults.without_replacement),
        _M.batches_are_poisson, 'statistics'),
  Fault('few_of_one_number', 3, 'of many records always as many join as do on the mean',
        swap(sampling.TruncatedPoissonSampler, '_distribution',
             to(property(faults.mean_for_certain))),
        _M.few_of_many_are_poisson, 'statistics'),
  Fault('few_drawn_twice', 3, 'of many records some are in a batch twice',
        swap(sampling.TruncatedPoissonSampler, '_few', faults.with_replacement),
        _M.few_of_many_are_poisson, 'exactness'),
  Fault('rate_of_other_size', 3, 'q = B/(N - 5): the size of another split of the data',
        swap(sampling.TruncatedPoissonSampler, '_threshold', to(property(
          lambda self: round(self.sampling_probability * 50 / 45 * 2**30)))),
        _M.batches_are_poisson, 'statistics'),
  Fault('rate_accounted_lower', 3, 'q is accounted one part in a million lower than it is',
        faults.event(sampling_probability=lambda q: q * (1 - 1e-6)),
        _M.the_event_is_what_the_sampler_does, 'exactness'),
  Fault('rate_in_record', 3, 'a record of the mechanism with q = 0.19 for B/N = 0.2',
        _resumed(sampling_probability=0.19),
        _M.a_recorded_rate_is_the_rate_of_the_batches, 'refusal'),
  Fault('relation_mixed_up', 4, "replace_one accounted as add_or_remove_one",
        swap(accounting.RELATIONS, 'replace_one',
             lambda _: dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE),
        _M.two_computations_of_epsilon_agree, 'second opinion'),
  Fault('stage_not_counted', 3, 'the epsilon of a run leaves out what named its samples',
        swap(budget.Budget, 'event', to(lambda self, steps=None: self.mechanism.event(steps))),
        _M.every_stage_is_counted, 'exactness'),
  Fault('refined_not_counted', 3, 'the epsilon of a GAN leaves out a release that it refines',
        swap(refining, 'stages', to(lambda config, moments: {
          settings.MEANS: moments.stages[settings.MEANS]})),
        _M.what_is_refined_is_counted, 'exactness'),
  Fault('smaller_neighbour', 4, 'under add_or_remove_one the size of the smaller data set, N',
        faults.event(dataset_size=lambda n: n - 1),
        _M.the_event_is_what_the_sampler_does, 'exactness'),
  Fault('relation_not_named', 4, 'the report calls every relation add_or_remove_one',
        swap(statement_text, 'NEIGHBOURS', lambda d: dict.fromkeys(d, d['add_or_remove_one'])),
        _G.the_report_names_its_relation, 'report', slow=True),
  Fault('empty_batch_without_noise', 5, 'an empty batch takes no noisy step',
        swap(transforms, 'noise_sum', faults.wrapped_update(faults.no_noise_on_an_empty_batch)),
        _M.noise_has_the_charged_scale, 'statistics'),
  Fault('nan_let_through', 5, 'the sum does not leave out examples that are not finite',
        swap(clipping, '_sum', lambda _: lambda weighted_sum, norms, factors: weighted_sum(
          factors, None)),
        _M.a_bad_example_contributes_nothing, 'exactness'),
  Fault('nan_blanked_by_entry', 5, 'bad entries are blanked and the rest of the example is kept',
        swap(clipping, 'clipped_sum', faults.bad_entries_only),
        _M.a_bad_example_contributes_nothing, 'exactness'),
  Fault('noise_by_microbatch', 6, 'every microbatch adds noise of its own',
        swap(clipping, 'clipped_grad', faults.per_microbatch(faults.noise_each)),
        _M.microbatches_change_nothing, 'exactness'),
  Fault('mean_of_microbatches', 6, 'microbatches are averaged instead of summed',
        swap(clipping, 'clipped_grad', faults.per_microbatch(
          lambda total, parts: jax.tree.map(lambda t: t / parts, total))),
        _M.microbatches_change_nothing, 'exactness'),
  Fault('batch_norm', 7, 'batch norm in the discriminator',
        swap(discriminators.DISCRIMINATORS, 'compact',
             to(lambda shape, classes: faults.BatchNormed())),
        _G.the_discriminator_looks_at_one_example_at_a_time, 'refusal', slow=True),
  Fault('spectral_norm', 7, 'spectral norm in the discriminator, whose state the data feed',
        swap(discriminators.DISCRIMINATORS, 'compact',
             to(lambda shape, classes: faults.BatchNormed(True))),
        _G.the_discriminator_looks_at_one_example_at_a_time, 'refusal', slow=True),
  Fault('noise_of_every_step_the_same', 8, 'a noise key is used in every step',
        swap(transforms, 'noise_sum', faults.wrapped_update(faults.same_noise_every_step)),
        _M.noise_is_drawn_once_for_each_entry, 'statistics'),
  Fault('noise_of_every_leaf_the_same', 8, 'a noise key is used for every leaf',
        swap(step_noise, 'add_gaussian', to(faults.one_draw_for_all_leaves)),
        _M.noise_is_drawn_once_for_each_entry, 'statistics'),
  Fault('noise_of_every_row_the_same', 8, 'one row of noise is used for a whole leaf',
        swap(step_noise, 'add_gaussian', faults.one_draw_for_all_rows),
        _M.noise_is_drawn_once_for_each_entry, 'statistics'),
  Fault('noise_of_every_sum_under_vmap_the_same', 8, 'sums under jax.vmap share a state',
        swap(_W, 'each', to(_W.all_at_once)),
        _W.sums_of_one_key_have_noise_of_their_own, 'refusal'),
  Fault('keys_shared_by_stages', 8,
        'the classifiers that name samples begin with the key of the GAN',
        swap(secrets.Secret, 'key', lambda f: lambda self, purpose: f(self, 'dp_sgd')),
        _M.stages_share_no_key, 'exactness'),
  Fault('noise_key_shared_by_purposes', 8, 'fakes are drawn with the key of the batches',
        swap(gan.GAN, '_fake_key', to(
          lambda self, state, purpose: jax.random.fold_in(state.batch_key, state.step))),
        _S.every_draw_of_a_run_has_a_key_of_its_own, 'exactness', slow=True),
  Fault('noise_of_every_run_the_same', 8, 'a run without a seed starts from a constant key',
        swap(secrets.Secret, 'from_os', to(classmethod(lambda cls: cls(bytes(32))))),
        _M.keys_come_from_the_operating_system, 'statistics'),
  Fault('noise_reused_after_restart', 8, 'a restart draws the noise of the first steps again',
        swap(loop.Run, '_start_or_resume', faults.noise_starts_anew),
        _G.a_resumed_run_ends_as_an_uninterrupted_one, 'exactness', slow=True),
  Fault('bfloat16_sum', 9, 'clipped gradients are summed in bfloat16',
        swap(clipping, 'clipped_sum', faults.bfloat16_sum),
        _M.sums_and_noise_are_float32, 'exactness'),
  Fault('bfloat16_noise', 9, 'noise in the dtype of the gradients',
        swap(_dtypes, 'accumulation_dtype', to(lambda dtype: dtype)),
        _M.sums_and_noise_are_float32, 'exactness'),
  Fault('float_noise', 9, 'float32 normals on a float32 sum, whose bits tell the sum',
        swap(step_noise, 'add_gaussian', to(faults.float_noise)),
        _M.noise_leaves_no_bits_of_the_sum, 'exactness'),
  Fault('float_centre', 9, "float32 normals on the float32 sum of a classifier's features",
        swap(exact_noise, 'release_sum', to(faults.float_release)),
        _M.a_release_sums_exactly, 'exactness'),
  Fault('bounded_noise', 9, 'the radius of the noise from 32 bits: no value beyond 6.7 σ',
        swap(step_noise, 'from_words', lambda f: lambda words, scale: f(
          [jnp.maximum(words[0], 1), *words[1:]], scale)),
        _M.noise_reaches_far, 'exactness'),
  Fault('noise_on_every_device', 10, 'each device adds noise of its own to its sum',
        swap(transforms, 'noise_sum', faults.wrapped_update(faults.noise_of_each_device)),
        _D.steps_are_those_of_one_device, 'exactness', slow=True),
  Fault('noise_before_the_sum', 10, 'sums are not added up over devices before the noise',
        swap(sums.Grids, 'values', faults.of_one_device),
        _D.steps_are_those_of_one_device, 'refusal'),
  Fault('noise_key_of_a_device', 10, 'the noise key follows the number of the device',
        swap(transforms, 'step_key', faults.key_of_a_device),
        _D.steps_are_those_of_one_device, 'exactness'),
  Fault('average_after_the_noise', 10, 'the mean over devices is taken after the noise',
        swap(transforms, 'noise_sum', faults.wrapped_update(faults.mean_after_the_noise)),
        _D.steps_are_those_of_one_device, 'exactness', slow=True),
  Fault('count_of_a_device', 10, 'each device divides by its own share of the batch size',
        swap(sums.Grids, 'values', faults.mean_over_devices),
        _D.steps_are_those_of_one_device, 'exactness'),
  Fault('q_of_a_device', 10, 'each device samples its own records at its own q',
        swap(sampling.TruncatedPoissonSampler, '__call__', faults.batch_of_a_device),
        _D.steps_are_those_of_one_device, 'exactness'),
  Fault('cap_of_a_device', 10, 'each device cuts its share at its part of the batch size',
        swap(sharding.Split, 'present', faults.cap_of_a_device),
        _D.steps_are_those_of_one_device, 'exactness', slow=True),
  Fault('sums_of_sums_clipped', 10, "a device's example is clipped together with the others'",
        swap(clipping.sharding, 'alike', to(lambda tree, axes=None: tree)),
        _D.steps_are_those_of_one_device, 'exactness', slow=True),
)  # fmt: skip

_GAN = (
  Fault('fakes_as_many_as_came', 11, 'as many fakes count as real examples came',
        faults.fakes_as_many_as_came(), _G.the_fake_half_does_not_follow_the_real_batch,
        'exactness', slow=True),
  Fault('reused_batch', 12, 'one batch for five steps of the discriminator',
        swap(sampling.TruncatedPoissonSampler, '__call__', lambda f: lambda self, key, step: f(
          self, key, step // 5)),
        _M.batches_are_poisson, 'statistics'),
  Fault('penalty_beside_the_loss', 13, 'the gradient penalty on real images is not clipped',
        faults.real_data_as_public(lambda logit, image: losses.gradient_penalty(
          logit, image, jnp.zeros_like(image), jnp.float32(0.5))),
        _G.one_example_moves_a_penalised_discriminator_no_further, 'exactness', slow=True),
  Fault('real_label_counts', 14, "labels of fakes in the real classes' shares",
        swap(gan.GAN, '_fakes', faults.real_labels), _G.labels_of_fakes_are_uniform, 'statistics',
        slow=True),
  Fault('real_data_as_public', 15, 'real images in the gradient that gets no noise',
        faults.real_data_as_public(lambda logit, image: jax.nn.softplus(-logit(image))),
        _G.one_example_moves_the_discriminator_by_at_most_its_share, 'exactness', slow=True),
  Fault('public_before_the_noise', 15, 'the public gradient is divided by B with the noisy sum',
        swap(transforms, 'noise_sum', faults.wrapped_update(
          lambda update, u, s, *a, public_grads=None, **k: update(
            u, s, *a, public_grads=None if public_grads is None else jax.tree.map(
              lambda p: p / 10, public_grads), **k))),
        _M.public_gradients_are_added_after_the_noise, 'exactness'),
  Fault('pace_by_real_loss', 16, "n_D follows D's loss on real images",
        swap(gan.GAN, '_d_step', faults.pace_by_real_loss),
        _G.private_data_enter_by_the_discriminators_update_alone, 'exactness', slow=True),
)  # fmt: skip

_REPORT = (
  Fault('step_size_by_real_loss', 16, 'a step size behind the noise follows the private loss',
        swap(_W, 'around', to(_W.loss_of_the_records)),
        _W.optimizers_see_noisy_sums_alone, 'refusal'),
  Fault('step_size_by_real_gradients', 16, 'step sizes follow the sum before the noise (mechanize)',
        swap(_W, 'held', to(_W.mechanized)),
        _W.optimizers_see_noisy_sums_alone, 'refusal'),
  Fault('metrics_claimed_as_covered', 17, 'the report covers d_loss_real',
        swap(statement_text, 'COVERED', lambda lines: (*lines, 'Numbers: d_loss_real.')),
        _G.the_report_covers_nothing_computed_on_real_data, 'report', slow=True),
  Fault('metric_not_marked', 17, 'd_loss_real is taken for a number on fakes',
        swap(metrics, 'REAL_DATA_METRICS', lambda names: names - {'d_loss_real'}),
        _G.what_follows_the_data_is_marked_private, 'exactness', slow=True),
  Fault('ledger_published', 17, 'the report lets the ledger be published',
        swap(statement.Statement, 'files', lambda f: lambda self: [
          {**row, 'publish': 'yes'} if row['file'] == 'ledger.jsonl' else row for row in f(self)]),
        _G.the_report_covers_nothing_computed_on_real_data, 'report', slow=True),
  Fault('truncation_not_accounted', 18, 'the batch is cut at its cap, the accounting is not',
        faults.event(truncated_batch_size=to(10**6)),
        _M.the_event_is_what_the_sampler_does, 'exactness'),
  Fault('cut_not_in_the_accountant', 18, 'the accountant ignores the cut of the event',
        swap(accounting, '_epsilon', faults.accountant_of(
          truncated_batch_size=lambda step: step.dataset_size)),
        _M.two_computations_of_epsilon_agree, 'second opinion'),
  Fault('cut_keeps_lowest_indices', 18, 'a cut keeps the examples with the lowest indices',
        swap(sampling.TruncatedPoissonSampler, '__call__', faults.lowest_indices_kept),
        _M.a_cut_keeps_a_random_subset, 'statistics'),
  Fault('accountant_promises_more', 18, 'an accountant whose noise is 10 % larger',
        swap(accounting, '_epsilon', faults.accountant_of(
          noise_multiplier=lambda step: 1.1 * step.noise_multiplier)),
        _M.two_computations_of_epsilon_agree, 'second opinion'),
  Fault('tuning_not_disclosed', 19, 'the report does not say that tuning costs privacy',
        swap(statement_text, 'TUNING', to('')), _G.the_report_says_that_tuning_costs, 'report'),
  Fault('seed_of_31_bits', 20, 'the secret comes from a seed of 31 bits',
        swap(secrets.Secret, 'from_os', to(classmethod(lambda cls: cls.of_seed(
          int.from_bytes(os.urandom(4), 'little') >> 1)))),
        _M.keys_come_from_the_operating_system, 'exactness'),
  Fault('seed_not_named', 20, 'the report of a run with a fixed seed does not say so',
        swap(run_statement, 'Statement', faults.remade(seed_fixed=False)),
        _G.the_report_names_a_seed_and_does_not_tell_it, 'report', slow=True),
  Fault('seed_told', 20, 'the report tells the seed',
        swap(statement_text, 'SEED', lambda words: f'{words}: {gan_checks.SEED}'),
        _G.the_report_names_a_seed_and_does_not_tell_it, 'report', slow=True),
  Fault('caveats_not_stated', 21, 'the report is silent about floating point and the generator',
        swap(statement.Statement, 'caveats', to(lambda self: [])),
        _G.the_report_states_its_caveats, 'report'),
)  # fmt: skip

_LEDGER = (
  Fault('charged_late', 22, 'steps are charged after they were taken',
        swap(Ledger, 'charge', faults.charged_late), _G.steps_are_charged_before_they_are_taken,
        'exactness', slow=True),
  Fault('report_of_taken_steps', 22, 'the report counts the steps of the last checkpoint',
        swap(run_statement, '_charged_steps', to(lambda run, budget, taken: (taken, True))),
        _G.the_report_counts_what_is_charged, 'report'),
  Fault('budget_overrun', 23, 'a run takes one step more than its budget',
        swap(mechanism_checks, 'OVERRUN', to(1)), _M.a_run_stays_within_its_budget, 'refusal'),
  Fault('ledger_one_off', 23, 'the ledger lets step T + 1 pass',
        swap(Ledger, 'charge', lambda f: lambda self, up_to_step, stage=budget.STAGE: f(
          self, min(up_to_step, self._stages[stage].steps), stage)),
        _M.the_ledger_refuses_a_step_beyond_the_budget, 'exactness'),
  *(Fault(f'resumed_with_other_{name}', 24, f'a run is resumed with another {name}',
          _resumed(**{name: value}), _M.a_run_resumes_as_it_began, 'refusal')
    for name, value in (
      ('noise_multiplier', 5.0), ('l2_clip_norm', 2.0), ('batch_size', 31),
      ('num_examples', 1441), ('steps', 91), ('truncated_batch_size', 60),
      ('neighboring_relation', 'replace_special'), ('delta', 1e-5), ('data_fingerprint', 'beef'))),
)  # fmt: skip

_ONE_STREAM = swap(exact_noise, 'RandomBits', lambda f: lambda secret, purpose: f(
  secret, re.sub(r'class \d+', 'class 0', purpose)))  # fmt: skip
_HALF_NOISE = swap(exact_noise, 'draw_at_least', lambda f: lambda square, *rest: f(
  square / 4, *rest))  # fmt: skip
# Planted by strangers, and seen by no fast check of that time.
_STRANGERS = (
  Fault('noise_again_after_256_steps', 8, 'noise comes again after 256 steps',
        swap(transforms, 'noise_sum', faults.wrapped_update(leaks.every_256)),
        _S.no_two_steps_share_noise, 'statistics'),
  Fault('batches_again_after_256_steps', 12, 'batches come again after 256 steps',
        swap(sampling.TruncatedPoissonSampler, '__call__', lambda f: lambda self, key, step: f(
          self, key, step % 256)),
        _S.no_two_steps_share_a_batch, 'statistics', slow=True),
  Fault('fakes_bound_from_real_norms', 15,
        "the fakes' bound is taken from real norms where the cap is below 2B",
        leaks.LEAKS["fakes' bound from real norms"], _T.records_enter_by_the_noised_sum_alone,
        'data flow', slow=True),
  Fault('failed_runs_left_out', 22, "failed runs are left out of a sweep's composition",
        swap(sweep_table, 'read', leaks.without_failed_runs), _R.failed_runs_count_in_a_sweep,
        'exactness'),
  Fault('centre_of_those_who_came', 1, 'the centre is divided by the number who came',
        swap(classifier.Classifier, 'release_centre', leaks.centre_of_those_who_came),
        _R.the_centre_is_divided_by_the_public_number, 'exactness'),
  Fault('moments_half_noise', 2, 'noise of moments at half the standard deviation', _HALF_NOISE,
        _P.noise_of_moments_is_charged, 'statistics', slow=True),
  Fault('moments_real_counts', 14, 'samples are drawn in the real proportions of the classes',
        swap(release, 'release_means', faults.with_real_counts),
        _P.noise_of_moments_is_charged, 'statistics'),
  Fault('moments_one_stream', 8, 'all classes get the noise of the first', _ONE_STREAM,
        _P.classes_have_noise_of_their_own, 'statistics'),
  Fault('moments_unclipped', 2, 'codes are not clipped',
        swap(exact_noise, 'to_grid', to(faults.grid_without_clipping)),
        _P.one_record_moves_moments_by_one, 'exactness'),
  Fault('moments_true_centre', 2, 'the common mean of images is released as it is',
        swap(ImageEncoding, 'release_centre', faults.without_noise),
        _P.noise_of_moments_is_charged, 'statistics'),
  Fault('moments_centre_not_charged', 1, 'centre and sums both get the noise of the whole stage',
        swap(ImageEncoding, '_divided', to(lambda self, sigma: (sigma, sigma))),
        _P.noise_of_moments_is_charged, 'exactness'),
  Fault('moments_real_distances', 17, 'sums are bounded by how far records really are',
        swap(ImageEncoding, 'release_means', faults.scaled_by_real_distances),
        _P.bounds_follow_from_what_was_released, 'exactness'),
  Fault('moments_around_the_real_mean', 17, 'covariances are around the mean of the records',
        swap(release, 'release_seconds', faults.around_the_real_mean),
        _P.covariances_are_around_what_was_released, 'exactness'),
  Fault('features_centred_by_records', 17, 'scattering features are centred by their mean',
        swap(ScatteringEncoding, 'encode', faults.centred_by_records),
        _P.codes_are_of_one_image_each, 'exactness'),
  Fault('features_along_axes_of_records', 17, 'codes are along the axes of the records themselves',
        swap(ScatteringEncoding, 'release_axes', faults.axes_of_records),
        _P.axes_follow_from_what_was_released, 'exactness'),
  Fault('draft_not_charged', 1, 'the draft and class means both get the noise of the whole stage',
        swap(scattering_encoding, '_parts', to(lambda sigma: (sigma, sigma))),
        _P.what_an_image_is_part_of_is_charged, 'exactness'),
  Fault('cells_not_charged', 1, 'each round of cells gets the noise of the whole stage',
        swap(ImageEncoding, '_divided', faults.whole_rounds),
        _P.what_an_image_is_part_of_is_charged, 'exactness'),
  Fault('cells_of_records', 17, 'cells are around sums of the records as they are',
        swap(image_encoding, 'release_cells', faults.cells_of_records),
        _P.cells_follow_from_what_was_released, 'exactness'),
  Fault('table_true_counts', 2, 'counts of a table are released as they are',
        swap(marginals, 'with_noise', lambda f: lambda counts, sigma, *rest: f(counts, 0.0, *rest)),
        _C.noise_of_counts_is_charged, 'statistics'),
  Fault('table_noise_of_one_way_counts', 2, 'two-way counts get the noise of one-way counts',
        swap(marginals, 'with_noise', faults.noise_of_one_way_counts),
        _C.noise_of_counts_is_charged, 'statistics'),
  Fault('table_one_stream', 8, 'all classes of a table get the noise of the first', _ONE_STREAM,
        _C.classes_of_rows_have_noise_of_their_own, 'statistics'),
  Fault('table_scores_not_charged', 1, 'scores and counts of pairs both get the whole noise',
        swap(table_encoding, 'of_second', to(lambda sigma: (sigma, sigma))),
        _C.scores_and_counts_of_pairs_are_charged, 'exactness'),
  Fault('table_pairs_chosen_by_records', 17, 'pairs are chosen by scores without noise',
        swap(pairs.TwoWay, 'release_scores', faults.without_noise),
        _C.scores_and_counts_of_pairs_are_charged, 'exactness'),
  Fault('table_scores_taken_twice', 2, 'scores are twice as large as their noise is made for',
        swap(pairs, 'over_cells', lambda f: lambda *arguments: 2 * f(*arguments)),
        _C.one_row_moves_counts_by_one, 'exactness'),
  Fault('table_row_counted_twice', 2, 'a row is counted twice',
        swap(marginals, 'with_noise', lambda f: lambda counts, *rest: f(2 * counts, *rest)),
        _C.one_row_moves_counts_by_one, 'exactness'),
  Fault('table_cells_of_the_data', 15, 'cells lie between the least and the largest number',
        swap(TableEncoding, 'encode', faults.cells_between_real_bounds),
        _C.cells_are_public, 'exactness'),
  Fault('table_cells_of_real_counts', 15, 'coarse cells follow from the records themselves',
        swap(TableEncoding, 'release_seconds', faults.cells_of_real_counts),
        _C.one_row_moves_counts_by_one, 'exactness'),
  Fault('table_persons_rows_taken_as_one', 2, "a person's k rows are taken for one row",
        swap(marginals, 'squared_sensitivity', lambda f: lambda of_a_row, rows=1: f(of_a_row)),
        _C.a_person_moves_counts_by_one, 'exactness'),
  Fault('table_noise_of_one_row_for_persons', 2, 'two-way counts of persons get the noise of rows',
        swap(pairs, 'TwoWay', lambda f: lambda *a, rows_per_record, **k: f(*a, **k)),
        _C.noise_of_persons_is_charged, 'statistics'),
  Fault('table_classes_of_persons_in_parallel', 2, "a person's rows are taken to be in k classes",
        swap(marginals, 'squared_sensitivity', lambda f: lambda of_a_row, rows=1: (
          rows * f(of_a_row))),
        _C.a_person_moves_counts_by_one, 'exactness'),
  Fault('table_persons_rows_not_bounded', 2, 'all rows of a person count',
        (*swap(persons, 'kept', lambda f: lambda whose, rows, most: np.ones(len(rows), bool)),
         *swap(TableDataset, '_check_persons', to(lambda self: None))),
        _C.a_person_moves_counts_by_one, 'exactness'),
  Fault('table_persons_bounded_by_the_file', 15, 'of a person the rows of the first places count',
        swap(persons, 'kept', lambda f: lambda whose, rows, most: np.arange(len(rows)) < most),
        _C.rows_of_a_person_follow_from_that_person, 'exactness'),
  Fault('table_holdout_splits_persons', 15, 'rows are held out, and not persons',
        swap(TableDataset, 'content', to(property(lambda self: np.column_stack(
          [self.records, self.labels])))),
        _C.a_person_is_held_out_as_a_whole, 'exactness'),
  Fault('schema_not_charged', 22, 'a schema is found without a charge in the ledger',
        swap(Ledger, 'charge', lambda f: lambda self, step, stage=budget.STAGE: (
          None if stage == 'schema' else f(self, step, stage))),
        _F.the_schema_is_charged_before_it_is_found, 'exactness'),
  Fault('schema_not_in_epsilon', 22, 'ε of a run leaves out the schema',
        swap(settings, 'budget_of', lambda f: lambda stages: f(
          {name: m for name, m in stages.items() if name != 'schema'})),
        _F.the_schema_counts_in_epsilon, 'exactness'),
  Fault('schema_rows_of_a_person_taken_as_one', 2, "a person's k rows count with the noise of one",
        swap(OpenTable, 'first_rows', to(property(lambda self: np.ones(len(self), bool)))),
        _F.one_person_moves_the_counts_by_one, 'exactness'),
  Fault('schema_sensitivity_of_one_column', 2, 'all columns get the noise of one',
        swap(search, 'squared_sensitivity', to(lambda schema: 1)),
        _F.one_row_moves_the_counts_by_one, 'exactness'),
  Fault('schema_half_noise', 2, 'counts that a schema is found by have half the noise', _HALF_NOISE,
        _F.noise_of_the_schema_is_charged, 'statistics'),
  Fault('schema_bounds_of_the_data', 15, 'bounds are the least and the largest number',
        swap(search._Search, '_bounds', faults.bounds_of_the_data),
        _F.what_one_record_has_is_not_in_the_schema, 'exactness'),
  Fault('schema_categories_of_the_data', 15, 'categories are named whatever their counts',
        swap(selection, 'threshold', to(lambda *_: -math.inf)),
        _F.what_one_record_has_is_not_in_the_schema, 'exactness'),
  Fault('series_true_profile', 2, 'what is alike over time is released as it is',
        swap(exact_noise, 'release_sum', lambda f: lambda *a, **k: f(
          *a, **{**k, 'noise_multiplier': 0.0})),
        _Q.noise_of_series_is_charged, 'statistics', slow=True),
  Fault('series_profile_of_real_counts', 2, 'the profile is scaled by counts without noise',
        swap(SeriesEncoding, 'release_means', faults.scaled_by_real_counts),
        _Q.profiles_follow_from_the_release, 'exactness'),
  Fault('series_values_of_real_rates', 2, 'values over time are scaled by rates without noise',
        swap(SeriesEncoding, 'release_means', faults.scaled_by_real_rates),
        _Q.values_follow_from_the_released_rates, 'exactness'),
  Fault('series_half_the_noise', 2, 'counts and profile do not share the first release',
        swap(SeriesEncoding, 'release_means', lambda f: lambda *a, noise_multiplier, **k: f(
          *a, noise_multiplier=noise_multiplier * math.sqrt(0.5), **k)),
        _Q.noise_of_series_is_charged, 'statistics', slow=True),
  Fault('series_one_stream', 8, 'all classes of series get the noise of the first', _ONE_STREAM,
        _Q.parts_have_noise_of_their_own, 'statistics'),
  Fault('series_unclipped', 2, 'profiles and scores are not clipped',
        swap(exact_noise, 'to_grid', to(faults.grid_without_clipping)),
        _Q.one_sequence_moves_sums_by_one, 'exactness'),
  Fault('series_range_of_the_data', 15, 'values are scaled by the least and the largest',
        swap(Summaries, '_scaled', faults.scaled_by_real_bounds),
        _Q.summaries_are_public, 'exactness'),
  Fault('keys_not_durable', 22, 'keys are not on the disk before the first charge',
        swap(checkpoint.Checkpoints, 'save', leaks.first_state_not_saved),
        _R.keys_are_on_the_disk_before_the_first_charge, 'exactness'),
)  # fmt: skip

# What others found in the package, and would be found again.
_FOUND = (
  Fault('rounding_not_in_the_norms', 2, 'norms by products of rows without a bound on rounding',
        swap(forms, '_gram_squares', to(faults.gram_as_computed)),
        _N.rounding_lets_no_example_exceed_the_clip_norm, 'exactness', slow=True),
  Fault('rounding_of_sums_not_counted', 2, 'clipped gradients are added up as float32 numbers',
        swap(sums, 'grids', lambda f: lambda c, n, params: f(math.inf, n, params)),
        _N.rounding_moves_no_sum_farther_than_the_clip_norm, 'exactness'),
  Fault('batches_in_order', 2, 'who joins a batch comes first in it, and moves the others',
        swap(sampling.TruncatedPoissonSampler, '__call__', faults.in_order),
        _N.padding_is_anywhere_in_a_batch, 'statistics', slow=True),
  Fault('cropped_convolution', 7, 'convolutions that crop and pad are left to XLA',
        swap(convolutions, 'without_negative_padding', to(lambda program: program)),
        _N.a_masked_example_is_read_by_no_other, 'exactness'),
  Fault('complex_taken_for_real', 9, 'a complex number is taken for one real number',
        swap(_dtypes, '_RIGHT', lambda right: right | {'complex64'}),
        _N.complex_numbers_are_refused, 'exactness'),
  Fault('accumulated_around_the_noise', 8, 'updates of four batches with their noise (MultiSteps)',
        swap(_W, 'held', to(_W.accumulated)), _W.optimizers_see_noisy_sums_alone, 'refusal'),
  Fault('pairs_by_place', 13, 'a record is paired with a fake by its place in the batch',
        swap(losses, 'partners', lambda f: lambda key, examples, fakes: f(
          key, jnp.arange(len(examples)), fakes)),
        _N.pairs_follow_from_the_example_alone, 'exactness'),
  Fault('holdout_by_permutation', 15, 'who is held out follows a permutation of N',
        swap(sources, 'chosen', to(lambda records, share: np.random.default_rng(0).permutation(
          len(records)) < share * len(records))),
        _N.sides_follow_from_the_record_alone, 'exactness'),
  Fault('seed_without_the_data', 8, 'noise of a seed is that of all data and mechanisms',
        swap(secrets.Secret, 'of_seed', lambda f: classmethod(
          lambda cls, seed, *bound_to: f.__func__(cls, seed))),
        _N.runs_of_one_seed_share_no_noise, 'exactness'),
  Fault('keys_drawn_by_each_copy', 22, 'a stage draws its key when it begins',
        swap(secrets.Secret, 'key', to(lambda self, purpose: jax.random.key(
          int.from_bytes(os.urandom(4), 'little')))),
        _N.copies_of_a_run_are_one_release, 'exactness'),
  Fault('checkpoint_of_another_run', 24, "another run's weights under this run's ledger",
        swap(checkpoint.Checkpoints, '__init__', lambda f: lambda self, directory, **named: f(
          self, directory, **{**named, 'identity': None})),
        _N.checkpoints_are_those_of_the_run, 'exactness'),
  Fault('generator_of_the_process', 8, 'keys are of the generator that the process is set to',
        swap(secrets.Secret, 'key', to(lambda self, purpose: jax.random.key(0))),
        _N.keys_are_of_one_generator, 'exactness'),
)  # fmt: skip

_OUTSIDE = (
  *(Fault(f'plugin_{name}', 7, f'{what} in a discriminator from outside',
          swap(_O.PLUGIN, 'network of a plugin', to(middle)),
          _O.a_plugins_discriminator_looks_at_one_example_at_a_time, 'refusal')
    for name, what, middle in (
      ('batch_norm', 'batch norm', _O.BATCH_NORM),
      ('mean_of_the_batch', 'the mean of the batch, in no layer that has a name',
       _O.WITHOUT_A_NAME),
      ('memory', 'a state that the records feed', _O.MEMORY))),
  Fault('plugin_classifier', 7, 'batch norm in a private classifier from outside',
        swap(_O.PLUGIN, 'network of a plugin', to(_O.BATCH_NORM)),
        _O.a_plugins_classifier_looks_at_one_example_at_a_time, 'refusal'),
  Fault('plugins_not_looked_at', 7, 'networks from outside are taken as they are',
        swap(per_example, 'require_per_example', to(lambda *_: None)),
        _O.plugins_are_looked_at, 'exactness'),
  *(Fault(f'guarantee_of_{name}', 17, f'a bundle whose {what} was altered',
          swap(_O.ALTERED, 'a received bundle', to(functools.partial(*alter))),
          _O.a_bundle_says_what_it_costs, 'refusal')
    for name, what, *alter in (
      ('generator', "generator's guarantee", _O.generator_says,
       'epsilon 0.5, delta 1e-09 for one image, add_or_remove_one'),
      ('samples', "samples' guarantee", _O.samples_say, 'epsilon 0.5, delta 1e-04'),
      ('report', 'ε in the report', _O.page_says, 'report.md', 'ε', '0.5'),
      ('card', 'δ in the card of the data', _O.page_says, 'DATA_CARD.md', 'δ', '1e-09'))),
)  # fmt: skip

_LINES = {
  'public gradients of real images': 15, 'fakes from a real statistic': 16,
  'as many fakes as came': 11, 'D by the sum without noise': 2, 'D by the clean sum as well': 2,
  'the average of G by real images': 16, 'the realised batch as divisor': 1,
  'the pace by the realised batch': 16, 'the sum in the state': 17, 'fakes by the noise key': 8,
  'fakes by the batch key': 8, 'a loss shown to the host': 17, 'two sums in a step': 12,
  "the centre's zeros without noise": 2, 'an average by accuracy': 16,
}  # fmt: skip
_LEAKS = tuple(
  Fault('leak_' + re.sub(r'\W+', '_', name).lower(), line, name, leaks.LEAKS[name],
        _T.records_enter_by_the_noised_sum_alone, 'data flow', slow=True)
  for name, line in _LINES.items()
)  # fmt: skip

FAULTS: tuple[Fault, ...] = (
  *_MECHANISM, *_GAN, *_REPORT, *_LEDGER, *_STRANGERS, *_FOUND, *_OUTSIDE, *_LEAKS,
)  # fmt: skip
