"""What the mesh itself has caused in Home Assistant is not news to it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Set as AbstractSet

from producers.homeassistant.config import Loops
from producers.homeassistant.frames import Context

#: Consequences follow their cause by seconds; a house makes a few contexts in each.
_REMEMBERED_CONTEXTS = 10_000


class LoopGuard:
    """Follows the contexts of what the mesh causes, from cause to consequence.

    An automation runs in a context of its own, whose parent is that of its trigger;
    all that it does has this context. So has what a user does, with the user's id.

    Args:
        loops: how to tell what the mesh causes.
    """

    def __init__(self, loops: Loops) -> None:
        self._loops = loops
        self._user_ids: AbstractSet[str] = frozenset()
        self._own: OrderedDict[str, None] = OrderedDict()

    def know_users(self, user_ids: AbstractSet[str]) -> None:
        """Learn the ids of the users that the mesh acts as."""
        self._user_ids = user_ids

    def caused(self, context: Context, automation: str | None = None) -> bool:
        """Whether the mesh has caused an event.

        Args:
            context: of the event.
            automation: the one that is triggered, if it is such an event.
        """
        own = (
            context.get("user_id") in self._user_ids
            or context["id"] in self._own
            or context.get("parent_id") in self._own
            or (automation is not None and self._loops.starts(automation))
        )
        if own:
            self._own[context["id"]] = None
            self._own.move_to_end(context["id"])
            if len(self._own) > _REMEMBERED_CONTEXTS:
                self._own.popitem(last=False)
        return own
