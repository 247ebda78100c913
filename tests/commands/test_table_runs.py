"""Tables by the commands: drafted, trained, sampled, scored, published, and refused in one line."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import json
import pathlib
import re
import shutil
import types

import numpy as np
import pytest

from dpgan_jax import evaluate, release, report, sample
from dpgan_jax._validate import InputError
from dpgan_jax.data.tables import generated
from dpgan_jax.data.tables.dataset import TableDataset
from dpgan_jax.data.tables.files import read, schema_file, write
from dpgan_jax.publishing import bundle, run_statement
from dpgan_jax.run import generator_file
from dpgan_jax.run.directory import RunDir
from dpgan_jax.run.releases import moments
from tests.support import tables
from tests.support.commands import Command

pytestmark = pytest.mark.usefixtures('short_curve')

ROWS = 600
# Few cells: fitting them takes most of a run.
FLAGS = (
  '--dataset=table', '--target_epsilon=4', '--delta=1e-4', '--num_samples=200',
  '--moments_coefficients=2',
)  # fmt: skip


@pytest.fixture(scope='module')
def commands():
  """Commands by name, each imported once."""
  with contextlib.ExitStack() as stack:
    names = ('train', 'schema')
    yield types.SimpleNamespace(
      **{n: stack.enter_context(contextlib.closing(Command(f'dpgan_jax.{n}'))) for n in names}
    )


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> pathlib.Path:
  return tmp_path_factory.mktemp('tables')


def _few_columns(data: TableDataset) -> TableDataset:
  """Of each kind one: a run takes half of the time."""
  kept = ('id', 'age', 'region', 'smoker', 'lab', 'outcome')
  chosen = [c.name in kept for c in data.schema.modelled]
  columns = tuple(c for c in data.schema.columns if c.name in kept)
  schema = dataclasses.replace(data.schema, columns=columns)
  return dataclasses.replace(
    data, schema=schema, records=np.ascontiguousarray(data.records[:, chosen])
  )


@pytest.fixture(scope='module')
def data(folder, commands) -> tuple[str, str]:
  """Flags of a table of people, and of a schema that was drafted and declared public."""
  people = _few_columns(tables.some(generated.people(), slice(0, ROWS)))
  csv_file, schema = folder / 'people.csv', folder / 'people.schema.json'
  write.export(csv_file, people.schema, people.records, people.labels)
  done = commands.schema(
    str(csv_file), f'--out={schema}', '--target=outcome', '--declare_public'
  )
  assert done.status == 0, done.err
  assert 'Every entry is declared public' in done.out
  return f'--data={csv_file}', f'--schema={schema}'


@pytest.fixture(scope='module')
def trained(folder, commands, data) -> tuple[pathlib.Path, str]:
  """A run, and what it said."""
  run = folder / 'run'
  done = commands.train(*FLAGS, *data, f'--run_dir={run}')
  assert done.status == 0, done.err
  return run, done.out


@pytest.fixture(scope='module')
def released(folder, trained) -> pathlib.Path:
  out = folder / 'bundle'
  bundle.release(RunDir.open(trained[0], create=False), out, num=150)
  return out


def _rows(path: pathlib.Path) -> list[list[str]]:
  with open(path, encoding='utf-8', newline='') as file:
    return list(csv.reader(file))


def _run(own_flags, command, *arguments: str) -> None:
  command.define_flags()
  own_flags(['', *arguments])
  command.main()


# --- training -------------------------------------------------------------------------------------


def test_a_run_says_what_it_spent_and_what_it_leaves(trained, folder):
  run, said = trained
  assert re.search(r'table: 5\d\d rows of 6 columns, target outcome', said)
  assert 'rows are held out, never trained on' in said
  assert 'Privacy: ε = 3.9' in said
  assert 'Samples: ' in said
  made, given = _rows(run / 'samples.csv'), _rows(folder / 'people.csv')
  assert made[0] == given[0]
  assert len(made) == 201
  assert [row[0] for row in made[1:]] == [str(i) for i in range(1, 201)]  # ids afresh
  assert (run / 'samples.png').is_file()
  schema = schema_file.read_schema(folder / 'people.schema.json')
  assert len(read.read_table(run / 'samples.csv', schema)) == 200


def test_a_run_that_counted_other_cells_is_not_misread(trained, tmp_path, own_flags, monkeypatch):
  """Its ε is what it was: there is a report, without a verdict on the samples."""
  run = RunDir.open(trained[0], create=False)
  whole = run_statement.build(run)
  monkeypatch.setattr(moments, '_OTHER_CELLS_BEFORE', 99)
  with pytest.raises(InputError, match='counted other pairs of cells'):
    _run(own_flags, sample, f'--run_dir={run.path}', '--num=5', f'--out={tmp_path / "x"}')
  found = run_statement.build(run)
  assert found.epsilon == whole.epsilon
  assert (found.verdict, whole.verdict is None) == (None, False)


def test_both_releases_are_in_the_ledger_and_N_is_what_is_trained_on(trained):
  run = RunDir.open(trained[0], create=False)
  config = run.load_config()
  record = json.loads((trained[0] / 'report.json').read_text('utf-8'))
  assert 500 < config['data']['num_records'] < ROWS
  assert record['verdict']['level'] in ('useless', 'poor', 'usable', 'good')
  stages = [json.loads(line) for line in run.ledger.read_text('utf-8').splitlines()]
  assert len(stages) == 3


def test_the_report_says_what_is_protected_and_that_the_schema_is_public(trained):
  page = (trained[0] / 'report.md').read_text('utf-8')
  assert 'one row' in page
  assert 'declared public, all at once, by the data owner, who had parts of it drafted' in page
  not_covered = page.split('## Not covered')[1].split('## What may be published')[0]
  assert 'Other runs on the same data' in not_covered
  for word in ('losses.png', 'batches', 'cropping'):
    assert word not in not_covered, word
  assert 'resolution' in page
  assert 'how many rows are in each cell of each column' in page.replace('records', 'rows')
  assert 'scores of how two columns go together' in page
  assert 'σ of scores of pairs and two-way counts' in page
  for word in ('copula', 'z·zᵀ', 'covarianc'):
    assert word not in page, word
  for word in ('pixel', 'image', 'frequenc', 'discriminator'):
    assert word not in page.split('## Not covered')[0].lower(), word


def test_the_same_command_again_draws_lost_samples_and_charges_nothing(trained, commands, data):
  run = trained[0]
  before = {name: (run / name).read_bytes() for name in ('ledger.jsonl', 'samples.csv')}
  (run / 'samples.csv').unlink()
  done = commands.train(*FLAGS, *data, f'--run_dir={run}')
  assert done.status == 0, done.err
  assert {name: (run / name).read_bytes() for name in before} == before


def test_another_schema_or_other_rows_do_not_continue_a_run(trained, commands, data, tmp_path):
  before = (trained[0] / 'ledger.jsonl').read_bytes()
  record = json.loads(pathlib.Path(data[1].partition('=')[2]).read_text('utf-8'))
  age = next(c for c in record['columns'] if c['name'] == 'age')
  age['upper'] += 1
  other = tmp_path / 'other.json'
  other.write_text(json.dumps(record))
  done = commands.train(*FLAGS, data[0], f'--schema={other}', f'--run_dir={trained[0]}')
  assert done.status == 2
  assert re.fullmatch('error: [^\n]*(another run|another mechanism)[^\n]*\n', done.err), done.err
  rows = _rows(pathlib.Path(data[0].partition('=')[2]))
  rows[1][1] = rows[2][1] if rows[2][1] != rows[1][1] else rows[3][1]
  changed = tmp_path / 'changed.csv'
  with open(changed, 'w', encoding='utf-8', newline='') as file:
    csv.writer(file).writerows(rows)
  done = commands.train(*FLAGS, f'--data={changed}', data[1], f'--run_dir={trained[0]}')
  assert done.status == 2
  assert re.fullmatch('error: [^\n]*(another run|another mechanism)[^\n]*\n', done.err), done.err
  assert (trained[0] / 'ledger.jsonl').read_bytes() == before


def _last(text: str) -> str:
  return text.splitlines(keepends=True)[-1]


def test_an_unconfirmed_schema_is_refused_and_nothing_is_left(commands, data, tmp_path):
  draft = tmp_path / 'draft.json'
  csv_file = data[0].partition('=')[2]
  assert commands.schema(csv_file, f'--out={draft}', '--target=outcome').status == 0
  done = commands.train(*FLAGS, data[0], f'--schema={draft}', f'--run_dir={tmp_path / "run"}')
  assert done.status == 2
  assert re.fullmatch('error: [^\n]*were read from private data[^\n]*\n', _last(done.err))
  assert sorted(p.name for p in tmp_path.iterdir()) == ['draft.json']


@pytest.mark.parametrize(
  ('flags', 'words'),
  [
    (('--steps=10',), 'moments'),
    pytest.param(('--image_size=28',), 'image_size', marks=pytest.mark.slow),
    pytest.param(('--channels=1',), 'channels', marks=pytest.mark.slow),
    (('--target_epsilon=0.01',), 'samples would be useless'),
  ],
)
def test_what_is_not_of_tables_is_refused_before_anything_is_read(
  commands, data, tmp_path, flags, words
):
  done = commands.train(*FLAGS, *data, f'--run_dir={tmp_path / "run"}', *flags)
  assert done.status == 2, done.out
  assert re.fullmatch('error: [^\n]*\n', _last(done.err)), done.err
  assert words in _last(done.err)
  assert not (tmp_path / 'run').exists()


def test_the_plan_of_the_generated_table(commands):
  done = commands.train('--dataset=people', '--target_epsilon=1', '--dry_run')
  assert done.status == 0, done.err
  assert 'people: 5000 rows of 12 columns, target outcome' in done.out
  assert 'method: moments' in done.out


# --- sampling -------------------------------------------------------------------------------------


def test_csv_and_parquet_of_one_seed_hold_the_same_in_the_order_of_the_data(
  trained, folder, tmp_path, own_flags
):
  sample.define_flags()
  schema = schema_file.read_schema(folder / 'people.schema.json')
  found = []
  for format in ('csv', 'parquet'):
    out = tmp_path / f's.{format}'
    own_flags.unparse_flags()
    own_flags(['', f'--run_dir={trained[0]}', '--num=60', f'--out={out}', '--seed=1',
               f'--format={format}'])  # fmt: skip
    sample.main()
    found.append(read.read_table(out, schema))
  np.testing.assert_array_equal(found[0].records, found[1].records)
  np.testing.assert_array_equal(found[0].labels, found[1].labels)
  assert (tmp_path / 's.parquet').read_bytes()[:4] == b'PAR1'
  made = _rows(tmp_path / 's.csv')
  assert made[0] == _rows(folder / 'people.csv')[0]
  assert [row[0] for row in made[1:]] == [str(i) for i in range(1, 61)]


def test_formats_of_images_are_refused(trained, tmp_path, own_flags):
  with pytest.raises(InputError, match='expected format to be one of csv, parquet; got npz'):
    _run(own_flags, sample, f'--run_dir={trained[0]}', f'--out={tmp_path / "s"}', '--format=npz')


# --- what leaves the building ---------------------------------------------------------------------


def test_a_bundle_can_be_checked_by_who_receives_it(released, trained, folder, own_flags, capsys):
  _run(own_flags, release, f'--verify={released}')
  assert 'computed again from the mechanism' in capsys.readouterr().out
  assert len(_rows(released / 'samples.csv')) == 151
  model = generator_file.load(released / 'generator.safetensors')
  assert model.spec.schema == schema_file.read_schema(folder / 'people.schema.json')
  assert model.epsilon() == pytest.approx(run_statement.build(RunDir(trained[0])).epsilon)
  for name in (bundle.MODEL_CARD, bundle.DATA_CARD, bundle.USAGE):
    page = (released / name).read_text('utf-8')
    assert 'samples.npz' not in page
    assert 'copula' not in page


@pytest.mark.parametrize(
  ('edit', 'words'),
  [
    (lambda text: text.replace('smoker', 'drinker', 1), 'drinker'),
    (lambda text: text.replace('\n', ',extra\n', 1), 'extra|columns|values'),
    (lambda text: re.sub(r'\n1,\d+,', '\n1,999,', text, count=1), 'age'),
    (lambda text: text.partition('\n')[0] + '\n', 'row|record'),
  ],
)
def test_samples_that_are_not_of_the_schema_are_found_out(released, tmp_path, edit, words):
  """Although the manifest says so."""
  folder = tmp_path / 'bundle'
  shutil.copytree(released, folder)
  path, manifest = folder / 'samples.csv', folder / bundle.MANIFEST
  before = path.read_bytes()
  path.write_text(edit(before.decode()), 'utf-8', newline='')
  assert path.read_bytes() != before
  old, new = (hashlib.sha256(content).hexdigest() for content in (before, path.read_bytes()))
  manifest.write_text(manifest.read_text().replace(old, new))
  with pytest.raises(InputError, match=words) as caught:
    bundle.verify(folder)
  assert '\n' not in str(caught.value)


def test_the_report_again(trained, own_flags, capsys):
  """As the command computes it from what the run has recorded."""
  before = json.loads((trained[0] / 'report.json').read_bytes())
  _run(own_flags, report, f'--run_dir={trained[0]}')
  assert 'ε = 3.9' in capsys.readouterr().out
  again = json.loads((trained[0] / 'report.json').read_bytes())
  for name in ('mechanism', 'data', 'verdict'):
    assert again[name] == before[name]
  assert again['data']['schema']['declared_public']


def test_rows_of_another_schema_are_no_rows_to_score_by(trained, data, tmp_path, own_flags):
  record = json.loads(pathlib.Path(data[1].partition('=')[2]).read_text('utf-8'))
  next(c for c in record['columns'] if c['name'] == 'age')['upper'] += 1
  other = tmp_path / 'other.json'
  other.write_text(json.dumps(record))
  with pytest.raises(InputError, match='the schema that the run was trained with'):
    _run(own_flags, evaluate, f'--run_dir={trained[0]}', data[0], f'--schema={other}')
  own_flags.unparse_flags()
  own_flags(['', f'--run_dir={trained[0]}', *data, '--holdout=0.3'])
  with pytest.raises(InputError, match='the run has recorded its own'):
    evaluate.main()


@pytest.mark.slow
def test_a_run_is_scored(trained, data):
  with contextlib.closing(Command('dpgan_jax.evaluate')) as command:
    done = command(f'--run_dir={trained[0]}', *data, '--quick')
  assert done.status == 0, done.err
  assert 'error' not in done.out.lower()
