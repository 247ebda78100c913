"""The sampling command, as a process of its own, on a tiny run and on a saved generator."""

from __future__ import annotations

import gzip
import io
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from dpgan_jax import _validate, sample
from dpgan_jax.data import distort, readers
from dpgan_jax.data.images.dataset import ImageDataset
from dpgan_jax.data.spec import Spec
from dpgan_jax.models.config import TrainConfig
from dpgan_jax.models.gan import GAN
from dpgan_jax.models.gan_synthesizer import GANSynthesizer
from dpgan_jax.privacy.accounting import show_epsilon
from dpgan_jax.privacy.mechanism import DPMechanism
from dpgan_jax.run import generator_file
from dpgan_jax.run.secrets import root_key
from dpgan_jax.run.trainer import train
from tests.support import commands, nets

CLASSES = 8


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A run of two steps without noise: its ε is infinite, which spares the accounting its time."""
  rng = np.random.default_rng(0)
  dataset = ImageDataset(
    images=rng.integers(0, 256, (32, 8, 8, 1)).astype(np.uint8),
    labels=(np.arange(32) % CLASSES).astype(np.int32),
    num_classes=CLASSES,
    name='noise',
    class_names=tuple('abcdefgh'),
  )
  config = TrainConfig(
    **nets.SMALLEST,
    noise_multiplier=0.0,
    steps=2,
    batch_size=8,
    delta=1e-3,
    d_steps_per_g_step=1,
    latent_dim=4,
    num_samples=10,
    steps_per_report=2,
  )
  return train(config, dataset, tmp_path_factory.mktemp('runs') / 'run', progress=False)


@pytest.fixture(scope='module')
def unconditional(tmp_path_factory):
  """A saved generator without classes, as initialised; the file is that of a private run."""
  config = TrainConfig(
    noise_multiplier=10.0, steps=4, latent_dim=4, **nets.SMALLEST_WITHOUT_CLASSES
  )
  mechanism = DPMechanism.create(
    num_examples=64, batch_size=8, l2_clip_norm=1.0, noise_multiplier=10.0, steps=4, delta=1e-3
  )
  gan = GAN(config, mechanism, Spec(num_records=64, shape=(8, 8, 1), class_names=('0',), name='x'))
  path = tmp_path_factory.mktemp('models') / 'report.safetensors'
  model = GANSynthesizer(gan, jax.jit(gan.init)(root_key(0)).g_average, 4)
  generator_file.save(model, path)
  return path, mechanism.epsilon()


@pytest.fixture(scope='module')
def command():
  running = commands.Command('dpgan_jax.sample', nets.__name__)
  yield running
  running.close()


def test_npz_into_the_run_directory_never_over_another_unasked(trained, command):
  path = trained.run.path / 'synthetic_npz.npz'
  path.write_bytes(b'somebody needs this')
  arguments = (f'--run_dir={trained.run.path}', '--num=20', '--seed=5')
  status, out, err = command(*arguments)
  assert (status, out) == (2, '')
  assert err == f'error: {path} exists already; expected a new path, or overwrite\n'
  assert path.read_bytes() == b'somebody needs this'

  status, out, err = command(*arguments, '--overwrite')
  assert (status, err) == (0, '')
  assert out == f'20 synthetic examples (step 2; no privacy guarantee): {path}\n'
  with np.load(path) as file:
    expected = trained.model.sample(20, key=root_key(5))
    np.testing.assert_array_equal(file['x'], expected[0][..., 0])
    np.testing.assert_array_equal(file['y'], expected[1])


def test_distorted_samples_are_the_same_ones_distorted_under_their_old_names(trained, command):
  path = trained.run.path / 'distorted.npz'
  status, out, err = command(
    f'--run_dir={trained.run.path}', '--num=20', '--seed=5', '--distort',
    f'--out={path.with_suffix("")}',
  )
  assert (status, err) == (0, '')
  assert out == f'20 distorted synthetic examples (step 2; no privacy guarantee): {path}\n'
  drawn, names = trained.model.sample(20, key=root_key(5))
  with np.load(path) as file:
    np.testing.assert_array_equal(file['x'], distort.distort(drawn, root_key(5))[..., 0])
    np.testing.assert_array_equal(file['y'], names)
    assert (file['x'] != drawn[..., 0]).mean() > 0.5


def test_png_folder_of_chosen_classes_from_a_saved_generator(trained, command, tmp_path):
  generator_file.save(trained.model, tmp_path / 'g.safetensors')
  status, out, err = command(
    f'--model={tmp_path}/g.safetensors', '--format=png', '--num=7', '--labels=a,1,h'
  )
  assert (status, err) == (0, '')
  folder = tmp_path / 'synthetic_png'  # beside the model
  assert out.endswith(f': {folder}\n')
  names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob('*.png'))
  of_class = {'a': (0, 3, 6), 'b': (1, 4), 'h': (2, 5)}  # the classes in turn
  assert names == [f'train/{k}/{n}.png' for k, numbers in of_class.items() for n in numbers]
  assert Image.open(folder / names[0]).size == (8, 8)


@pytest.mark.slow  # test_writers has the format
def test_idx(trained, command, tmp_path):
  status, _, err = command(
    f'--run_dir={trained.run.path}', '--format=idx', '--num=16', f'--out={tmp_path}/idx'
  )
  assert (status, err) == (0, '')
  images = readers.read_idx(tmp_path / 'idx' / 'train-images-idx3-ubyte.gz')
  labels = gzip.decompress((tmp_path / 'idx' / 'train-labels-idx1-ubyte.gz').read_bytes())[8:]
  assert images.shape == (16, 8, 8)
  assert sorted(labels) == sorted([*range(CLASSES)] * 2)


@pytest.mark.slow  # test_writers has the format
def test_unconditional_generator_to_parquet_without_labels(unconditional, command, tmp_path):
  path, epsilon = unconditional
  status, out, err = command(
    f'--model={path}', '--format=parquet', '--num=3', f'--out={tmp_path}/p'
  )
  assert (status, err) == (0, '')
  spent = f'epsilon {show_epsilon(epsilon)}, delta 0.001 for one image, add_or_remove_one'
  assert out == f'3 synthetic examples (step 4; {spent}): {tmp_path}/p.parquet\n'
  assert parquet.read_schema(tmp_path / 'p.parquet').metadata[b'guarantee'].decode() == spent
  table = parquet.read_table(tmp_path / 'p.parquet').to_pylist()
  assert [set(row) for row in table] == [{'image'}] * 3
  assert Image.open(io.BytesIO(table[0]['image']['bytes'])).size == (8, 8)


@pytest.mark.parametrize(
  ('share', 'message'), [('0', 'clearest in (0, 1], got 0.0'), ('0.6', 'samples (label_share)')]
)
def test_what_nothing_says_the_clearness_of_is_refused(unconditional, command, tmp_path, share,
                                                       message):  # fmt: skip
  status, out, err = command(
    f'--model={unconditional[0]}', f'--clearest={share}', f'--out={tmp_path}/x'
  )
  assert (status, out) == (2, '')
  assert err.startswith('error: expected clearest ')
  assert message in err
  assert err.count('\n') == 1
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ([], 'expected --run_dir=DIRECTORY or --model=FILE, one of them'),
    (['--run_dir=nowhere'], 'got nowhere, which does not exist'),
    (['--run_dir=x', '--format=jpg'],
     "one of csv, idx, npz, parquet, png; got 'jpg' (did you mean png?)"),
  ],
  ids=str,
)
def test_wrong_commands_are_one_line_and_status_2(command, arguments, message):
  status, out, err = command(*arguments)
  assert (status, out) == (2, '')
  assert err.startswith('error: expected ')
  assert err.endswith(f'{message}\n')
  assert err.count('\n') == 1


@pytest.mark.parametrize(
  ('out', 'format', 'written'),
  [
    ('s', 'npz', 's.npz'),
    ('s.npz', 'npz', 's.npz'),
    ('v1.2', 'parquet', 'v1.2.parquet'),
    ('s', 'png', 's'),
    ('s', 'idx', 's'),
    ('s/', 'npz', 's.npz'),
    ('s.NPZ', 'npz', 's.NPZ'),
    ('folder', 'npz', 'folder'),  # which is refused
  ],
)
def test_a_file_ends_as_its_format_does(tmp_path, monkeypatch, out, format, written):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'folder').mkdir()
  assert sample.with_ending(out, format) == pathlib.Path(written)


TEN = tuple(map(str, range(10)))
PLACES = ('Bonn', 'Köln', 'Köln, Deutz', 'T-shirt/top', '2', '10')


def test_labels_are_dealt_in_turn():
  assert sample.parse_labels(None, 5, TEN) is None
  assert list(sample.parse_labels('0,1,7', 5, TEN)) == [0, 1, 7, 0, 1]
  assert list(sample.parse_labels('3', 2, TEN)) == [3, 3]
  assert list(sample.parse_labels('5, 4', 1, TEN)) == [5]
  assert sample.parse_labels('1', 1, TEN).dtype == np.int64


@pytest.mark.parametrize(
  ('text', 'labels'),
  [
    ('Köln', [1]),
    ('Ko\u0308ln', [1]),  # the ö as macOS spells it
    ('Köln'.encode().decode('ascii', 'surrogateescape'), [1]),  # as from a terminal with LANG=C
    ('Bonn, Köln,T-shirt/top', [0, 1, 3]),
    ('Köln, Deutz', [2]),
    ('"Köln, Deutz",Bonn', [2, 0]),
    ('2', [4]),  # names come first
    ('10,3', [5, 3]),
  ],
)
def test_classes_are_drawn_by_name(text, labels):
  assert list(sample.parse_labels(text, len(labels), PLACES)) == labels


def test_a_wrong_name_is_answered_with_a_close_one():
  with pytest.raises(_validate.InputError, match=r"got 'köln' \(did you mean Köln\?\)"):
    sample.parse_labels('köln', 5, PLACES)


@pytest.mark.parametrize(
  'text', ['', 'x', '1,', '1;2', '1.5', '10', '-1', '0,12', '１', '1' * 5000, '"', '\n', '\0']
)
def test_labels_that_are_no_classes_are_refused(text):
  with pytest.raises(_validate.InputError, match='expected labels '):
    sample.parse_labels(text, 5, TEN)
