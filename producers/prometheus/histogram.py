"""Quantiles of histograms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise


def quantile(q: float, buckets: Sequence[tuple[float, float]]) -> float | None:
    """Estimate a quantile, as PromQL's ``histogram_quantile`` does: values are taken
    to be spread evenly over their bucket
    (https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile).

    Args:
        q: between 0 and 1.
        buckets: upper bound and number of values up to it, by rising bounds and
            numbers; the last one's bound is infinity.

    Returns:
        The value; the highest finite bound if it is above that. None if there are
        no values, or no buckets to tell by.
    """
    if len(buckets) < 2 or buckets[-1][0] != math.inf or buckets[-1][1] <= 0:  # noqa: PLR2004 - one with a bound, and the last
        return None
    rank = q * buckets[-1][1]
    lowest_bound, lowest_count = buckets[0]
    if rank <= lowest_count:
        if lowest_bound <= 0:
            return lowest_bound
        return lowest_bound * rank / lowest_count
    for (lower, below), (upper, count) in pairwise(buckets):
        if rank <= count:
            if upper == math.inf:
                return lower
            return lower + (upper - lower) * (rank - below) / (count - below)
    return None
