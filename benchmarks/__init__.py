"""Measures the worker against its ceiling and its peers on this machine.

``python -m benchmarks --help``; docs/benchmarks.md says what the figures mean.
"""

from pathlib import Path

ROOT = Path(__file__).absolute().parents[1]
