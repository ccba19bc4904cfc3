"""Statistics of Triton Inference Server: ``python -m meshtasks.producers triton``."""
