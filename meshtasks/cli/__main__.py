"""``python -m meshtasks.cli`` runs the console script."""

from meshtasks.cli import main

main()
