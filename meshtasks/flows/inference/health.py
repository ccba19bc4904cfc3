"""Whether models answer at all, as alerts.

Triton's Python backend does not start a model's process again when it dies: the
server stays ready, and every request to the model fails until it is loaded again.
Nobody would know but for this.
"""

from __future__ import annotations

from meshtasks.flows.inference.config import MEASUREMENT
from meshtasks.rules.config import ThresholdRule
from meshtasks.rules.evaluation import Watched
from meshtasks.rules.series import Series

_FIELD = "healthy"
_CRASHED = ThresholdRule(
    name="model-crashed",
    type="threshold",
    routing_key="#",
    metric=MEASUREMENT,
    field=_FIELD,
    below=1,
    severity="critical",
    title="Model {tags[model]} has crashed",
    message=(
        "The process of model {tags[model]} died. Triton does not start it again: "
        "unload and load the model, or restart Triton. Until then requests to it are "
        "tried again for a while, and end as dead letters."
    ),
    resolved_message="Model {tags[model]} answers again.",
)


def health(model: str, *, crashed: bool, now: float) -> Watched:
    """A sample for the rule that says so when a model crashes and when it is back.

    Args:
        model: name of the model.
        crashed: whether its process was found dead; otherwise it answered.
        now: epoch seconds.
    """
    tags = (("model", model),)
    key = f"{MEASUREMENT},model={model} {_FIELD}="
    series = Series(key, MEASUREMENT, "", field=_FIELD, tags=tags)
    return Watched(series, (_CRASHED,), [(now, 0.0 if crashed else 1.0)])
