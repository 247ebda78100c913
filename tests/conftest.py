"""What every test runs under: eight CPU devices, and a JAX that refuses usual mistakes."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import hashlib
import itertools
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

# JAX reads these once, when its backend starts. Processes that a test starts inherit them.
os.environ['JAX_PLATFORMS'] = os.environ.get('DPGAN_JAX_TEST_PLATFORM', 'cpu')
os.environ.setdefault('JAX_NUM_CPU_DEVICES', '8')

# Processes that tests start compile the same programs again and again: they share what is compiled,
# in a directory of this session's own.
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  _cache = tempfile.mkdtemp(prefix='dpgan_jax_tests_')
  atexit.register(shutil.rmtree, _cache, ignore_errors=True)
  os.environ['JAX_COMPILATION_CACHE_DIR'] = _cache
  os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.1'

# Compiling is most of what these tests do: far less of it, at the price of slower programs. The
# second flag halves the time of a GAN's step again: fused loops are written down by XLA's older
# emitter, without a pipeline of MLIR passes for each.
os.environ.setdefault(
  'XLA_FLAGS',
  '--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false '
  '--xla_cpu_parallel_codegen_split_count=1',
)

import hypothesis
import jax
import pytest
from absl import flags

from tests.support import contexts, losses

# Tracing makes objects by the million, and the collector looks at all of them again and again: a
# tenth of the time. `_forget` collects after every file.
gc.set_threshold(100_000, 50, 1000)

contexts.install()
losses.install()  # dp-accounting's bits, in a fraction of the time

jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_debug_key_reuse', True)

# A slow machine is no failure; in CI the same examples are drawn every time.
hypothesis.settings.register_profile(
  'dpgan_jax', deadline=None, max_examples=50, derandomize=bool(os.environ.get('CI'))
)
hypothesis.settings.load_profile('dpgan_jax')


class _RepeatedBytes:
  """Stands for the operating system's random bytes in CI, where a test that fails on fresh noise
  once in a thousand runs would refuse somebody's change. Elsewhere tests see fresh noise. One
  stream a file, so that what a file draws does not depend on those before it.
  """

  def __init__(self) -> None:
    self.start('')

  def start(self, name: str) -> None:
    self.name, self._calls = name, itertools.count()

  def __call__(self, size: int) -> bytes:
    return hashlib.shake_256(f'{self.name} {next(self._calls)}'.encode()).digest(size)


_repeated_bytes = _RepeatedBytes()
if os.environ.get('CI'):
  os.urandom = _repeated_bytes


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
  name = item.nodeid.partition('::')[0]
  if name != _repeated_bytes.name:
    _repeated_bytes.start(name)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
  """What collecting has imported and found stays to the end: half a second each time that `_forget`
  collects, which has no need to look at it.
  """
  global _left
  gc.collect()
  gc.freeze()
  _left = _resident_bytes()


_MOST_GROWN = 0.6 * 2**30  # bytes of a process, since it last forgot what it compiled
_left = 0  # bytes of this process, when it did


def _resident_bytes() -> int:
  """Of this process; 0 where the system does not say."""
  try:
    with open('/proc/self/statm', encoding='ascii') as file:
      return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')
  except OSError:
    return 0


def _forget() -> None:
  """Frees compiled programs and whatever only they held, and gives the memory back."""
  global _left
  jax.clear_caches()
  contexts.forget()
  gc.collect()
  with contextlib.suppress(OSError, AttributeError):  # only glibc has it
    ctypes.CDLL(None).malloc_trim(0)
  _left = _resident_bytes()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
  """JAX keeps every program that it has compiled: over the suite, 6 GiB. Forgetting takes a third
  of a second, and some programs are compiled again.
  """
  if _resident_bytes() > _left + _MOST_GROWN:
    _forget()


@pytest.fixture(scope='module')
def short_curve() -> Iterator[None]:
  """Of ε over δ in a report: every point of it costs a second."""
  from dpgan_jax.publishing import run_statement

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(run_statement, '_CURVE_POINTS', 3)
    yield


@pytest.fixture
def own_flags(monkeypatch: pytest.MonkeyPatch) -> flags.FlagValues:
  """Absl's flags are global, and commands share names: a test defines a command's for itself."""
  for name, value in flags.FlagValues().__dict__.items():
    monkeypatch.setitem(flags.FLAGS.__dict__, name, value)
  return flags.FLAGS


@pytest.fixture
def strict_dtypes() -> Iterator[None]:
  """Makes implicit dtype promotion an error. Not the default: optax.adam (0.2.8) promotes."""
  with jax.numpy_dtype_promotion('strict'):
    yield


@pytest.fixture(scope='session')
def mnist_dir() -> pathlib.Path:
  """The directory of the four MNIST IDX files, beside the repository; skips where it is absent."""
  directory = pathlib.Path(__file__).resolve().parents[2] / 'shared' / 'data' / 'mnist'
  if not (directory / 'train-images-idx3-ubyte.gz').is_file():
    pytest.skip('real MNIST is absent (../shared/data/mnist)')
  return directory
