"""What leaves the building: the bundle holds what it should, and no byte of what it should not."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy
import yaml
from PIL import Image

from dpgan_jax import DPGAN, _figures, _html, release
from dpgan_jax._validate import InputError
from dpgan_jax.data import datasets
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.publishing import bundle as bundles
from dpgan_jax.publishing import run_statement
from dpgan_jax.run import generator_file, metrics, trainer
from dpgan_jax.run.checkpoint import Checkpoints
from dpgan_jax.run.directory import RunDir
from tests.support import nets

pytestmark = pytest.mark.usefixtures('short_curve')

SEED = 987654321
NOTE = 'Chosen on public digits.'
CONFIG = TrainConfig(
  dataset='digits',
  **nets.SMALLEST, noise_multiplier=4.0, steps=6, batch_size=32, steps_per_report=3,
  d_steps_per_g_step=2, num_samples=20, delta=1e-4,
)  # fmt: skip


def train(folder: pathlib.Path, config: TrainConfig) -> RunDir:
  trainer.train(config, datasets.load_dataset('digits'), folder, progress=False)
  run = RunDir.open(folder, create=False)
  run_statement.write(run, tuning_note=NOTE)
  return run


@pytest.fixture(scope='module')
def run(tmp_path_factory) -> RunDir:
  return train(tmp_path_factory.mktemp('private_place') / 'run', CONFIG)


def copied(run: RunDir, folder: pathlib.Path) -> RunDir:
  return RunDir(pathlib.Path(shutil.copytree(run.path, folder)))


@pytest.fixture(scope='module')
def seeded(run, tmp_path_factory) -> RunDir:
  del run  # the same program, compiled already
  return train(tmp_path_factory.mktemp('private_place') / 'seeded', CONFIG.replace(seed=SEED))


@pytest.fixture(scope='module')
def state(run) -> Any:
  return state_of(run)


def state_of(run: RunDir) -> Any:
  gan = trainer.restore_model(run.path).model.gan
  with Checkpoints(run.checkpoints) as checkpoints:
    restored = checkpoints.restore_latest(jax.eval_shape(gan.init, jax.random.key(0)))
  assert restored is not None
  return restored[1]


@pytest.fixture(scope='module')
def bundle(run, tmp_path_factory) -> pathlib.Path:
  before = files_of(run.path)
  out = tmp_path_factory.mktemp('public') / 'bundle'
  bundles.release(run, out, num=200, licence='cc-by-4.0')
  assert files_of(run.path) == before  # only read
  return out


@pytest.fixture(scope='module')
def seeded_bundle(seeded, tmp_path_factory) -> pathlib.Path:
  out = tmp_path_factory.mktemp('public') / 'bundle'
  bundles.release(seeded, out, num=20, seed_is_secret=True)
  return out


def files_of(folder: pathlib.Path) -> dict[str, bytes]:
  found = (p for p in sorted(folder.rglob('*')) if p.is_file())
  return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}


# --- the search for what must not be there --------------------------------------------------------


def exposed(folder: pathlib.Path) -> list[tuple[str, bytes]]:
  """All that a curious receiver can see: names, raw bytes, and what the formats unpack to."""
  seen = []
  for name, content in files_of(folder).items():
    seen += [(name, name.encode()), (name, content)]
    if name.endswith('.npz'):
      with zipfile.ZipFile(io.BytesIO(content)) as archive:
        seen.append((name, archive.comment))
        for info in archive.infolist():
          seen.append((name, info.filename.encode() + info.extra + info.comment))
          seen.append((f'{name}/{info.filename}', archive.read(info)))
    elif name.endswith('.png'):
      with Image.open(io.BytesIO(content)) as image:
        seen += [(name, repr(image.info).encode()), (name, image.tobytes())]
        seen.append((name, repr(dict(image.getexif())).encode()))
    elif name.endswith('.safetensors'):
      seen += [(f'{name}/{k}', v.tobytes()) for k, v in safetensors.numpy.load(content).items()]
    elif name.endswith('.gz'):
      seen.append((name, gzip.decompress(content)))
  return seen


def pieces(array: np.ndarray) -> set[bytes]:
  """Parts of an array, of 16 bytes each, that are long and varied enough to name it."""
  raw = np.ascontiguousarray(array).tobytes()
  parts = {raw[i : i + 16] for i in range(0, len(raw), 16)}
  return {part for part in parts if len(part) == 16 and len(set(part)) >= 8}


def secrets_of(run: RunDir, state: Any) -> dict[str, set[bytes]]:
  """Every byte string that must not leave a run, by what it is."""
  keys, rest = set(), set()
  for path, leaf in jax.tree_util.tree_leaves_with_path(state):
    name = jax.tree_util.keystr(path)
    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      words = np.asarray(jax.random.key_data(leaf))
      keys |= {words.tobytes(), words.byteswap().tobytes(), words.tobytes().hex().encode()}
      keys |= {str(int(word)).encode() for word in words.reshape(-1) if word > 10**6}
    elif not name.startswith(('.g_average', '.g.')):
      rest |= pieces(np.asarray(leaf))
  shown = {
    text
    for record in metrics.read_metrics(run.metrics)
    for name in metrics.REAL_DATA_METRICS
    if record.get(name) is not None
    # Rounded, as a page would show it, and as its first digits stand in a file.
    for text in (f'{record[name]:.6g}', repr(record[name])[:8])
  }
  # Those of six digits: a share like 0.2 is in many a version's number.
  numbers = {number.encode() for number in shown if len(number.lstrip('-0.')) >= 6}
  dataset = datasets.load_dataset('digits')
  ledger = [json.loads(line) for line in run.ledger.read_text().splitlines()]
  places = {str(run.path), str(run.path.parent), os.getcwd(), os.path.expanduser('~/')}
  secret = bytes.fromhex(json.loads(run.secret.read_text())['secret'])
  secrets = {
    'keys': keys,
    'secret': {secret[i : i + 8] for i in range(0, 32, 8)} | {secret.hex()[:16].encode()},
    'discriminator and optimizers': rest,
    'real images': pieces(dataset.images) | {image.tobytes() for image in dataset.images},
    'metrics on real data': numbers,
    'fingerprint': {dataset.fingerprint()[:12].encode()},
    'ledger': {str(v)[:20].encode() for line in ledger for k, v in line.items() if k == 'hash'},
    'places': {os.fsencode(place) for place in places} | {b'private_place'},
    # A short name could stand anywhere by chance.
    'machine': {f'{socket.gethostname():.>12}'.encode()},
  }
  if (seed := run.load_config()['config']['seed']) is not None:
    secrets['seed'] = {str(seed).encode(), seed.to_bytes(4, 'little'), seed.to_bytes(4, 'big')}
  assert all(secrets.values()), {name: len(found) for name, found in secrets.items()}
  assert len(keys) >= 6
  return secrets


@pytest.fixture(scope='module')
def secrets(run, state) -> dict[str, set[bytes]]:
  return secrets_of(run, state)


def found(folder: pathlib.Path, secrets: dict[str, set[bytes]]) -> set[str]:
  """Names of the secrets of which there is a trace in a folder."""
  seen = [content for _, content in exposed(folder)]
  # Every 8 bytes in a row of what is exposed, as one number: most strings cannot be there at all.
  words = np.unique(
    np.concatenate([
      np.frombuffer(content[k : k + (len(content) - k) // 8 * 8], '<u8')
      for content in seen
      for k in range(8)
    ])
  )  # fmt: skip
  traces = set()
  for name, strings in secrets.items():
    long = [s for s in strings if len(s) >= 8]
    # From the middle: many images begin with nothing.
    middles = np.frombuffer(b''.join(s[len(s) // 2 - 4 :][:8] for s in long), '<u8')
    there = words[np.searchsorted(words[:-1], middles)] == middles
    likely = [s for s, is_there in zip(long, there, strict=True) if is_there]
    likely += [s for s in strings if len(s) < 8]
    if any(s in content for s in likely for content in seen):
      traces.add(name)
  return traces


def test_no_byte_of_what_is_private_leaves(bundle, secrets):
  assert found(bundle, secrets) == set()


@pytest.mark.slow
def test_no_byte_of_a_secret_seed_leaves_and_the_report_names_it(seeded, seeded_bundle):
  assert found(seeded_bundle, secrets_of(seeded, state_of(seeded))) == set()
  for name in (bundles.REPORT_MARKDOWN, bundles.MODEL_CARD, bundles.DATA_CARD, bundles.USAGE):
    assert 'not private against those who know the seed' in (seeded_bundle / name).read_text()


@pytest.mark.parametrize(
  ('secret', 'plant'),
  [
    ('keys', lambda state, run: {'x.npz': {'x': jax.random.key_data(state.batch_key)}}),
    ('keys', lambda state, run: {'x.md': str(int(jax.random.key_data(state.batch_key)[0]))}),
    (
      'discriminator and optimizers',
      lambda state, run: {'x.npz': {'d': jax.tree.leaves(state.g_opt_state)[2]}},
    ),
    (
      'real images',
      lambda state, run: {'x.npz': {'x': datasets.load_dataset('digits').images[7:9]}},
    ),
    ('metrics on real data', lambda state, run: {'x.json': run.metrics.read_text()}),
    ('fingerprint', lambda state, run: {'x.json': run.ledger.read_text()}),
    ('secret', lambda state, run: {'x.json': run.secret.read_text()}),
    ('places', lambda state, run: {'x.md': f'see {run.config}'}),
  ],
  ids=lambda value: value if isinstance(value, str) else '',
)
def test_the_search_finds_what_is_planted(run, state, secrets, secret, plant, tmp_path):
  for name, content in plant(state, run).items():
    if isinstance(content, dict):
      np.savez_compressed(tmp_path / name, **{k: np.asarray(v) for k, v in content.items()})
    else:
      (tmp_path / name).write_text(content)
  assert secret in found(tmp_path, secrets)


def test_times_of_day_and_dates_are_nowhere(bundle):
  for name in (*bundles.FILES, 'samples.npz'):
    if name.endswith(('.md', '.json')):
      text = (bundle / name).read_text()
      assert not re.search(r'20\d\d-\d\d-\d\d|\d\d:\d\d', text), name
  with zipfile.ZipFile(bundle / 'samples.npz') as archive:
    assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


# --- what is there -------------------------------------------------------------------------------


def test_the_bundle_is_what_the_list_says_and_can_be_used(run, bundle):
  assert sorted(p.name for p in bundle.iterdir()) == sorted((*bundles.FILES, 'samples.npz'))
  with np.load(bundle / 'samples.npz', allow_pickle=False) as samples:
    assert samples['x'].shape == (200, 8, 8)
    assert np.bincount(samples['y']).tolist() == [20] * 10
  loaded = DPGAN.load(bundle / bundles.GENERATOR)
  assert loaded.epsilon == trainer.restore_model(run.path).model.epsilon()
  assert loaded.sample(3)[0].shape == (3, 8, 8, 1)
  facts = json.loads((bundle / bundles.REPORT_JSON).read_text())
  assert facts == run_statement.build(run).to_json()
  assert facts['tuning']['note'] == NOTE
  assert (bundle / bundles.REPORT_MARKDOWN).read_bytes() == run.report_markdown.read_bytes()
  page = _html.read((bundle / bundles.PAGE).read_text('utf-8'))
  wanted = ((bundle / name).read_bytes() for name in (bundles.PICTURE, bundles.CURVE))
  assert page.pictures == tuple(wanted)
  assert 'Training, as far as' not in page.text  # curves are from metrics.jsonl, which stays


def test_a_bundle_of_a_version_without_pages_is_still_right(bundle, tmp_path):
  folder = pathlib.Path(shutil.copytree(bundle, tmp_path / 'bundle'))
  (folder / bundles.PAGE).unlink()
  sums = (folder / bundles.MANIFEST).read_text().splitlines(keepends=True)
  kept = [line for line in sums if bundles.PAGE not in line]
  (folder / bundles.MANIFEST).write_text(''.join(kept))
  assert bundles.verify(folder).startswith(f'{len(kept)} files')


def test_the_cards_say_what_their_templates_ask(run, bundle):
  model, dataset = ((bundle / n).read_text() for n in (bundles.MODEL_CARD, bundles.DATA_CARD))
  for text, sections in (
    (model, ['Model details', 'Intended use', 'Factors', 'Metrics', 'Evaluation data',
             'Training data', 'Quantitative analyses', 'Ethical considerations', 'Caveats']),
    (dataset, ['Motivation', 'Composition', 'Collection process', 'Preprocessing', 'Uses',
               'Distribution', 'Maintenance']),
  ):  # fmt: skip
    _, header, body = text.split('---\n', 2)
    fields = yaml.safe_load(header)
    assert fields['license'] == 'cc-by-4.0'
    assert 'differential-privacy' in fields['tags']
    for section in sections:
      assert f'\n## {section}' in body, section
    assert run_statement.build(run).guarantee() in body
    assert NOTE in body
  assert yaml.safe_load(dataset.split('---\n')[1])['size_categories'] == ['n<1K']


def test_the_manifest_verifies_without_this_package(bundle):
  sums = dict(
    reversed(line.split('  ')) for line in (bundle / bundles.MANIFEST).read_text().splitlines()
  )
  assert set(sums) == {*bundles.FILES, 'samples.npz'} - {bundles.MANIFEST}
  for name, digest in sums.items():
    assert hashlib.sha256((bundle / name).read_bytes()).hexdigest() == digest


def test_no_two_bundles_have_the_same_samples_and_none_those_of_the_run(run, bundle, tmp_path):
  """Noise of the samples comes from the operating system, not from the run's keys."""
  bundles.release(run, tmp_path / 'second', num=200)
  drawn = {
    path: {image.tobytes() for image in np.load(path)['x']}
    for path in (bundle / 'samples.npz', tmp_path / 'second' / 'samples.npz', run.samples())
  }
  one, two, of_run = drawn.values()
  assert not one & two
  assert not of_run & (one | two)
  for name in (bundles.GENERATOR, bundles.REPORT_JSON, bundles.CURVE):
    assert (bundle / name).read_bytes() == (tmp_path / 'second' / name).read_bytes()


