"""``python -m producers.system``."""

from producers.__main__ import main

if __name__ == "__main__":
    main("system")
