"""``python -m meshtasks``: the console script, wherever its file is."""

from meshtasks.cli import main

main()