# --- what is refused -----------------------------------------------------------------------------


def test_a_fixed_seed_is_refused_unless_it_is_said_to_be_secret(seeded, tmp_path):
  with pytest.raises(InputError, match=r'fixed seed.*--seed_is_secret'):
    bundles.release(seeded, tmp_path / 'out')
  assert not list(tmp_path.iterdir())


@pytest.fixture(scope='module')
def not_private(tmp_path_factory) -> RunDir:
  config = CONFIG.replace(noise_multiplier=None, target_epsilon=math.inf, steps=3)
  return train(tmp_path_factory.mktemp('private_place') / 'not_private', config)


def test_a_run_without_guarantee_is_refused_or_says_so_in_large_letters(not_private, tmp_path):
  with pytest.raises(InputError, match=r'no privacy guarantee.*--allow_no_privacy'):
    bundles.release(not_private, tmp_path / 'out')
  assert not list(tmp_path.iterdir())
  bundles.release(not_private, tmp_path / 'out', num=20, allow_no_privacy=True)
  for name in (*bundles.FILES, 'samples.npz'):
    if name.endswith('.md'):
      text = (tmp_path / 'out' / name).read_text()
      assert re.search('^# .*NO PRIVACY GUARANTEE', text, re.MULTILINE), name
      assert 'is (ε, δ)-differentially private' not in text
      assert 'weaken the guarantee' not in text
  assert '"differential-privacy"' not in (tmp_path / 'out' / bundles.MODEL_CARD).read_text()
  assert 'NO PRIVACY GUARANTEE' in bundles.verify(tmp_path / 'out')


