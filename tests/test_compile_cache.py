"""dpgan_jax._compile_cache: programs are kept, and only where nobody else can write."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from dpgan_jax import _compile_cache


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
  """No cache chosen yet, and a home of its own; what the other tests use comes back afterwards."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  before = jax.config.jax_compilation_cache_dir
  jax.config.update('jax_compilation_cache_dir', None)
  yield
  jax.config.update('jax_compilation_cache_dir', before)
  compilation_cache.reset_cache()


def test_programs_are_kept_in_a_private_directory(tmp_path):
  directory = _compile_cache.enable()
  assert directory is not None
  assert directory.parent == tmp_path / 'dpgan_jax'
  assert directory.stat().st_mode & 0o777 == 0o700
  compilation_cache.reset_cache()
  least = jax.config.jax_persistent_cache_min_compile_time_secs
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  jax.jit(lambda x: jnp.sin(x) @ x + 41.5)(jnp.ones((3, 3))).block_until_ready()
  jax.config.update('jax_persistent_cache_min_compile_time_secs', least)
  assert any(directory.iterdir())


def test_a_directory_chosen_by_the_user_stays(tmp_path):
  jax.config.update('jax_compilation_cache_dir', str(tmp_path / 'mine'))
  assert _compile_cache.enable() == tmp_path / 'mine'
  assert not (tmp_path / 'dpgan_jax').exists()


@pytest.mark.parametrize('level', ['parent', 'itself'])
def test_a_directory_that_others_can_write_is_not_used(level):
  directory = _compile_cache.enable()
  assert directory is not None
  (directory if level == 'itself' else directory.parent).chmod(0o770)
  jax.config.update('jax_compilation_cache_dir', None)
  assert _compile_cache.enable() is None
  assert not jax.config.jax_compilation_cache_dir


def test_a_link_is_not_used(tmp_path):
  (tmp_path / 'elsewhere').mkdir(mode=0o700)
  (tmp_path / 'dpgan_jax').symlink_to(tmp_path / 'elsewhere')
  assert _compile_cache.enable() is None


def test_no_place_to_write_is_no_failure(tmp_path):
  (tmp_path / 'dpgan_jax').write_text('a file is in the way', encoding='utf-8')
  assert _compile_cache.enable() is None
