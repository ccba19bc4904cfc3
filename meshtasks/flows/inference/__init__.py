"""Requests to models, their results, and what is made of those; pure.

Tensors are named and described as in the Open Inference Protocol, version 2
(https://github.com/kserve/open-inference-protocol), which Triton speaks.
"""