def test_an_unfinished_run_is_refused_unless_allowed(run, tmp_path):
  copy = copied(run, tmp_path / 'run')
  shutil.rmtree(next(p for p in copy.checkpoints.iterdir() if p.name.endswith('6')))
  with pytest.raises(InputError, match=r'has taken 3 of 6 steps.*--allow_unfinished'):
    bundles.release(copy, tmp_path / 'out')
  assert not (tmp_path / 'out').exists()
  said = bundles.release(copy, tmp_path / 'out', num=20, allow_unfinished=True)
  assert (said.steps_taken, said.steps_charged) == (3, 6)
  assert generator_file.load(tmp_path / 'out' / bundles.GENERATOR).steps == 3
  assert 'not finished' in (tmp_path / 'out' / bundles.MODEL_CARD).read_text()
  assert 'for 6 steps' in bundles.verify(tmp_path / 'out')


def test_places_that_are_taken_or_private_are_refused(run, tmp_path):
  (tmp_path / 'full').mkdir()
  (tmp_path / 'full' / 'mine').write_text('x')
  (tmp_path / 'file').write_text('x')
  (tmp_path / 'link').symlink_to(tmp_path / 'nowhere')
  (tmp_path / 'to_run').symlink_to(run.path)
  before = files_of(tmp_path)
  for out, words in (
    (tmp_path / 'full', 'new or empty directory'),
    (tmp_path / 'file', 'expected out to be a new directory'),
    (tmp_path / 'link', 'expected out to be a new directory'),
    (run.path / 'release', 'outside the run directory'),
    (tmp_path / 'to_run' / 'release', 'outside the run directory'),
  ):
    with pytest.raises(InputError, match=words):
      bundles.release(run, out)
  assert files_of(tmp_path) == before
  assert not (tmp_path / 'nowhere').exists()


