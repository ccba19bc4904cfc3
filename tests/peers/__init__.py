"""Tests against real programs that cost minutes and gigabytes to install: Home
Assistant, n8n. `make test-peers` runs them, `make test` does not."""
