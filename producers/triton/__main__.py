"""``python -m producers.triton``."""

from producers.__main__ import main

if __name__ == "__main__":
    main("triton")