def test_a_path_in_a_name_that_a_user_chose_is_refused(run, tmp_path, monkeypatch):
  copy, identity = copied(run, tmp_path / 'run'), run.identity()
  monkeypatch.setattr(RunDir, 'identity', lambda self: identity)  # the copy was renamed afterwards
  saved = copy.load_config()
  saved['data']['class_names'][3] = str(tmp_path / 'run' / 'three')
  copy.save_config(saved)
  with pytest.raises(InputError, match='would hold the path'):
    bundles.release(copy, tmp_path / 'out', num=20)
  assert sorted(p.name for p in tmp_path.iterdir()) == ['run']


def test_a_failure_half_way_leaves_nothing(run, tmp_path, monkeypatch):
  (tmp_path / 'out').mkdir()

  def fail(*_: Any, **__: Any) -> None:
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(_figures, 'epsilon_delta_curve', fail)
  with pytest.raises(OSError, match='No space'):
    bundles.release(run, tmp_path / 'out', num=20)
  assert not files_of(tmp_path)


# --- the receiver --------------------------------------------------------------------------------


def test_a_received_bundle_is_checked(bundle):
  line = bundles.verify(bundle)
  assert '10 files' in line
  assert 'ε = ' in line


def resealed(folder: pathlib.Path) -> None:
  """Writes a manifest that fits what is there, as a forger would."""
  lines = [
    f'{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n'
    for name in (*bundles.FILES, 'samples.npz')
    if name != bundles.MANIFEST
  ]
  (folder / bundles.MANIFEST).write_text(''.join(lines))


