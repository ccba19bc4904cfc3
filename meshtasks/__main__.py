"""``python -m meshtasks`` runs the console script."""

from meshtasks.cli import main

main()
