"""The console: the house, its mesh and its troubles as web pages.

Served by the gateway at ``/``. It shows what the commands show, by the same functions.
"""
