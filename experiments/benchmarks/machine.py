"""The machine that figures belong to. Nothing here tells where on it anything lies."""

from __future__ import annotations

import os
import platform
import re
from typing import Any

from experiments.benchmarks.protocol import cores, from_proc


def memory_bytes(field: str) -> int:
  """`MemTotal` or `MemAvailable`, in bytes."""
  if size := from_proc('meminfo', field):
    return int(size.split()[0]) * 1024
  return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')


def load() -> str:
  """The load averages of the last 1, 5 and 15 minutes."""
  return ' '.join(f'{value:.1f}' for value in os.getloadavg())


def describe() -> dict[str, Any]:
  return {
    'cpu': from_proc('cpuinfo', 'model name') or platform.processor() or platform.machine(),
    'cores': cores(),
    'memory_gib': round(memory_bytes('MemTotal') / 2**30),
    'system': f'{platform.system()} {platform.machine()}',
  }


def without_paths(text: str) -> str:
  """The text with file names in place of absolute paths, which are this machine's business."""
  return re.sub(r'(?<![\w.])(/[^\s/:\'"]+)+/', '', text)
