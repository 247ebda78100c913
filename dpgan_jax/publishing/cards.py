"""The Markdown of a published bundle: model card, data card, and a note on use.

The model card has the sections of Mitchell et al. (2019, "Model Cards for Model Reporting",
section 4), the data card those of Gebru et al. (2021, "Datasheets for Datasets", section 3), each
below the YAML header that Hugging Face reads from the README.md of a repository. Everything follows
from the run's `Statement` and from what `release` drew: no path, no time, no number computed on
real data. What only the data owner can know is left to fill in, and says so.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from dpgan_jax import _markdown
from dpgan_jax.data import distort
from dpgan_jax.privacy.accounting import show_epsilon
from dpgan_jax.publishing import caveats, statement_text, words
from dpgan_jax.publishing.statement import Statement
from dpgan_jax.run.directory import SAMPLES

_OWNER = '*To be filled in by the data owner.*'
_SIZES = ((1e3, 'n<1K'), (1e4, '1K<n<10K'), (1e5, '10K<n<100K'), (1e6, '100K<n<1M'))
_ALARM = (
  '# ⚠ NO PRIVACY GUARANTEE ⚠\n\n'
  '**THIS WAS TRAINED WITHOUT DIFFERENTIAL PRIVACY. MODEL AND SAMPLES MAY REVEAL THE TRAINING '
  'DATA, UP TO COPIES OF WHOLE RECORDS.**'
)


@dataclasses.dataclass(frozen=True)
class About:
  """What the cards are made from.

  Attributes:
    statement: of the run.
    num: samples in the bundle.
    clearest: the share of what was drawn that they are, the clearest of each class.
    distorted: whether they were distorted.
    class_counts: of these samples, per class; None where they have no classes.
    parameters: of the generator.
    licence: as named by the data owner, or None.
  """

  statement: Statement
  num: int
  clearest: float
  distorted: bool
  class_counts: tuple[int, ...] | None
  parameters: int
  licence: str | None


def model_card(about: About) -> str:
  """The model card: MODEL_CARD.md, or the README.md of a model repository."""
  s, config = about.statement, about.statement.config
  said = words.of(s.spec)
  facts = s.to_json()
  header = {
    'license': about.licence or 'unknown',
    'library_name': 'dpgan_jax',
    'pipeline_tag': said.tasks[1],
    'tags': _tags(s),
  }
  details = {
    **_made_of(about),
    'output': said.form,
    'trained with': f'dpgan_jax {s.environment_at_start.get("dpgan_jax", "(not recorded)")}',
    'licence': about.licence or 'none was named',
  }
  sections = (
    _title(s, f'Model card: synthetic {_text(config.dataset)} {said.records}'),
    _guarantee(s),
    '## Model details',
    _table(details),
    'Load it with `dpgan_jax.DPGAN.load("generator.safetensors")`, then `.sample(1000)`. The file '
    'is safetensors: loading it runs no code. It holds the model and public settings; no '
    'discriminator, optimizer state or key.',
    '## Intended use',
    f'Drawing synthetic {said.records}, in any number, in place of the private ones: for teaching, '
    'for building and testing software, for method development. Sampling costs no privacy.',
    'Not for: learning about any one person; decisions about people without a check on real data '
    'of what was concluded from synthetic; estimating how common a class is, as '
    + (
      'the frequencies of classes are not those of the data.'
      if about.class_counts is not None and not s.is_of_moments
      else 'noise distorts frequencies.'
      if s.is_of_moments
      else 'the noise of training distorts frequencies.'
    ),
    *(('## How useful', s.verdict.sentence) if s.verdict else ()),
    '## Factors',
    'Noise hides what few records have in common before it hides what many have: rare classes, '
    'rare values and small groups come out worst, or not at all. Whoever depends on a group should '
    'compare it with real data, inside the data owner\'s walls.',
    '## Metrics',
    f'None are published here. Scores of samples against real {said.records}, such as the accuracy '
    'of a classifier trained on samples, read these without noise, so that ε does not cover them; '
    'the data owner can compute them with `dpgan_jax.evaluate`.',
    '## Training data',
    _training_data(about),
    '## Evaluation data',
    'None: see Metrics.',
    '## Quantitative analyses: privacy',
    _table(
      {
        'ε': show_epsilon(s.epsilon),
        'δ': repr(s.mechanism.delta),
        'neighbouring relation': s.mechanism.neighboring_relation,
        'accountant': f'{facts["accounting"]["accountant"]}, {facts["accounting"]["library"]} '
        f'{facts["accounting"]["version"]}',
        'keys': s.randomness(),
      }
    ),
    f'The whole statement is in `report.md`. {s.progress()}',
    '## Ethical considerations',
    _coverage(s),
    '## Caveats and recommendations',
    _markdown.bullets(s.caveats()),
  )
  return _yaml(header) + '\n\n'.join(sections) + '\n'


def data_card(about: About) -> str:
  """The data card: DATA_CARD.md, or the README.md of a dataset repository."""
  s = about.statement
  said = words.of(s.spec)
  lines = caveats.preparation(s.config, s.mechanism.neighboring_relation, said.units)
  prepared = ''.join(f'{line} ' for line in lines)
  labelled = about.class_counts is not None
  size = next((name for limit, name in _SIZES if about.num < limit), 'n>1M')
  header = {
    'license': about.licence or 'unknown',
    'pretty_name': f'Synthetic {s.config.dataset}',
    'size_categories': [size],
    'task_categories': [said.tasks[0 if labelled else 1]],
    'tags': _tags(s),
  }
  sections = (
    _title(s, f'Data card: synthetic {_text(s.config.dataset)} {said.records}'),
    _guarantee(s),
    '## Motivation',
    f'To share the use of private {said.records} without sharing them. {_OWNER}',
    '## Composition',
    f'{about.num:,} {said.form}, in `{SAMPLES[s.spec.kind]}`: '
    f'{said.contents.format(num=about.num)} Each {said.record} was drawn from noise by the '
    'generator in `generator.safetensors`; none was taken from the private data.',
    _classes(about),
    f'There are no splits, and no links to other data. {_chosen(about)}{said.doubt}',
    '## Collection process',
    'Drawn by the generator with a key from the operating system, which was not kept. '
    + _training_data(about),
    '## Preprocessing, cleaning, labelling',
    f'{said.made}; {_changed(about)}. {_labels(about)}'
    f'{prepared}What else was done to the private data before training: {_OWNER}',
    '## Uses',
    'As for the model: see `MODEL_CARD.md`. '
    f'Results on these {said.records} are no results on the private ones.',
    '## Distribution',
    f'Licence: {_text(about.licence) if about.licence else "none was named by the data owner"}. '
    'Every file of this bundle is listed in `SHA256SUMS`.',
    '## Maintenance',
    _OWNER + ' A second release trained on the same private data has an ε of its own, and the two '
    'add up.',
    '## Privacy',
    _coverage(s),
  )
  return _yaml(header) + '\n\n'.join(sections) + '\n'


def usage(about: About) -> str:
  """What a receiver may do and has to know, on half a page."""
  s = about.statement
  granted = (
    f'The data owner names this licence for weights and samples: {_text(about.licence)}.'
    if about.licence
    else 'The data owner has named no licence for weights and samples: ask before you use them '
    'beyond what the law allows anyway.'
  )
  sections = (
    _title(s, 'Use of this bundle'),
    _guarantee(s),
    f'{granted} The code of dpgan_jax, by which they were made, is under Apache 2.0 and claims no '
    'right in what it makes.',
    'No use and no computation on these files can weaken the guarantee above, whatever else is '
    'known; it is about the training data only.'
    if s.holds
    else 'Do not pass these files on without this warning.',
    'Nobody promises that samples are true, fair or fit for your purpose.',
    'Check the files with `sha256sum -c SHA256SUMS`, and files, formats and ε with '
    '`python -m dpgan_jax.release --verify=.`. Nothing here needs pickle: refuse a copy that does.',
  )
  return '\n\n'.join(sections) + '\n'


# --- what the cards have in common ---------------------------------------------------------------


def _made_of(about: About) -> dict[str, Any]:
  """What kind of model it is, for a table."""
  s, config = about.statement, about.statement.config
  if s.is_of_moments:
    return {
      'kind': words.of(s.spec, config).moments,
      'architecture': f'none; {about.parameters:,} released numbers'
      if config.matching_steps is None
      else f'`matcher`; {about.parameters:,} released numbers and parameters',
      'input': 'a class',
    }
  with_class = ' and a class' if about.class_counts is not None else ''
  return {
    'kind': f'generator of a GAN, {_kind(about)}',
    'architecture': f'`{config.generator}`, {about.parameters:,} parameters',
    'input': f'z, standard normal, {config.latent_dim} numbers{with_class}',
    'discriminator steps': s.steps_taken,
  }


def _kind(about: About) -> str:
  if about.statement.beside:
    return 'unconditional, with a private classifier that names its samples'
  return 'class-conditional' if about.class_counts is not None else 'unconditional'


def _title(s: Statement, text: str) -> str:
  return f'# {text}' if s.holds else f'{_ALARM}\n\n# {text}'


def _guarantee(s: Statement) -> str:
  group = words.of(s.spec).group or statement_text.GROUP
  return f'{s.guarantee()} {group}' if s.holds else f'**{s.guarantee()}**'


def _training_data(about: About) -> str:
  s = about.statement
  classes = f' in {s.spec.num_classes} classes' if s.spec.num_classes > 1 else ' without classes'
  return (
    f'The private data set {_text(s.config.dataset)}, of N = {s.mechanism.num_examples:,} '
    f'{words.of(s.spec).units} (N is treated as public){classes}. It is not part of this '
    f'bundle. Where it comes from, and with whose consent: {_OWNER}'
  )


def _coverage(s: Statement) -> str:
  tuning = (
    f'How settings were chosen, in the words of the data owner: {_text(s.tuning_note)}'
    if s.tuning_note
    else 'How settings were chosen is not stated.'
  )
  if not s.holds:
    return f'Nothing is protected. {tuning}'
  covered = 'Everything in this bundle is covered by the guarantee above. **Not covered** are:'
  return '\n\n'.join((covered, _markdown.bullets(s.to_json()['not_covered']), tuning))


def _classes(about: About) -> str:
  if about.class_counts is None:
    return f'The {words.of(about.statement.spec).records} have no labels.'
  names = about.statement.spec.class_names
  rows = {
    f'{i}: {_text(name)}': count
    for i, (name, count) in enumerate(zip(names, about.class_counts, strict=True))
  }
  how = 'Classes are drawn equally often, whatever the real counts:'
  if about.statement.is_of_moments:
    how = 'Classes are drawn in the proportions of the noisy counts:'
  elif about.statement.beside:
    how = 'Private classifiers have labelled the samples; the counts are not the real ones:'
  return f'{how}\n\n{_table(rows, ("class", "samples"))}'


def _chosen(about: About) -> str:
  if about.statement.config.matching_steps is not None and about.class_counts is not None:
    return (
      'An image that by the released moments strays into another class is drawn again, at most '
      'four times, where few do: shapes between two classes are rarer than in what the generator '
      'draws.'
    )
  if about.clearest == 1:
    return 'Samples are not filtered or chosen.'
  return (
    f'Of all images that were drawn, these are the {100 * about.clearest:g} % of each class that '
    'the classifier which names them is surest of: shapes between two classes are rarer than in '
    'what the generator draws.'
  )


def _changed(about: About) -> str:
  if not about.distorted:
    return 'nothing else is done'
  return (
    f'then each image is turned by at most {distort.TURN:g} degrees, shifted by at most '
    f'{100 * distort.SHIFT:.2g} % of its side, scaled by at most {100 * distort.SCALE:g} % and '
    f'slanted by at most {distort.SHEAR:g}, at random, after its class is settled'
  )


def _labels(about: About) -> str:
  if about.class_counts is None or about.statement.spec.schema is not None:
    return ''
  if about.statement.beside and not about.statement.is_of_moments:
    return 'Labels are what a private classifier says, not what somebody saw. '
  return 'Labels are what the generator was asked for, not what somebody saw. '


def _tags(s: Statement) -> list[str]:
  private = 'differential-privacy' if s.holds else 'no-privacy-guarantee'
  return ['synthetic', s.config.method or 'gan', words.of(s.spec).tag, private]


def _yaml(fields: Mapping[str, Any]) -> str:
  """A header; JSON's scalars and lists are YAML's too, whatever characters a name holds."""
  lines = [f'{name}: {json.dumps(value, ensure_ascii=True)}' for name, value in fields.items()]
  return '\n'.join(['---', *lines, '---', '', ''])


def _text(value: str | None) -> str:
  """A name that somebody chose, as one line that cannot end a table's cell or open a tag."""
  line = ' '.join(str(value).split())
  return ''.join(f'\\{c}' if c in '\\`|<>[]*_#' else c for c in line if c.isprintable())


def _table(rows: Mapping[str, Any], header: tuple[str, str] = ('', '')) -> str:
  return _markdown.table(header, rows.items())
