"""meshtasks: the data mesh a homelab runs its house on.

Importing this package builds nothing; ``celery -A meshtasks`` finds the
application in :mod:`meshtasks.celery`.
"""
