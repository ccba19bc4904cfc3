"""The flow of inference: requests to models, their results, and the points and alerts
of results.

Requests come in batches because models are fastest with batches: requests to one model
are stacked (see :mod:`meshtasks.flows.inference.tensors`). For each request a result is
published to the exchange ``ai`` with the routing key ``ai.result.<model>``: it has the
model's outputs, or the reason why there are none. Requests are retried only if they may
still succeed (the server is unavailable, the model is not loaded). A request that
exhausts its retries also gets a result, with the reason.

A rerun is harmless: models have no memory, and a repeated request gives a result with
the same message id. Results are stored like metrics.

Tensors are described as in the Open Inference Protocol, version 2
(https://github.com/kserve/open-inference-protocol), which Triton implements.
"""
