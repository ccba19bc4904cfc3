"""Cards that stay while their content changes: a click never meets one that is just
being made anew, and what is open or selected stays so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Iterable
from inspect import isawaitable
from typing import Generic, TypeVar

from nicegui import ui

T = TypeVar("T")

#: Shows new content in a card.
Change = Callable[[T], None]


def staying(
    place: ui.element, action: Callable[[], object]
) -> Callable[[], Awaitable[None]]:
    """An action whose dialogs and notices belong to a place that stays, and not to the
    card of the button, which may be gone before the action ends."""

    async def run() -> None:
        with place:
            result = action()
            if isawaitable(result):
                await result

    return run


class Cards(Generic[T]):
    """Cards in an element, one a key.

    Args:
        make: fills a new card; gives what changes it.
        classes: of each card.
    """

    def __init__(
        self,
        inside: ui.element,
        make: Callable[[T], Change[T]],
        classes: str = "mesh-card w-full",
    ) -> None:
        self._inside = inside
        self._make = make
        self._classes = classes
        self._cards: dict[Hashable, tuple[ui.element, Change[T]]] = {}

    def show(self, items: Iterable[tuple[Hashable, T]]) -> None:
        """Show these, in this order, and no others."""
        wanted = dict(items)
        for key in [key for key in self._cards if key not in wanted]:
            card, _ = self._cards.pop(key)
            card.delete()
        for place, (key, item) in enumerate(wanted.items()):
            if key in self._cards:
                card, change = self._cards[key]
            else:
                with (
                    self._inside,
                    ui.element("div").classes(self._classes) as card,
                ):
                    change = self._make(item)
                self._cards[key] = card, change
            change(item)
            if self._inside.default_slot.children[place] is not card:
                card.move(target_index=place)
