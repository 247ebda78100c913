"""The secret of a run: on the disk first, of many bits, and shared by no two runs."""

from __future__ import annotations

import itertools
import pathlib
import stat
from typing import Any

import jax
import numpy as np
import pytest

from dpgan_jax._validate import InputError
from dpgan_jax.data import datasets
from dpgan_jax.models.classifier import Classifier
from dpgan_jax.models.classifier_config import ClassifierConfig
from dpgan_jax.run import secrets
from dpgan_jax.run.loop import Run
from dpgan_jax.run.secrets import Secret
from dpgan_jax.run.stages import ClassifierStage

CONFIG = ClassifierConfig(
  dataset='digits', noise_multiplier=4.0, steps=1, batch_size=200, delta=1e-4, angles=2,
  learning_rate=1.0, centre_noise_multiplier=20.0,
)  # fmt: skip


@pytest.fixture(scope='module')
def digits() -> datasets.ImageDataset:
  return datasets.load_dataset('digits')


def without_last(data: datasets.ImageDataset) -> datasets.ImageDataset:
  return datasets.ImageDataset(
    images=data.images[:-1], labels=data.labels[:-1], num_classes=10, name=data.name,
    class_names=data.class_names,
  )  # fmt: skip


def words(key: jax.Array) -> bytes:
  return np.asarray(jax.random.key_data(key)).tobytes()


def test_os_keys_differ_and_use_all_bits():
  """Checklist 20: 64 bits from the operating system; the high word is not zero as with a small
  seed.
  """
  words = np.stack([np.asarray(jax.random.key_data(secrets.root_key(None))) for _ in range(32)])
  assert len(np.unique(words, axis=0)) == 32
  assert (words[:, 0] != 0).any()
  assert (np.bitwise_or.reduce(words) == np.uint32(0xFFFFFFFF)).all()
  fixed = [np.asarray(jax.random.key_data(secrets.root_key(3))) for _ in range(2)]
  np.testing.assert_array_equal(*fixed)


def test_every_purpose_has_a_key_of_its_own_and_the_same_one_again():
  secret = Secret.of_seed(7, 'data', 'settings')
  purposes = ('dp_sgd', 'classifier', 'label_cnn', 'classifier releases', 'samples')
  assert len({words(secret.key(purpose)) for purpose in purposes}) == 5
  assert len({secret.derive(purpose) for purpose in purposes}) == 5
  assert {len(secret.derive(purpose)) for purpose in purposes} == {32}
  assert words(secret.key('dp_sgd')) == words(Secret.of_seed(7, 'data', 'settings').key('dp_sgd'))


def test_one_seed_gives_other_keys_for_other_data_or_settings():
  """What they are bound to cannot run into each other either."""
  bound = [(7,), (8,), (7, 'a'), (7, 'a', 'b'), (7, 'ab'), (7, 'a", "b'), (7, 'b', 'a'), (7, '')]
  keys = {words(Secret.of_seed(*each).key('dp_sgd')) for each in bound}
  assert len(keys) == len(bound)


def test_a_secret_is_its_owners_and_comes_back(tmp_path):
  path, secret = tmp_path / 'secret.json', Secret.from_os()
  secret.save(path)
  assert stat.S_IMODE(path.stat().st_mode) == 0o600
  assert Secret.load(path).derive('x') == secret.derive('x')


@pytest.mark.parametrize('text', ['', '{}', '[]', '{"secret": 3}', '{"secret": "zz"}',
                                  '{"secret": "00"}'])  # fmt: skip
def test_what_is_no_secret_is_refused(text, tmp_path):
  with pytest.raises(InputError, match='missing'):
    Secret.load(tmp_path / 'secret.json')
  (tmp_path / 'secret.json').write_text(text)
  with pytest.raises(InputError):
    Secret.load(tmp_path / 'secret.json')


class Stopped(ClassifierStage):
  """Ends before data are looked at."""

  def data(self) -> tuple[jax.Array, ...]:
    raise KeyboardInterrupt


def opened(path: pathlib.Path, data: datasets.ImageDataset, config: ClassifierConfig) -> Any:
  make = lambda: Classifier.create(config, data.spec)  # noqa: E731
  return Run.open(path, config.to_dict(), data, make=make, read=lambda *_: make(), progress=False)


def secret_of(path: pathlib.Path, data: datasets.ImageDataset, **changes: Any) -> Secret:
  """Of a run that is stopped before it looks at data."""
  config = ClassifierConfig(**{**vars(CONFIG), **changes})
  with opened(path, data, config) as (classifier, run), pytest.raises(KeyboardInterrupt):
    run.carry_out(Stopped(classifier, data))
  assert not run.ledger.charged_steps(classifier.stage)
  return Secret.load(path / 'secret.json')


def test_all_bits_are_on_the_disk_before_data_are_looked_at(digits, tmp_path):
  """Without a seed two runs share none; of a seed, two on the same data with the same settings."""
  seeds = (None, None, 0, 0, 1)
  found = [secret_of(tmp_path / str(i), digits, seed=s) for i, s in enumerate(seeds)]
  bits = [secret.derive('classifier releases') for secret in found]
  assert {len(b) for b in bits} == {32}
  assert bits[2] == bits[3]
  assert len(set(bits)) == 4


def test_runs_that_differ_in_a_record_or_a_setting_share_no_key(digits, tmp_path):
  """One seed used twice must not let the noise of two releases cancel."""
  found = [
    secret_of(tmp_path / 'n', digits, seed=7),
    secret_of(tmp_path / 'n-1', without_last(digits), seed=7),
    secret_of(tmp_path / 'noise', digits, seed=7, noise_multiplier=2.0),
    secret_of(tmp_path / 'rate', digits, seed=7, learning_rate=2.0),
  ]
  for one, two in itertools.combinations(found, 2):
    for purpose in ('classifier', 'classifier releases'):
      assert one.derive(purpose) != two.derive(purpose)


def test_neighbouring_runs_of_one_seed_differ_by_noise_and_not_by_one_gradient(digits, tmp_path):
  """Subtracting two published models would otherwise show one person's clipped gradient."""
  ends = []
  for name, data in (('n', digits), ('n-1', without_last(digits))):
    config = ClassifierConfig(**{**vars(CONFIG), 'seed': 7})
    with opened(tmp_path / name, data, config) as (classifier, run):
      state = run.carry_out(ClassifierStage(classifier, data))
    ends.append(np.concatenate([np.ravel(x) for x in jax.tree.leaves(state.params)]))
  # A model that starts at zero, after one step of rate 1: the noisy sums over B.
  apart = np.linalg.norm(ends[0] - ends[1]) * CONFIG.batch_size
  noise = CONFIG.noise_multiplier * CONFIG.l2_clip_norm * np.sqrt(2 * len(ends[0]))
  assert apart > 0.9 * noise > 5 * CONFIG.l2_clip_norm


def test_a_run_without_its_secret_cannot_go_on(digits, tmp_path):
  secret_of(tmp_path / 'run', digits, seed=7)
  (tmp_path / 'run' / 'secret.json').unlink()
  config = ClassifierConfig(**{**vars(CONFIG), 'seed': 7})
  with (
    pytest.raises(InputError, match=r'secret.json is missing.*restore it from a backup'),
    opened(tmp_path / 'run', digits, config),
  ):
    pass
