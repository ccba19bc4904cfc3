"""Models: requests to them, their results, and the points and alerts of results.

Requests come in batches because models are fastest in batches: those to one model are
stacked (see :mod:`meshtasks.flows.inference.tensors`). The result of each is published
to the exchange ``ai`` as ``ai.result.<model>``: the model's outputs, or why there are
none. Requests wait in the broker only while the outcome is open (the server is
unavailable, the model is not loaded); one that exhausts its retries gets a result with
the reason, too.

A rerun is harmless: models have no memory, and the same request gives a result with the
same message id. Results are stored as metrics are.

Tensors are named and described as in the Open Inference Protocol, version 2
(https://github.com/kserve/open-inference-protocol), which Triton speaks.
"""
