"""``python -m producers NAME`` in a clone and in the image: meshtasks.producers.

The wheel has no package of such a common name at the top.
"""

from meshtasks import producers

__path__ = producers.__path__
