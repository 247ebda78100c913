"""Runs the file that the first argument names, as `python FILE ARGUMENTS` does."""

import runpy
import sys

if __name__ == '__main__':
  del sys.argv[0]
  runpy.run_path(sys.argv[0], run_name='__main__')
