"""F2: AMQP. Topology entities, envelopes, the confirmed publisher, dead letters."""
