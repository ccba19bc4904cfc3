"""Events that call webhooks."""