def edit_report(folder: pathlib.Path, change) -> None:
  facts = json.loads((folder / bundles.REPORT_JSON).read_text())
  change(facts)
  (folder / bundles.REPORT_JSON).write_text(json.dumps(facts))


def halve_epsilon(facts) -> None:
  facts['guarantee']['epsilon'] /= 2


def not_a_number(facts) -> None:
  facts['guarantee']['epsilon'] = math.nan


def endless_steps(facts) -> None:
  facts['progress']['steps_charged'] = 2**62


def edit_generator(folder: pathlib.Path, guarantee: str | None = None, **mechanism) -> None:
  """Another mechanism in generator and report alike: only its ε can give it away."""
  with safetensors.safe_open(folder / bundles.GENERATOR, 'numpy') as file:
    record = json.loads(file.metadata()['dpgan_jax'])
    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
  record['mechanism'].update(mechanism)
  record['guarantee'] = guarantee or record['guarantee']
  about = {'dpgan_jax': json.dumps(record)}
  (folder / bundles.GENERATOR).write_bytes(safetensors.numpy.save(tensors, about))
  edit_report(folder, lambda facts: facts['mechanism'].update(mechanism))


def edit_samples(folder: pathlib.Path, **changed: np.ndarray) -> None:
  with np.load(folder / 'samples.npz') as file:
    np.savez(folder / 'samples.npz', **{**file, **changed})


def edit_page(folder: pathlib.Path, old: str, new: str) -> None:
  path = folder / bundles.PAGE
  path.write_text(path.read_text('utf-8').replace(old, new, 1), 'utf-8')


def other_noise(facts) -> None:
  facts['mechanism']['noise_multiplier'] *= 2


def fewer_steps(facts) -> None:
  facts['progress']['steps_charged'] = 1


