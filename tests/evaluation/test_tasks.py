"""Evaluations with a known answer: fresh real images, copies, noise, dropped classes."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from dpgan_jax._validate import InputError
from dpgan_jax.data import datasets
from dpgan_jax.evaluation import features, judges, tasks
from dpgan_jax.evaluation.references import check_samples
from dpgan_jax.evaluation.scores import Store
from dpgan_jax.evaluation.tasks import Settings, evaluate

N = 420
SETTINGS = Settings(conv_epochs=4, nearest_queries=200, cnn_epochs=1)


def rows(dataset: datasets.ImageDataset, chosen) -> datasets.ImageDataset:
  return dataclasses.replace(
    dataset,
    images=np.ascontiguousarray(dataset.images[chosen]),
    labels=dataset.labels[chosen],
  )


@pytest.fixture(scope='module')
def digits():
  """1,020 training digits, 357 test digits, and 420 more that nobody was trained on."""
  train, test = (datasets.load_dataset('digits', split=split) for split in datasets.SPLITS)
  order = np.random.default_rng(0).permutation(len(train))
  return rows(train, order[N:]), test, rows(train, order[:N])


@pytest.fixture(scope='module')
def score(digits, tmp_path_factory):
  """Evaluates by name, once; a linear classifier only, as the others are tested in test_judges."""
  train, test, fresh = digits
  rng = np.random.default_rng(1)
  few = np.flatnonzero(train.labels < 3)
  samples = {
    'fresh': (fresh.images, fresh.labels),
    'copies': (train.images[:N], train.labels[:N]),
    'noise': (rng.integers(0, 256, (N, 8, 8, 1)).astype(np.uint8), np.arange(N) % 10),
    'dropped': (train.images[np.resize(few, N)], train.labels[np.resize(few, N)]),
    'unlabelled': (fresh.images, None),
  }
  done = {}
  store = Store(tmp_path_factory.mktemp('scores'))  # what real images and noise get is found again

  def run(name: str):
    if name not in done:
      with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judges, 'CLASSIFIERS', {'lr': judges.LogisticRegression})
        done[name] = evaluate(*samples[name], train, test, SETTINGS, store=store)
    return done[name]

  return run


@pytest.mark.slow
def test_fresh_real_images_score_as_real_images_do(score):
  """Tolerances are several times the spread between halves of these data."""
  found = score('fresh')
  assert found['fid'].value == pytest.approx(found['fid'].reference, abs=0.6)
  assert found['kid'].value == pytest.approx(0, abs=0.05)
  for name in ('precision', 'recall', 'coverage', 'density'):
    assert found[name].value == pytest.approx(found[name].reference, abs=0.1)
    assert found[name].value > 0.8
  assert found['secondary_accuracy'].value == pytest.approx(0.5, abs=0.2)
  assert found['tstr_lr'].value == pytest.approx(found['tstr_lr'].reference, abs=0.07)
  assert found['tstr_lr'].value > 0.8
  assert found['closer_to_train'].value == pytest.approx(0.5, abs=0.15)
  assert found['copy_share'].value < 0.06
  assert abs(found['copying_z'].value) < 4.5
  assert not found.copies.alarm
  assert found.verdict.level == 'good'
  assert found['distinct_samples'].value > 0.98


def test_copies_score_well_and_are_found(score):
  found = score('copies')
  assert found['precision'].value > 0.8
  assert found['tstr_lr'].value > 0.8
  assert found['closer_to_train'].value > 0.6
  assert found['copy_share'].value == 1
  assert found['copying_z'].value < -10


def test_noise_scores_badly_everywhere_and_is_no_copy(score):
  found = score('noise')
  assert found['fid'].value > 10 * found['fid'].reference
  assert found['kid'].value > 0.2
  assert found['recall'].value < 0.4
  assert found['coverage'].value < 0.2
  assert found['conv_judge_accuracy'].value > 0.9
  assert found['tstr_lr'].value < 0.35
  assert found['copy_share'].value == 0
  assert found['copying_z'].value > 5


@pytest.mark.slow
def test_dropped_classes_cost_recall_coverage_and_their_accuracy(score):
  found, fresh = score('dropped'), score('fresh')
  assert found['precision'].value > 0.8
  assert found['recall'].value < fresh['recall'].value - 0.2
  assert found['coverage'].value < 0.5
  assert found['tstr_lr'].value < 0.4
  assert found['tstr_lr'].detail['per_class'][5:] == (0.0,) * 5
  assert found['distinct_samples'].value < 0.9


def test_without_labels_tstr_is_left_out_with_a_reason(score):
  found = score('unlabelled')
  assert 'no labels' in found.skipped['tstr']
  assert not any(s.name.startswith(('tstr', 'hold_out')) for s in found.scores)
  labelled = {s.name: s for s in score('fresh').scores}
  for s in found.scores:  # labels matter to nothing else
    assert s == labelled[s.name]


def test_what_read_real_images_is_marked(score):
  found = score('fresh')
  public = {s.name for s in found.scores if not s.reads_private_data}
  assert public == {'hold_out_lr', 'distinct_samples'}
  assert found['fid'].reads == ('train',)
  assert found['tstr_lr'].reads == ('train', 'test')


@pytest.mark.slow
def test_public_scores_are_the_same_whatever_the_real_images(digits, score, monkeypatch):
  """The mark is true: other real images, the same numbers."""
  train, test, fresh = digits
  monkeypatch.setattr(judges, 'CLASSIFIERS', {'lr': judges.LogisticRegression})
  inverted = dataclasses.replace(train, images=255 - train.images)
  other = evaluate(fresh.images, fresh.labels, inverted, test, SETTINGS)
  one, two = (
    {s.name: s.value for s in found.scores if not s.reads_private_data}
    for found in (score('fresh'), other)
  )
  assert one == two
  assert score('fresh')['fid'].value != other['fid'].value


def test_a_part_of_the_work_gives_a_part_of_the_scores(digits, score):
  train, test, fresh = digits
  few = dataclasses.replace(SETTINGS, tasks=('distinct', 'memorisation'))
  found = evaluate(fresh.images, fresh.labels, train, test, few)
  whole = {s.name: s for s in score('fresh').scores}
  names = {'distinct_samples', 'closer_to_train', 'copy_share', 'copying_z'}
  assert {s.name for s in found.scores} == names
  assert all(whole[s.name] == s for s in found.scores)


def test_light_evaluations_leave_out_what_takes_long(digits):
  train, test, fresh = digits
  work = tasks._Work(fresh.images, fresh.labels, train, test, Settings.light(seed=3))
  names = [task.name for task in work.pieces()]
  assert names == [
    'features', 'static_features', 'secondary', 'static_secondary', 'tstr_mlp', 'ceiling_mlp',
    'tstr_lr', 'ceiling_lr',
  ]  # fmt: skip
  assert Settings.light(seed=3).seed == 3


# --- resuming ------------------------------------------------------------------------------------


class Interrupted(Exception):
  pass


@pytest.mark.slow  # test_table_scores has the same store
def test_finished_scores_are_not_computed_again(digits, score, monkeypatch, tmp_path):
  train, test, fresh = digits
  monkeypatch.setattr(judges, 'CLASSIFIERS', {'lr': judges.LogisticRegression})
  store = Store(tmp_path / 'scores')
  began: list[str] = []

  def run(stop_at: str = '', settings: Settings = SETTINGS):
    began.clear()

    def progress(name: str, share: float) -> None:
      assert 0 <= share <= 1.000001
      if name not in began:
        began.append(name)
      if name == stop_at:
        raise Interrupted

    return evaluate(
      fresh.images, fresh.labels, train, test, settings, store=store, progress=progress
    )

  with pytest.raises(Interrupted):
    run('tstr_lr')
  assert began == [
    'distinct', 'features', 'static_features', 'memorisation', 'secondary', 'static_secondary',
    'conv_judge', 'static_conv_judge', 'tstr_lr',
  ]  # fmt: skip
  whole = run()
  assert began == ['tstr_lr', 'ceiling_lr']
  again = run()
  assert began == []
  # A result from the disk is the result, and both are those of an evaluation without a store.
  assert json.dumps(again.to_json({})) == json.dumps(whole.to_json({}))
  assert json.dumps(again.to_json({})) == json.dumps(score('fresh').to_json({}))

  with pytest.raises(Interrupted):
    run('features', dataclasses.replace(SETTINGS, seed=1))
  for file in store.folder.iterdir():
    file.write_text('{"key":')
  with pytest.raises(Interrupted):
    run('distinct')


def test_what_real_images_and_noise_get_depends_on_no_sample(digits):
  """Another set of samples finds that of the first; other real images or seeds do not."""
  train, test, fresh = digits

  def keys(images, train, settings=SETTINGS):
    work = tasks._Work(images, fresh.labels, train, test, settings)
    return {task.name: task.key for task in work.pieces()}

  one, two = keys(fresh.images, train), keys(np.roll(fresh.images, 1, axis=2), train)
  same = {name for name in one if one[name] == two[name]}
  assert same == {
    'ceiling_cnn', 'ceiling_mlp', 'ceiling_lr', 'static_features', 'static_secondary',
    'static_conv_judge',
  }  # fmt: skip
  other_data = keys(fresh.images, dataclasses.replace(train, images=255 - train.images))
  other_seed = keys(fresh.images, train, dataclasses.replace(SETTINGS, seed=1))
  assert not set(one.values()) & {*other_data.values(), *other_seed.values()}
  assert len(set(one.values())) == len(one)


# --- wrong input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda x, y: (x[:0], y[:0]), 'expected samples, got an empty set'),
    (lambda x, y: (x[:199], y[:199]), r'at least 200 samples \(.*covariance.*\), got 199'),
    (lambda x, y: (x[:, :7], y), r'size of digits, \(8, 8, 1\), got \(7, 8, 1\)'),
    (lambda x, y: (np.repeat(x, 3, axis=3), y), r'\(8, 8, 1\), got \(8, 8, 3\)'),
    (lambda x, y: (x[..., 0], y), r'uint8 \[N, H, W, C\], got uint8 \(420, 8, 8\)'),
    (lambda x, y: (x / 255, y), 'got float64'),
    (lambda x, y: (np.where(x > 9, np.nan, 0.5), y), 'got float64'),
    (lambda x, y: (x, y[:-1]), r'labels to be 420 whole numbers, got int32 \(419,\)'),
    (lambda x, y: (x, y / 2), 'labels to be 420 whole numbers, got float64'),
    (lambda x, y: (x, y + 1), r'labels in \[0, 10\), got 1 to 10'),
    (lambda x, y: (x, y - 1), r'labels in \[0, 10\), got -1 to 8'),
  ],
)
def test_samples_that_cannot_be_scored_are_refused(digits, change, message):
  train, test, fresh = digits
  with pytest.raises(InputError, match=message) as caught:
    evaluate(*change(fresh.images, fresh.labels), train, test, SETTINGS)
  assert '\n' not in str(caught.value)


def test_real_data_that_are_too_few_or_do_not_fit_are_refused(digits):
  train, test, fresh = digits
  arguments = fresh.images, fresh.labels
  with pytest.raises(InputError, match=r'at least 200 training images .*, got 199'):
    check_samples(*arguments, rows(train, np.arange(199)), test)
  with pytest.raises(InputError, match=r'at least 30 test images .*, got 29'):
    check_samples(*arguments, train, rows(test, np.arange(29)))
  with pytest.raises(InputError, match='size and classes of the training set'):
    check_samples(*arguments, train, dataclasses.replace(test, images=test.images[:, :7].copy()))


def test_inception_is_computed_when_asked_for(digits, monkeypatch):
  train, test, fresh = digits
  monkeypatch.setattr(features, 'inception_fid', lambda real, fake: float(len(real) + len(fake)))
  work = tasks._Work(
    fresh.images, None, train, test, dataclasses.replace(SETTINGS, inception=True)
  )
  task = work.pieces()[0]
  assert task.name == 'inception_fid'
  assert task.run(lambda share: None) == {
    'value': 840.0, 'floor': 840.0, 'static': 840.0, 'pixels': 840.0, 'n': 420
  }


def test_the_defaults_are_the_reports_numbers():
  s = Settings()
  assert (s.judge_train, s.judge_test) == (60_000, 10_000)
  assert (s.epochs('cnn', 10_000), s.epochs('cnn', 60_000), s.epochs('cnn', 500)) == (15, 4, 50)
  assert Settings(cnn_epochs=33).epochs('cnn', 60_000) == 33
