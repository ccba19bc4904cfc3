"""``python -m producers.prometheus``."""

from producers.__main__ import main

if __name__ == "__main__":
    main("prometheus")
