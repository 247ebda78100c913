"""A generator on its own: what it draws, and that its file is small, inert, and holds no secret."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
import re

import jax
import numpy as np
import pytest
import safetensors.numpy

from dpgan_jax import _json, _tensor_file, _validate
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.gan import GAN
from dpgan_jax.models.gan_synthesizer import GANSynthesizer
from dpgan_jax.privacy.mechanism import DPMechanism
from dpgan_jax.run import generator_file
from tests.support.synthesizers import SEED, SPEC, make_mixed, make_model


@pytest.fixture(scope='module')
def model() -> GANSynthesizer:
  return make_model('compact')


@pytest.fixture(scope='module')
def report_model() -> GANSynthesizer:
  """Without classes, and with batch-norm averages among its arrays."""
  return make_model('report')


@pytest.fixture(scope='module')
def mixed() -> GANSynthesizer:
  return make_mixed()


@pytest.fixture(scope='module')
def saved(model, tmp_path_factory) -> bytes:
  path = tmp_path_factory.mktemp('saved') / 'model.safetensors'
  generator_file.save(model, path)
  return path.read_bytes()


# --- the file ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  'which', ['model', pytest.param('report_model', marks=pytest.mark.slow), 'mixed']
)
def test_loaded_model_draws_the_same(which, request, tmp_path):
  model = request.getfixturevalue(which)
  path = tmp_path / 'new' / 'model.safetensors'
  generator_file.save(model, path)
  loaded = generator_file.load(path)
  for ours, theirs in zip(
    model.sample(7, key=jax.random.key(2)), loaded.sample(7, key=jax.random.key(2)), strict=True
  ):
    np.testing.assert_array_equal(ours, theirs)
  assert loaded.gan.mechanism == model.gan.mechanism
  assert loaded.gan.config == model.gan.config.replace(seed=None)
  assert (loaded.steps, loaded.spec) == (3, SPEC)
  assert loaded.epsilon() == model.epsilon()
  jax.tree.map(np.testing.assert_array_equal, loaded.generator, model.generator)
  jax.tree.map(np.testing.assert_array_equal, loaded.past, model.past)


def test_no_generator_of_a_later_step_is_taken_for_what_the_earlier_ones_cost(mixed, tmp_path):
  generator_file.save(mixed, tmp_path / 'whole')
  for step in (3, 4):
    with pytest.raises(_validate.InputError, match=rf'of steps before 3, got \[1, {step}\]'):
      dataclasses.replace(mixed, past={1: mixed.generator, step: mixed.generator})
  later = {f'past/3/{n}': a for n, a in safetensors.numpy.load_file(tmp_path / 'whole').items()
           if not n.startswith('past')}  # fmt: skip
  rewrite((tmp_path / 'whole').read_bytes(), tmp_path / 'model', past=[1, 3], arrays=later)
  assert 'expected past in [0, 2], got 3' in refused(tmp_path / 'model')


def test_more_or_fewer_generators_than_the_file_says_are_refused(mixed, tmp_path):
  generator_file.save(mixed, tmp_path / 'whole')
  saved = (tmp_path / 'whole').read_bytes()
  for changes, reason in (
    ({'past': [0, 1, 2]}, 'expected past to be at most 2 steps, got [0, 1, 2]'),
    ({'past': [1, 1]}, 'expected past to be at most 2 steps, got [1, 1]'),
    ({'past': ['x']}, "expected past to be a whole number in [0, 2], got 'x'"),
    ({'past': 2}, 'not subscriptable'),
    # Before anything as large as they say is made.
    ({'config': mixed.gan.config.to_dict() | {'g_mixture': 10**10}}, 'g_mixture'),
    ({'arrays': {'past/2/params/Dense_0/bias': ...}}, 'it lacks past/2/params/Dense_0/bias'),
  ):
    rewrite(saved, tmp_path / 'model', **changes)
    assert reason in refused(tmp_path / 'model')


def test_same_model_same_bytes(model, saved, tmp_path):
  for _ in range(2):  # the second time over the first
    generator_file.save(model, tmp_path / 'again')
    assert (tmp_path / 'again').read_bytes() == saved
  generator_file.save(generator_file.load(tmp_path / 'again'), tmp_path / 'copy')
  assert (tmp_path / 'copy').read_bytes() == saved
  assert sorted(p.name for p in tmp_path.iterdir()) == ['again', 'copy']


def test_file_holds_the_generator_and_nothing_else(model, report_model, saved, tmp_path):
  """No discriminator, optimizer, key or metric; and no seed, which would give the noise away."""
  assert sorted(safetensors.numpy.load(saved)) == [
    'params/Dense_0/bias', 'params/Dense_0/kernel', 'params/Dense_1/bias', 'params/Dense_1/kernel',
    'params/UpsampleConv_0/bias', 'params/UpsampleConv_0/kernel',
  ]  # fmt: skip
  assert len(saved) < 4 * sum(leaf.size for leaf in jax.tree.leaves(model.generator)) + 4000
  assert str(SEED).encode() not in saved
  assert SEED.to_bytes(4, 'little') not in saved
  record = metadata(saved)
  assert record['config']['seed'] is None
  assert set(record) == {
    'format', 'config', 'mechanism', 'data', 'steps', 'guarantee', 'past', 'labellers'
  }  # fmt: skip
  generator_file.save(report_model, tmp_path / 'report')
  names = safetensors.numpy.load_file(tmp_path / 'report')
  assert {name.split('/')[0] for name in names} == {'params', 'batch_stats'}


def metadata(file: bytes) -> dict:
  length = int.from_bytes(file[:8], 'little')
  return json.loads(json.loads(file[8 : 8 + length])['__metadata__']['dpgan_jax'])


def test_infinite_epsilon_survives_the_file(model, tmp_path):
  config = TrainConfig(
    target_epsilon=math.inf, steps=4, batch_size=8, latent_dim=4, generator='compact'
  )
  mechanism = DPMechanism.for_epsilon(
    math.inf, num_examples=64, batch_size=8, l2_clip_norm=1.0, steps=4, delta=1e-3
  )
  gan = GAN(config, mechanism, SPEC)
  generator_file.save(GANSynthesizer(gan, model.generator, 4), tmp_path / 'x')
  assert generator_file.load(tmp_path / 'x').epsilon() == math.inf


# --- files that are not generators ---------------------------------------------------------------


def refused(path) -> str:
  with pytest.raises(_validate.InputError) as caught:
    generator_file.load(path)
  message = str(caught.value)
  assert '\n' not in message
  assert str(path) in message
  return message


def test_missing_file_and_folder_are_refused(tmp_path):
  assert 'found none' in refused(tmp_path / 'nowhere')
  assert 'found none' in refused(tmp_path)


def test_pickle_is_refused_and_not_run(tmp_path):
  class Bomb:
    def __reduce__(self):
      return (open, (str(tmp_path / 'exploded'), 'w'))

  (tmp_path / 'model').write_bytes(pickle.dumps(Bomb()))
  assert 'to be a safetensors file' in refused(tmp_path / 'model')
  assert not (tmp_path / 'exploded').exists()


@pytest.mark.parametrize('length', [0, 1, 7, 8, 100, 2000, -1])
def test_truncated_file_is_refused(saved, length, tmp_path):
  (tmp_path / 'model').write_bytes(saved[:length])
  assert 'to be a safetensors file' in refused(tmp_path / 'model')


def test_damaged_header_is_refused(saved, tmp_path):
  for damaged in (b'\xff' * 8 + saved[8:], saved[:8] + b'}' + saved[9:], saved + b'more'):
    (tmp_path / 'model').write_bytes(damaged)
    assert 'to be a safetensors file' in refused(tmp_path / 'model')


@pytest.mark.parametrize('about', [None, {'dpgan_jax': '[]'}, {'dpgan_jax': '{"format": "other"}'}])
def test_foreign_safetensors_file_is_refused(about, tmp_path):
  safetensors.numpy.save_file({'w': np.zeros(3)}, tmp_path / 'model', about)
  assert 'is not a dpgan_jax generator of this version' in refused(tmp_path / 'model')


@pytest.mark.parametrize('text', ['{', '[' * 100_000], ids=['cut', 'deep'])
def test_metadata_that_are_not_json_are_refused(text, tmp_path):
  safetensors.numpy.save_file({'w': np.zeros(3)}, tmp_path / 'model', {'dpgan_jax': text})
  refused(tmp_path / 'model')


def rewrite(saved: bytes, path, *, arrays=None, **changes) -> None:
  """Writes the saved file again with other metadata (... removes an entry) or arrays."""
  record = {k: v for k, v in (metadata(saved) | changes).items() if v is not ...}
  tensors = safetensors.numpy.load(saved) | (arrays or {})
  tensors = {name: array for name, array in tensors.items() if array is not ...}
  safetensors.numpy.save_file(tensors, path, {'dpgan_jax': json.dumps(record)})


def about(**changes) -> dict:
  return {'data': SPEC.to_record() | changes}


def test_rewriting_alone_changes_nothing(saved, tmp_path):
  rewrite(saved, tmp_path / 'model')
  assert generator_file.load(tmp_path / 'model').steps == 3


@pytest.mark.parametrize(
  ('changes', 'reason'),
  [
    ({'steps': ...}, "it lacks 'steps'"),
    ({'steps': 'x'}, "expected steps to be a whole number in [0, 4], got 'x'"),
    ({'steps': 5}, 'expected steps in [0, 4], got 5'),
    (about(shape=[6, 5]), 'expected shape to be (H, W, C)'),
    (about(shape=[6, 0, 1]), 'expected image_shape in [1, 1024], got 0'),
    # Building a generator of such images would take minutes and gigabytes.
    (about(shape=[6, 2**30, 1]), 'expected image_shape in [1, 1024], got 1073741824'),
    (about(shape=[6, 5, 2**30]), 'expected image_shape in [1, 4]'),
    (about(num_records=0), 'expected num_records >= 1, got 0'),
    (about(class_names=['a'] * 65_537), 'expected num_classes in [1, 65536], got 65537'),
    (about(shape=3), 'iterable'),
    (about(shape=[6, 9, 1]), 'expected params/Dense_1/bias to be float32'),
    (about(class_names=[]), 'expected num_classes in [1, 65536], got 0'),
    (about(class_names=list('abcd')), 'expected params/Dense_0/kernel to be'),
    (about(class_names=None), 'iterable'),
    (about(kind='song'), 'expected kind to be one of image'),
    ({'data': 3}, 'not subscriptable'),
    ({'data': ...}, "it lacks 'data'"),
    ({'labellers': 3}, 'has no len'),
    ({'config': []}, 'no attribute'),
    ({'config': {}}, 'expected target_epsilon, which is all that moments need'),
    ({'config': {'nonsense': 1}}, 'unknown settings: nonsense'),
    ({'mechanism': {}}, 'missing'),
    ({'mechanism': None}, 'no attribute'),
    ({'arrays': {'params/Dense_0/bias': ...}}, 'it lacks params/Dense_0/bias'),
    ({'arrays': {'params/Dense_0/bias': np.zeros(7, np.float32)}}, 'to be float32[256], got [7]'),
    ({'arrays': {'params/Dense_0/bias': np.zeros(256, np.float16)}}, 'got float16[256]'),
  ],
  ids=str,
)
def test_damaged_content_is_refused_by_name(saved, changes, reason, tmp_path):
  rewrite(saved, tmp_path / 'model', **changes)
  message = refused(tmp_path / 'model')
  assert 'is damaged: ' in message
  assert reason in message


def with_header(saved: bytes, header: bytes) -> bytes:
  length = int.from_bytes(saved[:8], 'little')
  return len(header).to_bytes(8, 'little') + header + saved[8 + length :]


def test_a_long_header_is_refused_unread(saved, tmp_path):
  length = int.from_bytes(saved[:8], 'little')
  header = json.loads(saved[8 : 8 + length])
  record = json.loads(header['__metadata__']['dpgan_jax'])
  record['notes'] = [1] * 10**6  # accepted once, after a second for each two megabytes
  header['__metadata__']['dpgan_jax'] = json.dumps(record)
  (tmp_path / 'model').write_bytes(with_header(saved, json.dumps(header).encode()))
  assert 'header of 3' in refused(tmp_path / 'model')


def test_tensors_that_were_not_asked_for_are_refused_unread(saved, tmp_path, monkeypatch):
  length = int.from_bytes(saved[:8], 'little')
  header = json.loads(saved[8 : 8 + length])
  end = len(saved) - 8 - length
  header['more'] = {'dtype': 'U8', 'shape': [10**6], 'data_offsets': [end, end + 10**6]}
  content = with_header(saved, json.dumps(header).encode()) + bytes(10**6)
  (tmp_path / 'model').write_bytes(content)
  monkeypatch.setattr(_tensor_file.safetensors, 'safe_open', None)  # nothing of it is opened
  assert 'it holds more, which no such generator has' in refused(tmp_path / 'model')


@pytest.mark.parametrize(
  ('text', 'reason'),
  [
    ('{"a": 1, "a": 2}', "the name 'a' occurs twice"),
    ('{"a": NaN}', 'expected finite numbers, got NaN'),
    ('{"a": 1e999}', 'expected finite numbers, got 1e999'),
    ('{"a": ' + '9' * 5000 + '}', 'expected whole numbers of 64 bits, got 999'),
    ('[' * 10**5, 'nested too deeply'),
  ],
  ids=lambda text: text[:20],
)
def test_json_that_no_run_writes_is_refused(text, reason):
  with pytest.raises(ValueError, match=re.escape(reason)):
    _json.loads(text)


@pytest.mark.parametrize(
  'changes',
  [{'config': {'latent_dim': 2**62}}, {'mechanism': {'num_examples': 2**62}},
   {'config': {'batch_size': 2**40}}, about(class_names=['a' * 2000, 'b', 'c']),
   about(class_names=[['a'], 'b', 'c']), about(name=['x'] * 9), about(shape=[4096, 4096, 1]),
   {'past': list(range(10**5))}],
  ids=str,
)  # fmt: skip
def test_every_field_is_bounded(saved, changes, tmp_path):
  """Fields that are objects keep the rest of what they held."""
  old = metadata(saved)
  merged = {k: {**old[k], **v} if isinstance(v, dict) else v for k, v in changes.items()}
  rewrite(saved, tmp_path / 'model', **merged)
  assert 'expected' in refused(tmp_path / 'model')


def test_loading_another_models_generator_is_refused(saved, report_model, tmp_path):
  rewrite(saved, tmp_path / 'model', config=report_model.gan.config.to_dict())
  assert 'is damaged: it lacks ' in refused(tmp_path / 'model')
