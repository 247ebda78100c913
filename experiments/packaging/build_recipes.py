"""How building a wheel adds the flag files: pyproject.toml names `BuildRecipes`.

Flag files are written once, in experiments/, and an installed package has copies of them under
dpgan_jax/recipes/experiments/, with the same paths.
"""

from __future__ import annotations

import pathlib

from setuptools.command.build_py import build_py

# An editable installation reads the checkout's.
FILES = sorted(pathlib.Path('experiments').rglob('*.flags'))


class BuildRecipes(build_py):
  """Copies the flag files beside the modules; a source distribution gets them and this file."""

  def run(self) -> None:
    super().run()
    if not self.editable_mode:
      for source, target in self._copies():
        target.parent.mkdir(parents=True, exist_ok=True)
        self.copy_file(str(source), str(target), preserve_mode=False)

  def get_outputs(self, include_bytecode: bool = True) -> list[str]:
    added = [] if self.editable_mode else [str(target) for _, target in self._copies()]
    return [*super().get_outputs(include_bytecode), *added]

  def get_source_files(self) -> list[str]:
    here = pathlib.Path('experiments', 'packaging', 'build_recipes.py')
    return [*super().get_source_files(), *map(str, [*FILES, here])]

  def _copies(self) -> list[tuple[pathlib.Path, pathlib.Path]]:
    home = pathlib.Path(self.build_lib, 'dpgan_jax', 'recipes')
    return [(path, home / path) for path in FILES]