@pytest.mark.parametrize(
  ('damage', 'seal', 'words'),
  [
    (lambda f: (f / 'samples.png').write_bytes(b'x'), False, 'samples.png is not what'),
    (lambda f: (f / 'ledger.jsonl').write_bytes(b'x'), False, 'holds ledger.jsonl, which'),
    (lambda f: (f / 'report.md').unlink(), False, 'report.md is in SHA256SUMS but not there'),
    (lambda f: (f / 'SHA256SUMS').write_text('0  ../x\n'), False, "lists '../x'"),
    (lambda f: (f / 'SHA256SUMS').write_text(''), False, 'does not list DATA_CARD.md'),
    (lambda f: (f / 'SHA256SUMS').unlink(), False, 'found no'),
    (lambda f: np.savez(f / 'samples.npz', x=np.zeros((3, 9, 9), np.uint8), y=np.zeros(3, int)),
     True, r'expected images of \(8, 8, 1\)'),
    (lambda f: np.savez(f / 'samples.npz', x=np.array([{}]), y=np.zeros(1, int)),
     True, 'pickled data are not read'),
    (lambda f: edit_report(f, halve_epsilon), True, 'states ε ='),
    (lambda f: edit_report(f, not_a_number), True, 'not a report.*finite'),
    (lambda f: edit_report(f, endless_steps), True, r'expected steps_charged in \[0, '),
    (lambda f: edit_generator(f, noise_multiplier=0.003), True, 'but .* steps .* cost inf'),
    (lambda f: edit_generator(f, noise_multiplier=0.001), True, 'but .* steps .* cost inf'),
    (lambda f: edit_generator(f, guarantee='epsilon 0.1'), True, "says 'epsilon 0.1'; the mech"),
    (lambda f: edit_samples(f, guarantee=np.array('epsilon 0.1')), True, "npz says 'epsilon 0.1'"),
    (lambda f: edit_samples(f, guarantee=np.zeros(3)), True, 'npz: .*guarantee'),
    (lambda f: edit_page(f, 'and δ = ', 'and δ = 0.'), True, r'html states δ = 0\.'),
    (lambda f: edit_report(f, other_noise), True, 'different mechanisms'),
    (lambda f: edit_report(f, fewer_steps), True, 'charges 1 steps'),
    (lambda f: (f / 'report.json').write_text('['), True, 'not a report'),
    (lambda f: edit_page(f, '</main>', '<script>1</script></main>'), True, 'no report .*<script>'),
    (lambda f: edit_page(f, 'base64,', 'base64,AAAA'), True, 'a picture that is not of this'),
    (lambda f: edit_page(f, 'private with ε = ', 'private with ε = 0.'), True, 'html states ε = 0'),
  ],
)  # fmt: skip
def test_a_bundle_that_was_changed_is_refused(bundle, tmp_path, damage, seal, words):
  folder = pathlib.Path(shutil.copytree(bundle, tmp_path / 'bundle'))
  damage(folder)
  if seal:
    resealed(folder)
  with pytest.raises(InputError, match=words) as caught:
    bundles.verify(folder)
  assert '\n' not in str(caught.value)


# --- the command ---------------------------------------------------------------------------------


def command(*arguments: str) -> tuple[int, str, str]:
  done = subprocess.run(
    [sys.executable, '-m', 'dpgan_jax.release', *arguments],
    cwd=pathlib.Path(__file__).parents[2], capture_output=True, text=True, check=False,
  )  # fmt: skip
  return done.returncode, done.stdout, done.stderr


def test_wrong_commands_are_one_line(own_flags):
  release.define_flags()
  own_flags(['release', '--run_dir=x'])
  with pytest.raises(InputError, match='expected --run_dir=DIRECTORY of a run and --out'):
    release.main()
  own_flags(['release', '--run_dir=x', '--verify=y'])
  with pytest.raises(InputError, match='expected --verify=DIRECTORY alone'):
    release.main()


@pytest.mark.slow
def test_the_command(run, tmp_path):
  status, out, err = command(f'--run_dir={run.path}', f'--out={tmp_path}/new/bundle', '--num=50')
  assert status == 0, err
  assert 'differentially private' in out
  assert f'{tmp_path}/new/bundle: 9 files with 50 samples, which may be published' in out
  assert 'Traceback' not in err
  status, out, err = command(f'--verify={tmp_path}/new/bundle')
  assert (status, err) == (0, '')
  assert '9 files' in out
  status, out, err = command(f'--run_dir={run.path}', f'--out={tmp_path}/new/bundle')
  assert (status, out) == (2, '')
  assert err.endswith(f'expected out to be a new or empty directory, got {tmp_path}/new/bundle\n')
