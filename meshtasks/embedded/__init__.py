"""Private RabbitMQ and VictoriaMetrics for the demo, the tests and the Procfile."""
