"""Statistics of Triton Inference Server: ``python -m producers triton``."""
