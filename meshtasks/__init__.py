"""meshtasks: a data mesh for homelabs.

Importing this package creates nothing; ``celery -A meshtasks`` finds the
application in :mod:`meshtasks.celery`.
"""
