"""What can be said of a run: the guarantee, what it covers, and what it does not.

A `Statement` is facts, and the sentences that follow from them. It holds no path, no time, nothing
computed from private data, no fingerprint of them and no seed, so that it may be published itself.
`run_statement.build` makes one from a run directory.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from dpgan_jax import _environment, _markdown
from dpgan_jax._records import json_ready
from dpgan_jax.budget import cross_check
from dpgan_jax.data.spec import Spec
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.gans.verdict import GANVerdict
from dpgan_jax.models.moments.settings import MEANS, SCHEMA
from dpgan_jax.models.moments.verdict import Verdict
from dpgan_jax.networks.discriminators import UNACCOUNTED
from dpgan_jax.privacy import accounting
from dpgan_jax.privacy.accounting import rounded_down, show_epsilon
from dpgan_jax.privacy.mechanism import DPMechanism
from dpgan_jax.publishing import caveats, meaning, verdicts, words
from dpgan_jax.publishing import statement_text as text
from dpgan_jax.publishing.verdicts import PICTURE
from dpgan_jax.run.directory import SAMPLES

_FORMAT = 1
# What may leave of the environment. A name that is not here stays inside, whatever it may hold.
ENVIRONMENT = (
  'dpgan_jax', 'python', *(name.replace('-', '_') for name in _environment.PACKAGES),
  'backend', 'device', 'devices', 'devices_used',
)  # fmt: skip

_PUBLISH_LINE = {
  verdicts.YES: 'May be published: ',
  verdicts.IF_SECRET: 'May be published only if the seed stays secret: ',
  verdicts.NO: 'Keep private: ',
}

@dataclasses.dataclass(frozen=True, kw_only=True)
class Statement:
  """What can be said of a run; make it with `build`.

  Attributes:
    config: the settings, without the seed.
    mechanism: the mechanism of the GAN, as run.
    beside: the mechanisms of the other stages by name: of the classifiers that name samples. They
      are part of every ε here, whole.
    spec: what is public of the data.
    seed_fixed: whether the keys came from a seed that somebody knows.
    steps_taken: steps of the latest checkpoint.
    steps_charged: steps paid for in the ledger, ≥ `steps_taken`. ε is for these.
    beside_finished: whether the other stages are charged whole in the ledger too.
    curve: pairs (δ, ε) that hold for the steps charged.
    epsilon: ε of the steps charged at the mechanism's δ; `inf` without a guarantee.
    epsilon_budgeted: ε once all T steps are charged.
    second_opinion: bounds from the second computation: what two data sets attain, and what the
      accounted steps cost at most; None without a guarantee.
    environment_at_start: software and hardware that the run started on.
    environment_now: software and hardware that this statement was made with.
    tuning_note: what the data owner says about how settings were chosen; None: nothing.
    verdict: what samples can be good for, from what was released; None: nothing can be said.
  """

  config: TrainConfig
  mechanism: DPMechanism
  beside: Mapping[str, DPMechanism]
  spec: Spec
  seed_fixed: bool
  steps_taken: int
  steps_charged: int
  beside_finished: bool
  curve: tuple[tuple[float, float], ...]
  epsilon: float
  epsilon_budgeted: float
  second_opinion: cross_check.Interval | None
  environment_at_start: Mapping[str, Any]
  environment_now: Mapping[str, Any]
  tuning_note: str | None
  verdict: Verdict | GANVerdict | None = None

  @property
  def holds(self) -> bool:
    """Whether there is a guarantee at all: a finite ε."""
    return math.isfinite(self.epsilon)

  @property
  def is_of_moments(self) -> bool:
    """Whether moments were released; otherwise a GAN was trained."""
    return self.config.method == 'moments'

  @property
  def finished(self) -> bool:
    """Whether all T steps have been taken, and those of the other stages."""
    return self.steps_taken == self.mechanism.steps and self.beside_finished

  # --- sentences ---------------------------------------------------------------------------------

  def guarantee(self) -> str:
    """The guarantee, or its absence, in one sentence."""
    m = self.mechanism
    if why := UNACCOUNTED.get(self.config.discriminator):
      return f'NO PRIVACY GUARANTEE: {why}.'
    if not m.is_private:
      return (
        'NO PRIVACY GUARANTEE: this run was trained without noise (σ = 0), so ε is infinite and '
        'nothing computed from it is protected.'
      )
    if not self.holds:
      return (
        f'NO PRIVACY GUARANTEE: noise of σ = {m.noise_multiplier!r} gives no finite ε at δ = '
        f'{m.delta!r} over {self.steps_charged} steps, so nothing computed from this run is '
        'protected.'
      )
    condition = (
      '; the seed was fixed by the user, so this holds only against those who neither know nor '
      f'can guess it ({text.SEED})'
      if self.seed_fixed
      else ''
    )
    subject, charged = 'The generator of this run', f'the {self.steps_charged} steps'
    also = ' and the other stages (see Mechanism)' if self.beside else ''
    if self.is_of_moments:
      count = 'three' if SCHEMA in self.beside else 'two'
      parts = f'its {count} parts' if self.steps_charged else f'all but the last of {count} parts'
      subject, charged, also = 'The release of this run', parts, ''
    return (
      f'{subject}, and everything computed from it without using the private '
      f'data again, is (ε, δ)-differentially private with ε = {show_epsilon(self.epsilon)} and δ '
      f'= {m.delta!r} for {charged} charged in the ledger{also}, for any '
      f'{text.NEIGHBOURS[m.neighboring_relation]} ({m.neighboring_relation}; '
      f'one record: {self.spec.unit}){condition}.'
    )

  def progress(self) -> str:
    """How far the run is, and what it has spent and may spend."""
    total = self.mechanism.steps
    if self.is_of_moments:
      done = f'finished: {self._all} releases are made' if self.finished else 'not finished'
      return f'The run is {done}.'
    if self.finished:
      return f'The run is finished: {self.steps_taken} of T = {total} steps taken, as many charged.'
    if self.steps_taken == total:
      return (
        f'The run is not finished: all T = {total} steps of the GAN are taken, but not those of '
        f'what names its samples. ε is {show_epsilon(self.epsilon)} with these.'
      )
    return (
      f'The run is not finished: its latest checkpoint has taken {self.steps_taken} of T = '
      f'{total} steps. {self.steps_charged} are charged, since steps are paid for before they '
      f'are taken: ε so far is {show_epsilon(self.epsilon)}. With all T steps it will be '
      f'{show_epsilon(self.epsilon_budgeted)}.'
    )

  def second_opinion_sentence(self) -> str:
    """What the second computation of ε found."""
    if self.second_opinion is None or not self.holds:
      return 'There is no finite ε to check by a second computation.'
    lower, upper = self.second_opinion
    return (
      'Second opinion, without that library: the exact ε of these steps is at least '
      f'{rounded_down(lower):.4g} ({cross_check.METHODS["lower"]}; {text.ATTAINED}) and at most '
      f'{show_epsilon(upper)} ({cross_check.METHODS["upper"]}). Every ε of this statement was '
      'compared with bounds on what the accountant was asked for.'
    )

  def randomness(self) -> str:
    """Where the keys came from."""
    if self.seed_fixed:
      return (
        f'A seed fixed by the user: {text.SEED}. Seeds have at most 32 bits, few enough to try '
        'them all. For a release, train without a seed.'
      )
    return text.SECRET_OF_RELEASES if self.is_of_moments else text.SECRET

  def files(self) -> list[dict[str, str]]:
    """For every file that a run leaves: whether it may be published, and why."""
    return verdicts.of_files(
      holds=self.holds, seed_fixed=self.seed_fixed, samples=SAMPLES[self.spec.kind]
    )

  def caveats(self) -> list[str]:
    """What a reader has to take on trust, or take into account."""
    outside = caveats.of_plugins(self.environment_at_start.get('plugins', {}))
    return outside + caveats.of(self.config, self.mechanism, self.spec)

  # --- as a whole --------------------------------------------------------------------------------

  def to_json(self) -> dict[str, Any]:
    """Everything, for machines: strict JSON, an infinite number is the string 'inf'."""
    m = self.mechanism
    settings, said = self.config.to_dict(), words.of(self.spec, self.config)
    return json_ready(
      {
        'format': _FORMAT,
        'statement': self.guarantee(),
        'meaning': meaning.of(self.epsilon, m, self.spec),
        'guarantee': {
          'holds': self.holds,
          'epsilon': self.epsilon,
          'delta': m.delta,
          'neighboring_relation': m.neighboring_relation,
          'neighbours': text.NEIGHBOURS[m.neighboring_relation],
          'unit_of_privacy': f'one record: {self.spec.unit}',
          'group_privacy': said.group or text.GROUP,
          'condition': self.randomness() if self.holds and self.seed_fixed else None,
          'curve': [{'delta': delta, 'epsilon': epsilon} for delta, epsilon in self.curve],
        },
        'progress': {
          'finished': self.finished,
          'steps_taken': self.steps_taken,
          'steps_charged': self.steps_charged,
          'steps_budgeted': m.steps,
          'epsilon_budgeted': self.epsilon_budgeted,
        },
        'mechanism': {
          **m.to_dict(),
          'divisor': m.batch_size,
          'sampling': said.releases if self.is_of_moments else text.SAMPLING,
          'noise': self._noise() if m.is_private else 'none',
          'num_examples_is_public': True,
        },
        'mechanisms_beside': {name: b.to_dict() for name, b in self.beside.items()},
        'accounting': self._accounting(),
        'randomness': {
          'seed_fixed': self.seed_fixed,
          'generator': 'threefry2x32',
          'key': self.randomness(),
        },
        'data': {
          'name': self.config.dataset,
          'record': self.spec.unit,
          'image_shape': list(self.spec.shape) if self.spec.kind == 'image' else None,
          'schema': None if self.spec.schema is None else self.spec.schema.to_record(),
          'num_classes': self.spec.num_classes,
        },
        'settings': {k: v for k, v in settings.items() if k != 'seed' and k not in m.to_dict()},
        'verdict': None if self.verdict is None else dataclasses.asdict(self.verdict),
        'covered': list(self._covered()) if self.holds else [],
        'not_covered': list(self._not_covered()) if self.holds else [text.NOTHING_COVERED],
        'files': self.files(),
        'tuning': {
          'stated': self.tuning_note is not None,
          'note': self.tuning_note,
          'disclosure': text.TUNING,
          'defaults': text.DEFAULTS,
        },
        'caveats': self.caveats(),
        'environment': {'at_start': self.environment_at_start, 'now': self.environment_now},
      }
    )

  def to_markdown(self) -> str:
    """Everything, for people, on a page or two."""
    m = self.mechanism
    facts, how = self.to_json(), self._accounting()
    first, released = self.beside.get(MEANS), words.of(self.spec, self.config).released
    of_moments = {
      'N, number of records (public here)': m.num_examples,
      f'σ of {released[0]}': first and first.noise_multiplier,
      f'σ of {released[1]}': m.noise_multiplier,
      **text.found(self.beside.get(SCHEMA)),
      'δ': repr(m.delta),
      'ε of the releases charged': show_epsilon(self.epsilon),
      f'ε of {self._all} releases': show_epsilon(self.epsilon_budgeted),
      'neighbouring relation': m.neighboring_relation,
    }
    numbers = {
      'N, number of records (public here)': m.num_examples,
      'B, expected batch, and divisor of the noisy sum': m.batch_size,
      'q = B/N, rounded down to a multiple of 2⁻³⁰': m.sampling_probability,
      'cap on a batch': m.truncated_batch_size,
      "C, clip norm of one record's gradient": accounting.infinity(m.l2_clip_norm),
      'σ, noise relative to C': m.noise_multiplier,
      'T, steps in the budget': m.steps,
      'steps charged / taken': f'{self.steps_charged} / {self.steps_taken}',
      'δ': repr(m.delta),
      'ε of the steps charged': show_epsilon(self.epsilon),
      'ε of all T steps': show_epsilon(self.epsilon_budgeted),
      'neighbouring relation': m.neighboring_relation,
    }
    names = [n for n in ENVIRONMENT if n in self.environment_at_start or n in self.environment_now]
    title = 'Privacy statement' if self.holds else 'NO PRIVACY GUARANTEE'
    note = text.NOT_STATED
    if self.tuning_note:
      note = f'The data owner states:\n\n> {self.tuning_note}'
    sections = (
      f'# {title}',
      self.guarantee(),
      f'{facts["guarantee"]["group_privacy"]} {self.progress()}' if self.holds else self.progress(),
      '## What this means',
      _markdown.bullets(facts['meaning']),
      *(['## What the samples can be good for', self.verdict.sentence] if self.verdict else []),
      '## Mechanism as run',
      _markdown.table(('', ''), (of_moments if self.is_of_moments else numbers).items()),
      *self._beside(),
      f'{facts["mechanism"]["sampling"]} '
      + (self._noise() if m.is_private else 'No noise is added.'),
      f'Accounting: {how["library"]} {how["version"]}, {how["accountant"]}, '
      f'{how["discretisation"]}. {self.second_opinion_sentence()}',
      f'Keys: {self.randomness()}',
      '## ε at other δ',
      'The same run satisfies all of these at once. Those with δ ≥ 1/N say little.',
      f'![ε over δ]({PICTURE})',
      _markdown.table(('δ', 'ε'), ((repr(d), show_epsilon(e)) for d, e in self.curve)),
      '## Covered by the guarantee',
      _markdown.bullets(facts['covered']) or 'Nothing.',
      '## Not covered',
      _markdown.bullets(facts['not_covered']),
      '## What may be published',
      _markdown.table(('file', 'may be published', 'why'), (row.values() for row in self.files())),
      '## Tuning',
      f'{text.TUNING} {text.DEFAULTS}',
      note,
      '## Caveats',
      _markdown.bullets(self.caveats()),
      '## Environment',
      _markdown.table(
        ('', 'at the start of the run', 'of this statement'),
        (
          (n, self.environment_at_start.get(n, 'not recorded'), self.environment_now.get(n, ''))
          for n in names
        ),
      ),
    )
    return '\n\n'.join(sections) + '\n'

  def _beside(self) -> list[str]:
    """The stages beside the GAN, as a sentence and a table."""
    if not self.beside or self.is_of_moments:
      return []
    rows = (
      (name, b.batch_size, b.l2_clip_norm, b.noise_multiplier, b.steps)
      for name, b in self.beside.items()
    )
    what, how = 'what names the samples is trained', ()
    if self.config.moments_share is not None:
      what = 'moments are released, of which the generator refines draws'
      how = (f'Of these: {words.of(self.spec).releases} {text.EXACT_NOISE}',)
    return [
      f'On the same records, {what}. These stages are part of every ε of this statement, whole:',
      _markdown.table(('stage', 'B', 'C', 'σ', 'T'), rows),
      *how,
    ]

  def summary(self) -> str:
    """A few lines for the terminal."""
    m = self.mechanism
    if self.holds:
      first = (
        f'Privacy: ε = {show_epsilon(self.epsilon)} at δ = {m.delta!r} '
        f'({m.neighboring_relation}, one record = {self.spec.unit})'
      )
    else:
      first = self.guarantee()
    steps = f'Steps: {self.steps_taken} of T = {m.steps} taken, {self.steps_charged} charged'
    lines = [first, self.progress() if self.is_of_moments else steps]
    if self.seed_fixed and self.holds:
      lines.append(f'Seed fixed: {text.SEED}')
    if self.verdict:
      lines.append(f'Samples: {self.verdict.sentence}')
    publish: dict[str, list[str]] = {}
    for row in self.files():
      publish.setdefault(row['publish'], []).append(row['file'])
    lines += [_PUBLISH_LINE[k] + ', '.join(v) for k, v in publish.items()]
    if not self.tuning_note:
      lines.append(
        'How settings were chosen is not stated: say it with `python -m dpgan_jax.report '
        '--run_dir=... --tuning_note="..."`'
      )
    return '\n'.join(lines)

  @property
  def _all(self) -> str:
    """How many releases of moments there are, as a word."""
    return 'all three' if SCHEMA in self.beside else 'both'

  def _noise(self) -> str:
    return text.EXACT_NOISE if self.is_of_moments else text.NOISE

  def _not_covered(self) -> tuple[str, ...]:
    return text.MOMENTS_NOT_COVERED if self.is_of_moments else text.NOT_COVERED

  def _covered(self) -> tuple[str, ...]:
    return text.MOMENTS_COVERED if self.is_of_moments else text.COVERED

  def _accounting(self) -> dict[str, Any]:
    how = text.of_moments(self.beside.get(SCHEMA)) if self.is_of_moments else text.OF_STEPS
    return {
      'library': 'dp-accounting',
      'version': self.environment_now['dp_accounting'],
      **how,
      'second_opinion': text.second_opinion(self.second_opinion) if self.holds else None,
    }
