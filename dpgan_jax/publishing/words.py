"""What a kind of records is called, and what is particular to it, in pages that are published."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from dpgan_jax.data.series.schema import SeriesSchema
from dpgan_jax.data.spec import Spec
from dpgan_jax.data.tables.schema import Column, Schema
from dpgan_jax.models.config import TrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Words:
  """Parts of sentences.

  Attributes:
    record, records: one sample and several.
    units: several of those whose records are private.
    group: what holds of a person with several; nothing where the usual is (`text.GROUP`).
    doubt: what may be doubtful of one, a sentence or nothing.
    form: what each is like.
    contents: what the file of samples holds and how it is read, sentences; `{num}` is the number
      of samples.
    made: how a draw becomes a record, the beginning of a sentence.
    constants: public numbers and rules beside N, sentences.
    moments: the kind of model that a release of moments is.
    releases: what the two releases of moments are.
    released: what each of them is, in a few words.
    tag: what models and data sets of the kind are called on a hub.
    tasks: of a data set with classes, and of one without.
  """

  record: str
  records: str
  units: str
  group: str = ''
  doubt: str = ''
  form: str
  contents: str
  made: str
  constants: str
  moments: str
  releases: str
  released: tuple[str, str]
  tag: str
  tasks: tuple[str, str]


_RELEASES = (
  'Two releases, each of which costs what one Gaussian mechanism over all records does. Of each '
  'class: '
)


def of(spec: Spec, config: TrainConfig | None = None) -> Words:
  """The words for the records that `spec` describes; of releases by the settings `config`."""
  if isinstance(spec.schema, SeriesSchema):
    return _of_series(spec, spec.schema)
  if spec.schema is not None:
    return _of_tables(spec)
  return _of_images(spec, config is not None and config.matching_steps is not None)


def _of_images(spec: Spec, matched: bool) -> Words:
  height, width, channels = spec.shape
  shape = f'{{num}}, {height}, {width}{f", {channels}" if channels > 1 else ""}'
  labels = ', and `y`, int64 [{num}]' if spec.num_classes > 1 else ''
  size = f'{height}×{width}×{channels}'
  codes, begun = 'lowest frequencies', 'common mean'
  draft, code = '', 'its lowest frequencies, a public function of it.'
  if matched:
    codes, begun = 'scattering features and low frequencies', 'a draft'
    draft = 'a draft, mean and covariance of low frequencies of all images, and '
    code = (
      'where its scattering features and low frequencies are along the axes in which those of the '
      "draft's draws vary most. A generator learnt to make images that have these moments, from "
      'them alone; one that strays into another class, by them, is drawn again.'
    )
  return Words(
    record='image',
    records='images',
    units='images',
    doubt=' What an image shows may be of doubtful class, or of none.',
    form=f'images, {height}×{width}, {"grey" if channels == 1 else "RGB"}',
    contents=f'`x`, uint8 [{shape}]{labels}. Read it with `numpy.load`, which needs no pickle for '
    'it.',
    made='Pixels are mapped to 0–255 and rounded',
    constants=f'the image size ({size}). Pixels are scaled by constants, not by the data\'s own '
    'statistics.',
    moments=f'one Gaussian or several for each class, of the {codes} of an image'
    f'{", and a generator that makes images of them" * matched}',
    releases=f"{_RELEASES}the sum of its records' codes and their number; then the sum of (x - "
    'μ)(x - μ)ᵀ of codes x clipped around the mean μ that the first release gave. The first begins '
    f'with {draft}the mean of all codes and their distance from it. Where noise is little it ends '
    'with the same sums of parts of each class, the codes nearest to each of some centres, and '
    f'covariances are of parts. A code of an image is {code}',
    released=(f'{begun}, class means and counts', 'covariances'),
    tag='image-generation',
    tasks=('image-classification', 'unconditional-image-generation'),
  )  # fmt: skip


def _of_tables(spec: Spec) -> Words:
  assert spec.schema is not None
  columns = len(spec.schema.columns)
  who = _declared(spec.schema, spec.schema.columns)
  most, rows, taking = spec.schema.max_rows_per_unit, '', 'record'
  if most is not None:
    taking = 'row'
    rows = (
      f' Of a person at most {most} rows count: those whose hashes, of person and row and with a '
      'public key, are least. Whose a row is, is in no sample: rows of one person are not known to '
      'belong together.'
    )
  return Words(
    record='row',
    records='rows',
    units=f'{spec.schema.unit}s',
    group='' if most is None else f'It is for a person with all their rows that count, {most} '
    'at most, whatever they hold and whichever classes they are of.',
    form=f'rows of {columns} columns',
    contents='a table with the columns, names and order of the private one, in UTF-8 with commas. '
    'Identifiers in it are made afresh.',
    made='Values are rounded to the resolution of their column',
    constants='the schema: names of columns, categories, bounds and resolutions, as '
    f'{who}. Values are counted in cells that follow from it, not from the data.{rows}',
    moments='a model of how each two of its columns go together',
    releases=f'{_found(spec.schema)}{_RELEASES}how many {taking}s are in each cell of each column; '
    'then scores of how two columns go together, and of those that do, how many are in each pair '
    'of cells. Cells follow from the schema and public numbers.',
    released=('one-way counts', 'scores of pairs and two-way counts'),
    tag='tabular',
    tasks=('tabular-classification', 'other'),
  )  # fmt: skip


def _found(schema: Schema) -> str:
  """How a part of the schema was found, sentences; nothing where all of it was declared."""
  if not any(column.found for column in schema.columns):
    return ''
  one = ' (one row of each person)' if schema.unit_column is not None else ''
  return (
    f'Before all else, the schema: of each column that was not described, how many records{one} '
    'are in each of some public cells of numbers, then of cells within the bounds that these have '
    'shown; how many have each category, of which those with enough are named; how many a missing '
    'value. '
  )


def _declared(schema: Schema, parts: Iterable[Any]) -> str:
  """By whom the schema is; its parts are what may have been drafted."""
  who = 'declared by the data owner'
  if schema.declared_public:
    who = 'declared public, all at once, by the data owner'
  if any(part.drafted for part in parts):
    who += ', who had parts of it drafted from the data'
  if found := sum(bool(part.found) for part in parts if isinstance(part, Column)):
    who += f'; what {found} of its columns may hold was found by the run, and is part of ε'
  return who


def _of_series(spec: Spec, schema: SeriesSchema) -> Words:
  steps, channels = schema.grid.steps, len(schema.channels)
  who = _declared(schema, (*schema.columns, *schema.channels, schema.grid))
  return Words(
    record='sequence',
    records='sequences',
    units='sequences',
    form=f'sequences of {steps} steps and {channels} channels, with {len(schema.columns)} static '
    'columns',
    contents=f'`x`, float64 [{{num}}, {steps}, {channels}], NaN where nothing is measured; '
    '`channels`, their names; and an array of each static column, by its name. Read it with '
    '`numpy.load`, which needs no pickle for it.',
    made='Values are rounded to the resolution of their channel',
    constants='the schema: the grid of times, names of channels and columns, categories, bounds, '
    f'typical ranges and resolutions, as {who}. Sequences are summarised, and summaries counted in '
    'cells, by rules that follow from it, not from the data.',
    moments='a Gaussian for each class, of normal scores of the summaries of a sequence',
    releases=f'{_RELEASES}how many sequences are in each cell of each summary, and the sum of '
    'what describes the variation within a sequence, clipped; then the sum of products of the '
    'normal scores of its summaries, clipped. A sequence is one record with its static columns.',
    released=('counts of summaries and patterns in time', 'products of normal scores'),
    tag='time-series',
    tasks=('tabular-classification', 'other'),
  )  # fmt: skip
