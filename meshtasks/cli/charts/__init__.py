"""Charts: of a query's result, and for the report."""
