"""The report: what it tells, and the page it is told on."""
