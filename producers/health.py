"""What is wrong is logged when that changes, not in every round."""

from __future__ import annotations

import logging

logger = logging.getLogger(__name__)


class Health:
    """Of something that is looked at again and again.

    Args:
        what: its name in the log.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._known = ""

    def failed(self, reason: str, *, kind: str = "") -> None:
        """It is not well; said unless it was so for the same reason.

        Args:
            reason: why.
            kind: what it is the same by, where the reason differs each time; the
                reason itself by default.
        """
        kind = kind or reason
        if kind != self._known:
            self._known = kind
            logger.warning("%s: %s", self._what, reason)

    def recovered(self) -> None:
        """It is well; said if it was not."""
        if self._known:
            self._known = ""
            logger.info("%s: is well again", self._what)
