"""The state: data that is kept over restarts, in one database."""
