"""dpgan_jax.data.images.folder and file: folders as people have them, told all at once what is
wrong; and files as an adversary would write them, each refused in one line.
"""

from __future__ import annotations

import functools
import io
import os
import pathlib
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from dpgan_jax.data import datasets, readers
from dpgan_jax.data.images import file as image_file
from dpgan_jax.data.images import folder as image_folder
from dpgan_jax.data.spec import Preparation
from tests.support.images import fuzz, png, png_folder, refused, small


def load(folder: pathlib.Path | str, **options) -> datasets.ImageDataset:
  return datasets.load_dataset('png', data_dir=str(folder), **options)


def bytes_of(image: Image.Image, format: str = 'PNG', **options) -> bytes:
  buffer = io.BytesIO()
  image.save(buffer, format, **options)
  return buffer.getvalue()


def noise(*shape: int) -> np.ndarray:
  return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


class TestPngFolder:
  @pytest.mark.parametrize('channels', [1, 3])
  @pytest.mark.parametrize('split', ['train', 'test', None])
  def test_loads(self, tmp_path, channels, split):
    ds = small(channels=channels)
    png_folder(tmp_path / (split or ''), ds, ('9', '10', '100'))
    (tmp_path / '.hidden').mkdir()
    loaded = datasets.load_dataset('png', data_dir=str(tmp_path), split=split or 'train')
    order = np.argsort(ds.labels, kind='stable')
    np.testing.assert_array_equal(loaded.images, ds.images[order])  # files 2, 10: as numbers
    np.testing.assert_array_equal(loaded.labels, ds.labels[order])
    assert loaded.class_names == ('9', '10', '100')

  def test_names_are_sorted_as_names_where_one_is_no_number(self, tmp_path):
    folder = png_folder(tmp_path, small(), ('9', '10', 'cat'))
    assert datasets.load_dataset('png', data_dir=folder).class_names == ('10', '9', 'cat')

  @pytest.mark.parametrize('interlace', [False, True])
  @pytest.mark.parametrize(('depth', 'colour'), [(2, 0), (4, 0), (8, 0), (8, 2)])
  def test_what_fits_eight_bits_is_read_exactly(self, tmp_path, depth, colour, interlace):
    pixels = np.random.default_rng(depth).integers(0, 2**depth, (11, 13, 3)[: 2 + (colour == 2)])
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a' / '0.png').write_bytes(png(pixels, depth, colour, interlace=interlace))
    found = datasets.load_dataset('png', data_dir=str(tmp_path)).images[0].squeeze()
    np.testing.assert_array_equal(found, pixels * (255 // (2**depth - 1)))

  @pytest.mark.parametrize(
    ('depth', 'colour', 'chunk', 'word'),
    [
      (16, 2, (b'sRGB', b'\0'), 'more than 8 bits'),  # once the upper byte alone: 200 was black
      (16, 0, (b'sRGB', b'\0'), 'I;16, more than 8 bits'),
      (1, 0, (b'sRGB', b'\0'), 'a/0.png (1)'),
      (8, 0, (b'gAMA', struct.pack('>I', 100_000)), 'gamma 1)'),
      (8, 2, (b'gAMA', struct.pack('>I', 55_556)), 'gamma 0.55556'),
      (8, 0, (b'tRNS', b'\0\5'), 'transparency'),
      (8, 0, (b'acTL', struct.pack('>II', 2, 0)), 'animation'),
      (8, 0, (b'eXIf', b'MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0'), 'turned'),
    ],
  )
  @pytest.mark.parametrize('interlace', [False, True])
  def test_what_would_be_lost_is_refused(self, tmp_path, depth, colour, chunk, word, interlace):
    pixels = np.full((4, 4, 3)[: 2 + (colour == 2)], 200 % 2**depth)
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a' / '0.png').write_bytes(png(pixels, depth, colour, chunk, interlace=interlace))
    refused(lambda: load(tmp_path), str(tmp_path), 'a/0.png', word)

  def test_the_usual_gamma_is_nothing_to_refuse(self, tmp_path):
    (tmp_path / 'a').mkdir()
    for i, chunk in enumerate([(b'gAMA', struct.pack('>I', 45_455)), (b'gAMA', bytes(4))]):
      (tmp_path / 'a' / f'{i}.png').write_bytes(png(np.full((4, 4), 7), 8, 0, chunk))
    assert (datasets.load_dataset('png', data_dir=str(tmp_path)).images == 7).all()

  def test_refuses_an_empty_class_and_missing_folders(self, tmp_path):
    folder = str(tmp_path)
    refused(lambda: datasets.load_dataset('png', data_dir=folder), '<class>/<image>')
    png_folder(tmp_path / 'train', small(), ('a', 'b', 'c'))
    refused(lambda: datasets.load_dataset('png', data_dir=folder, split='test'), 'a folder test/')
    (tmp_path / 'train' / 'bb').mkdir()
    refused(lambda: datasets.load_dataset('png', data_dir=folder), '1 × empty class', 'bb')

  def test_test_images_have_the_classes_of_training_by_name(self, tmp_path):
    """A folder of test images that sorts otherwise once had its classes exchanged."""
    ds = small(num_classes=2)
    png_folder(tmp_path / 'train', ds, ('apple', 'banana'))
    png_folder(tmp_path / 'test', ds, ('apple', 'Banana'))
    load_test = functools.partial(load, tmp_path, split='test')
    refused(load_test, 'test/Banana', "'apple', 'banana'", 'train')
    (tmp_path / 'test' / 'Banana').rename(tmp_path / 'test' / 'banana')
    assert load_test().class_names == ('apple', 'banana')
    (tmp_path / 'test' / 'apple').rename(tmp_path / 'apple')
    refused(load_test, "class 0 ('apple') has no images")
    (tmp_path / 'apple').rename(tmp_path / 'test' / 'Apfel')
    refused(load_test, 'Apfel', 'none of the classes of training')

  @pytest.mark.parametrize(
    ('there', 'here'), [(('9', '10'), ('09', '10')), (('1', '2'), ('2', '3')), ('ab', 'bc')]
  )
  def test_other_sets_of_classes_are_refused(self, tmp_path, there, here):
    ds = small(num_classes=2)
    png_folder(tmp_path / 'train', ds, tuple(there))
    png_folder(tmp_path / 'test', ds, tuple(here))
    refused(lambda: load(tmp_path, split='test'), 'folder of none of')

  def test_two_ways_to_spell_a_name_are_one(self, tmp_path):
    ds = small(num_classes=2)
    png_folder(tmp_path / 'train', ds, ('bonn', 'köln'))
    png_folder(tmp_path / 'test', ds, ('bonn', 'ko\u0308ln'))  # as macOS unpacks it
    folder = str(tmp_path)
    for split in datasets.SPLITS:
      loaded = datasets.load_dataset('png', data_dir=folder, split=split)
      assert loaded.class_names == ('bonn', 'köln')
    png_folder(tmp_path / 'test', ds, ('bonn', 'köln'))
    refused(lambda: datasets.load_dataset('png', data_dir=folder, split='test'), 'two folders')

  @pytest.mark.parametrize('names', [('training', 'testing'), ('Train', 'TEST')])
  def test_splits_by_other_names_are_splits_and_no_classes(self, tmp_path, names):
    for name, num in zip(names, (12, 6), strict=True):
      png_folder(tmp_path / name, small(num), ('a', 'b', 'c'))
    sizes = [
      len(datasets.load_dataset('png', data_dir=str(tmp_path), split=s)) for s in datasets.SPLITS
    ]
    assert sizes == [12, 6]
    png_folder(tmp_path / 'train', small(), ('a', 'b', 'c'))
    refused(lambda: datasets.load_dataset('png', data_dir=str(tmp_path)), 'one folder of the train')

  @pytest.mark.parametrize('name', ['testing', 'Test', 'validation', 'val'])
  def test_a_split_beside_classes_is_no_class(self, tmp_path, name):
    folder = png_folder(tmp_path, small(), ('a', 'b', 'c'))
    png_folder(tmp_path / name, small(), ('a', 'b', 'c'))
    message = refused(lambda: datasets.load_dataset('png', data_dir=folder), 'expected')
    assert 'train' in message

  def test_refuses_links_out_of_the_folder(self, tmp_path):
    folder = png_folder(tmp_path / 'in', small(), ('a', 'b', 'c'))
    secret = tmp_path / 'secret.png'
    Image.new('L', (5, 4)).save(secret)
    link = tmp_path / 'in' / 'b' / '77.png'
    link.symlink_to(secret)
    refused(lambda: load(folder), 'b/77.png', 'outside')
    link.unlink()
    link.symlink_to(tmp_path / 'in' / 'a' / '0.png')
    assert len(datasets.load_dataset('png', data_dir=folder)) == 13
    link.unlink()
    link.symlink_to(link)
    refused(lambda: datasets.load_dataset('png', data_dir=folder), '77.png')

  def test_a_class_that_is_a_link_out_of_the_folder_is_not_even_listed(self, tmp_path):
    outside = png_folder(tmp_path / 'outside', small(), ('a', 'b', 'c'))
    root = pathlib.Path(png_folder(tmp_path / 'root', small(), ('0', '1', '2')))
    (root / '3').symlink_to(pathlib.Path(outside) / 'a')
    listed = []
    with pytest.MonkeyPatch.context() as patch:
      iterdir = pathlib.Path.iterdir
      patch.setattr(pathlib.Path, 'iterdir', lambda path: listed.append(path) or iterdir(path))
      refused(lambda: datasets.load_dataset('png', data_dir=str(root)), 'to a place outside')
    assert root / '2' in listed
    assert root / '3' not in listed
    (root / '3').unlink()
    (root / 'train').symlink_to(outside)
    refused(lambda: datasets.load_dataset('png', data_dir=str(root)), 'to a place outside')

  def test_refuses_bombs(self, tmp_path, monkeypatch):
    folder = png_folder(tmp_path, small(), ('a', 'b', 'c'))
    Image.new('L', (300, 300)).save(tmp_path / 'b' / '99.png')
    for limit in (50_000, 10_000):  # one where pillow only warns, one where it fails
      monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', limit)
      refused(lambda: load(folder), 'b/99.png', f'more than {limit:,}')
    monkeypatch.setattr(readers, 'MAX_BYTES', 200)
    refused(lambda: datasets.load_dataset('png', data_dir=folder), '13 images', 'at most 200')


class TestForgiving:
  """What people's folders hold is told all at once, and taken where a setting says how."""

  def test_everything_wrong_is_one_list_with_remedies(self, tmp_path):
    png_folder(tmp_path, small(30), ('a', 'b', 'c'))
    for i in range(12):
      Image.new('L', (7, 4)).save(tmp_path / 'a' / f'9{i}.png')
    Image.new('RGBA', (5, 4)).save(tmp_path / 'b' / 'alpha.png')
    Image.new('P', (5, 4)).save(tmp_path / 'b' / 'palette.png')
    cut = bytes_of(Image.fromarray(noise(40, 40)), 'JPEG')[:-300]
    (tmp_path / 'b' / 'cut.jpg').write_bytes(cut)
    (tmp_path / 'c' / 'notes.txt').write_text('hello')
    (tmp_path / 'd').mkdir()
    Image.new('L', (5, 4)).save(tmp_path / 'loose.png')
    message = refused(
      lambda: load(tmp_path), '12 × image of another size than 4×5 (--image_size=28',
      'a/90.png (4×7)', '2 × image that is not plain', '--channels=1', 'alpha.png (RGBA',
      '1 × damaged image (restore or remove it): b/cut.jpg (image file is truncated',
      'c/notes.txt', '1 × empty class', '1 × image beside the folders of classes',
    )  # fmt: skip
    assert message.count('(4×7)') == 10  # the first ten of a kind by name
    assert message.endswith(', ...')

  def test_a_long_list_keeps_its_remedies(self, tmp_path):
    png_folder(tmp_path, small(30), ('a', 'b', 'c'))
    for i in range(12):
      for suffix, size in (('x' * 200, (7, 4)), ('y' * 200, (5, 4))):
        Image.new('LA' if 'y' in suffix else 'L', size).save(tmp_path / 'a' / f'{i}{suffix}.png')
      (tmp_path / 'b' / f'{i}{"z" * 200}.txt').write_text('')
      (tmp_path / 'c' / f'{i}{"z" * 200}.png').write_text('<svg/>')
    message = refused(
      lambda: load(tmp_path), '12 × image of another size', '--channels=1', '(remove it)'
    )
    assert len(message) < 2000
    assert ' ... ' not in message  # else the middle is cut out, whatever is there

  def test_junk_is_skipped_and_counted(self, tmp_path):
    png_folder(tmp_path, small(), ('a', 'b', 'c'))
    junk = ('a/Thumbs.db', 'b/Thumbs.db', '.DS_Store', 'c/desktop.ini', 'c/._1.png', 'read.me')
    for name in junk:
      (tmp_path / name).write_bytes(b'junk')
    (tmp_path / '__MACOSX').mkdir()
    found = load(tmp_path)
    assert found.fingerprint() == load_plain(tmp_path, small()).fingerprint()
    (note,) = found.notes
    assert note.startswith('skipped 7 files')
    for part in ('2 Thumbs.db', '1 .DS_Store', '1 desktop.ini', '1 hidden', '1 read.me'):
      assert part in note
    assert load_plain(tmp_path / 'clean', small()).notes == ()

  def test_sizes_and_kinds_are_mixed_only_by_flags(self, tmp_path):
    for i, mode in enumerate(('L', 'RGB', 'RGBA', 'P', '1', 'LA', 'I;16')):
      (tmp_path / 'a').mkdir(exist_ok=True)
      Image.new(mode, (10 + i, 8)).save(tmp_path / 'a' / f'{i}.png')
    refused(lambda: load(tmp_path), '5 × image that is not plain', '--channels', '--image_size')
    refused(lambda: load(tmp_path, channels=1), 'another size')
    refused(lambda: load(tmp_path, image_size='6'), 'not plain')
    for channels in (1, 3):
      found = load(tmp_path, channels=channels, image_size='6x7')
      assert found.image_shape == (6, 7, channels)
    assert 'of 7 images: 2 laid on black where transparent, 1 reduced to 8 bits, 7 resized' in (
      ' '.join(found.notes)
    )

  @pytest.mark.parametrize('format', ['PNG', 'TIFF', 'WEBP', 'BMP', 'JPEG'])
  @pytest.mark.parametrize('channels', [1, 3])
  def test_formats_are_told_by_content_and_exact(self, tmp_path, format, channels):
    pixels = noise(9, 8, 3) if channels == 3 else noise(9, 8)
    (tmp_path / 'a').mkdir()
    options = {'lossless': True} if format == 'WEBP' else {}
    content = bytes_of(Image.fromarray(pixels), format, **options)
    (tmp_path / 'a' / '0.png').write_bytes(content)
    found = load(tmp_path, channels=1 if format == 'WEBP' and channels == 1 else None)  # no grey
    if format == 'JPEG':
      with Image.open(io.BytesIO(content)) as image:
        pixels = np.array(image)
    np.testing.assert_array_equal(found.images[0].squeeze(), pixels)

  @pytest.mark.parametrize('colour', [0, 2])
  def test_sixteen_bits_keep_their_upper_eight_and_say_so(self, tmp_path, colour):
    values = np.array([[0, 255, 256, 200], [513, 32767, 65280, 65535]])
    pixels = values if colour == 0 else np.stack([values, values[::-1], values], -1)
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a' / '0.png').write_bytes(png(pixels, 16, colour))
    refused(lambda: load(tmp_path), 'more than 8 bits', '--channels')
    found = load(tmp_path, channels=3 if colour else 1)
    np.testing.assert_array_equal(found.images[0].squeeze(), pixels >> 8)
    assert '1 reduced to 8 bits' in found.notes[0]

  @pytest.mark.parametrize('big', [False, True])
  def test_sixteen_bits_of_tiff_too(self, tmp_path, big):
    values = np.array([[0, 255, 256, 40000], [513, 32767, 65280, 65535]], '>u2' if big else '<u2')
    (tmp_path / 'a').mkdir()
    Image.fromarray(values.astype('<u2')).save(
      tmp_path / 'a' / '0.tif', big_tiff=big, compression='tiff_lzw' if big else None
    )
    refused(lambda: load(tmp_path), 'more than 8 bits')
    np.testing.assert_array_equal(load(tmp_path, channels=1).images[0, ..., 0], values >> 8)

  def test_dark_images_of_sixteen_bits_are_warned_of(self, tmp_path):
    (tmp_path / 'a').mkdir()
    Image.new('I;16', (4, 4), 4095).save(tmp_path / 'a' / '0.png')  # 12 bits, as scanners have
    assert 'nearly black' in load(tmp_path, channels=1).notes[0]
    Image.new('I;16', (4, 4), 60000).save(tmp_path / 'a' / '1.png')
    assert 'nearly black' not in ' '.join(load(tmp_path, channels=1).notes)

  def test_what_is_transparent_is_black_not_the_colour_that_hides_there(self, tmp_path):
    (tmp_path / 'a').mkdir()
    Image.new('RGBA', (2, 2), (255, 255, 255, 0)).save(tmp_path / 'a' / '0.png')
    palette = Image.new('P', (2, 2), 1)
    palette.putpalette([0, 0, 0, 200, 100, 50])
    palette.save(tmp_path / 'a' / '1.png')
    palette.save(tmp_path / 'a' / '2.png', transparency=1)
    found = load(tmp_path, channels=3).images[:, 0, 0].tolist()
    assert found == [[0, 0, 0], [200, 100, 50], [0, 0, 0]]

  def test_resizing_averages_what_it_drops(self, tmp_path):
    """Nearest neighbours of a fine chequerboard would be black and white."""
    (tmp_path / 'a').mkdir()
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(board).save(tmp_path / 'a' / '0.png')
    found = load(tmp_path, image_size='16').images
    assert 120 < found.min() <= found.max() < 136

  @pytest.mark.parametrize('suffix', ['jpg', 'tif', 'png', 'webp'])
  def test_turned_images_are_turned_upright_where_sizes_are_free(self, tmp_path, suffix):
    exif = Image.Exif()
    exif[0x112] = 6
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = 255
    (tmp_path / 'a').mkdir()
    Image.fromarray(pixels).save(tmp_path / 'a' / f'0.{suffix}', exif=exif)
    refused(lambda: load(tmp_path), 'turned (Exif)', '--image_size')
    upright = load(tmp_path, image_size='16x8').images[0, ..., 0]
    assert upright[:7].min() > 200
    assert upright[9:].max() < 50  # the left half is the top

  def test_images_that_are_large_ask_for_a_size(self, tmp_path):
    (tmp_path / 'a').mkdir()
    Image.new('L', (1025, 4)).save(tmp_path / 'a' / '0.png')
    refused(lambda: load(tmp_path), 'more than 1024 pixels a side', '--image_size=28')
    assert load(tmp_path, image_size='28').image_shape == (28, 28, 1)

  def test_a_flat_folder_is_one_class(self, tmp_path):
    for i, image in enumerate(small().images):
      Image.fromarray(image.squeeze()).save(tmp_path / f'{i}.png')
    found = load(tmp_path)
    np.testing.assert_array_equal(found.images, small().images)
    assert found.spec.class_names == ('unlabelled',)
    assert found.spec.unit == 'one image'
    assert 'without classes' in found.spec.describe()
    assert small().spec.unit == 'one labelled image'
    (tmp_path / 'test' / 'a').mkdir(parents=True)
    refused(lambda: load(tmp_path), 'a folder train/')

  def test_other_requests_are_refused(self, tmp_path):
    png_folder(tmp_path, small(), ('a', 'b', 'c'))
    for size in ('x', '28x', '0', '2000', '28x28x1', '-3'):
      refused(lambda size=size: load(tmp_path, image_size=size), 'image_size')
    refused(lambda: load(tmp_path, channels=2), 'channels', '1, 3')
    refused(lambda: load(tmp_path, channels=True), 'channels')
    for name in ('digits', 'mnist', 'idx'):
      refused(lambda n=name: datasets.load_dataset(n, channels=1), 'only with npz or png')
    refused(lambda: datasets.load_dataset('npz', data_dir='x', labels_csv='y'), 'only with png')
    assert Preparation.of('28', None) == Preparation.of('28x28', None)


def load_plain(folder: pathlib.Path, source: datasets.ImageDataset) -> datasets.ImageDataset:
  png_folder(folder, source, ('a', 'b', 'c'))
  return load(folder)


class TestTable:
  """Labels out of a CSV."""

  def folder(self, tmp_path: pathlib.Path, text: str) -> dict[str, str]:
    source = small(6)
    for i, image in enumerate(source.images):
      place = tmp_path / 'images' / ('deep' if i % 2 else '.')
      place.mkdir(parents=True, exist_ok=True)
      Image.fromarray(image.squeeze()).save(place / f'{i}.png')
    (tmp_path / 'labels.csv').write_text(text, encoding='utf-8')
    return {'folder': str(tmp_path / 'images'), 'labels_csv': str(tmp_path / 'labels.csv')}

  ROWS = ('0.png', 'deep/1.png', '2.png', 'deep\\3.png', './4.png', 'deep/5.png')

  @pytest.mark.parametrize('comma', [',', ';'])
  def test_reads(self, tmp_path, comma):
    rows = [f'{name}{comma}"{i % 3 + 8}"{comma}x' for i, name in enumerate(self.ROWS)]
    head = comma.join(('\ufeffFile', ' Label', 'age'))
    found = load(**self.folder(tmp_path, '\n'.join((head, *rows))))
    assert found.class_names == ('8', '9', '10')  # numbers as numbers
    pairs = zip(found.images, found.labels, strict=True)
    by_image = {image.tobytes(): label for image, label in pairs}
    for i, image in enumerate(small(6).images):
      assert by_image[image.tobytes()] == i % 3

  @pytest.mark.parametrize(
    ('text', 'words'),
    [
      ('', ('columns file and label', 'got nothing')),
      ('name,class\n0.png,a', ('columns file and label', "'name', 'class'")),
      ('file,label,label\n0.png,a,b', ('columns file and label',)),
      ('file,label\n0.png,a\nnone.png,b',
       ('5 × image in no row of labels.csv', '1 × row of labels.csv without an image', 'none.png')),
      ('file,label\n0.png\n2.png,', ('2 × row of labels.csv without a file or a label', 'line 2')),
      ('file,label\n0.png,a\n0.png,b', ('1 × file with two labels', '0.png')),
      ('file,label\n0.png,' + 'a' * 1001, ('1 to 1000 characters',)),
      ('file,label\n' + 'x' * 200_000 + ',a', ('comma-separated', 'field larger')),
    ],
    ids=lambda text: text[:30] if isinstance(text, str) else '',
  )  # fmt: skip
  def test_refuses(self, tmp_path, text, words):
    options = self.folder(tmp_path, text)
    refused(lambda: load(**options), *words)

  def test_other_files(self, tmp_path):
    options = self.folder(tmp_path, '')
    (tmp_path / 'labels.csv').write_bytes(b'file,label\n\xff\xfe,a')
    refused(lambda: load(**options), 'labels.csv', 'UTF-8')
    options['labels_csv'] = str(tmp_path / 'absent.csv')
    refused(lambda: load(**options), 'absent.csv does not exist')

  def test_links_to_folders_are_named(self, tmp_path):
    rows = '\n'.join(f'{name},a' for name in self.ROWS)
    options = self.folder(tmp_path, f'file,label\n{rows}')
    (tmp_path / 'images' / 'deep' / 'up').symlink_to('..')
    (tmp_path / 'images' / 'out').symlink_to(tmp_path)
    refused(lambda: load(**options), '2 × link to a folder', 'deep/up', 'out')

  def test_splits_share_the_classes(self, tmp_path):
    for split in datasets.SPLITS:
      (tmp_path / split).mkdir()
      for i, image in enumerate(small(4).images):
        Image.fromarray(image.squeeze()).save(tmp_path / split / f'{i}.png')
    names = [f'{split}/{i}.png,{"ab"[i % 2]}' for split in datasets.SPLITS for i in range(4)]
    (tmp_path / 'labels.csv').write_text('\n'.join(('file,label', *names)))
    for split in datasets.SPLITS:
      found = load(tmp_path, split=split, labels_csv=str(tmp_path / 'labels.csv'))
      assert (len(found), found.class_names) == (4, ('a', 'b'))
      assert found.notes == ()  # the table itself is nothing that was skipped


def giant_tiff() -> bytes:
  """A header of 100,000 × 100,000 pixels, and one byte of them."""
  entries = ((256, 100_000), (257, 100_000), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1),
             (278, 100_000), (279, 1))  # fmt: skip
  ifd = b''.join(struct.pack('<HHII', tag, 4, 1, value) for tag, value in entries)
  return b'II*\0\x10\0\0\0' + b'\xff' * 8 + struct.pack('<H', len(entries)) + ifd + bytes(4)


def giant_png() -> bytes:
  content = png(np.zeros((1, 1), int), 8, 0)
  head = b'IHDR' + struct.pack('>IIBBBBB', 60_000, 60_000, 8, 0, 0, 0, 0)
  return content[:12] + head + struct.pack('>I', zlib.crc32(head)) + content[33:]


def giant_webp() -> bytes:
  content = bytearray(bytes_of(Image.new('RGB', (4, 4)), 'WEBP', lossless=True))
  content[21:25] = struct.pack('<I', 16383 - 1 | (16383 - 1) << 14)  # VP8L: 14 bits a side
  return bytes(content)


def giant_jpeg() -> bytes:
  content = bytes_of(Image.new('L', (4, 4)), 'JPEG')
  place = content.index(b'\xff\xc0') + 5
  return content[:place] + struct.pack('>HH', 60_000, 60_000) + content[place + 4 :]


def giant_bmp() -> bytes:
  content = bytearray(bytes_of(Image.new('L', (4, 4)), 'BMP'))
  content[18:26] = struct.pack('<ii', 60_000, 60_000)
  return bytes(content)


HOSTILE = {
  'bomb.png': (giant_png, 'a bomb?'),
  'bomb.tif': (giant_tiff, 'a bomb?'),
  'bomb.webp': (giant_webp, 'a bomb?'),
  'bomb.jpg': (giant_jpeg, 'a bomb?'),
  'bomb.bmp': (giant_bmp, 'a bomb?'),
  'cut.jpg': (lambda: bytes_of(Image.fromarray(noise(64, 64)), 'JPEG')[:900], 'truncated'),
  'drawing.png': (lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>', 'no PNG, JPEG'),
  'movie.png': (lambda: bytes_of(Image.new('P', (4, 4)), 'GIF'), 'no PNG, JPEG'),
  'print.jpg': (lambda: bytes_of(Image.new('CMYK', (4, 4)), 'JPEG'), 'kind that is not read'),
  'floats.tif': (lambda: bytes_of(Image.new('F', (4, 4)), 'TIFF'), 'kind that is not read'),
  'pages.tif': (
    lambda: bytes_of(
      Image.new('L', (4, 4)), 'TIFF', save_all=True, append_images=[Image.new('L', (4, 4))]
    ),
    'several images',
  ),
  'empty.bmp': (lambda: b'', 'no PNG, JPEG'),
}


class TestHostile:
  @pytest.mark.parametrize('name', HOSTILE)
  @pytest.mark.parametrize('flags', [{}, {'image_size': '28', 'channels': 1}])
  def test_each_is_one_line_and_little_memory(self, tmp_path, capfd, name, flags):
    make, word = HOSTILE[name]
    png_folder(tmp_path, small(), ('a', 'b', 'c'))
    (tmp_path / 'b' / name).write_bytes(make())
    tracemalloc.start()
    refused(lambda: load(tmp_path, **flags), f'b/{name}', word, '1 × ')
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22
    assert capfd.readouterr().err == ''  # nor do the libraries below print anything

  def test_loops_of_links(self, tmp_path):
    png_folder(tmp_path, small(), ('a', 'b', 'c'))
    (tmp_path / 'b' / 'self.png').symlink_to('self.png')
    (tmp_path / 'd').symlink_to('.')
    (tmp_path / 'e').symlink_to('e')
    refused(lambda: load(tmp_path), 'b/self.png', '4 × folder within a class', 'd/a')
    os.mkfifo(tmp_path / 'b' / 'pipe.png')  # which would be waited for without end
    refused(lambda: load(tmp_path), 'b/pipe.png')

  @pytest.mark.parametrize('format', ['PNG', 'JPEG', 'TIFF', 'WEBP', 'BMP'])
  def test_whatever_the_bytes_are(self, tmp_path, format):
    path = tmp_path / 'a' / f'0.{format.lower()}'
    path.parent.mkdir()
    options = {}
    if format == 'PNG':
      options['pnginfo'] = PngImagePlugin.PngInfo()
      options['pnginfo'].add_text('Comment', 'hello', zip=True)
    if format == 'TIFF':
      options['compression'] = 'tiff_lzw'
    valid = bytes_of(Image.fromarray(small(channels=3).images[0]), format, **options)
    count = 600 if format == 'PNG' else 300
    # Other pixels are as good where nothing is compressed: a file of one is mostly header.
    if format == 'BMP':
      valid = bytes_of(Image.new('L', (1, 1)), format)[:62]
    read = functools.partial(image_folder.read_image_folder, tmp_path)
    fuzz(path, valid, read, count, named=f'a/{path.name}')


def test_arrays_in_memory_are_prepared_as_files_are(tmp_path):
  pixels = noise(3, 9, 8, 4)
  wanted = Preparation.of('5x6', 1)
  found, changes = image_file.prepare_all('x', pixels, wanted)
  for i, image in enumerate(pixels):
    Image.fromarray(image).save(tmp_path / f'{i}.png')
  np.testing.assert_array_equal(found, load(tmp_path, image_size='5x6', channels=1).images)
  assert changes['resized'] == 3
  as_they_are, changes = image_file.prepare_all('x', pixels[..., :1], Preparation())
  assert as_they_are is pixels[..., :1].base or (as_they_are == pixels[..., :1]).all()
  assert not changes
  refused(lambda: image_file.prepare_all('x', pixels[..., :2], wanted), 'x: ', 'got 2')
