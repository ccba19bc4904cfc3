"""Where the peers are installed: outside the project, so that `make clean`, a second
checkout and the tools that read the source tree leave them alone."""

from __future__ import annotations

import os
from pathlib import Path

_CACHES = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")

#: One directory per peer.
PEERS = _CACHES / "meshtasks" / "peers"
