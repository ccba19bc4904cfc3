"""AMQP: topology, reading, the confirmed publisher, dead letters."""

from kombu.transport import TRANSPORT_ALIASES

# Whatever connects to a broker in a process of the mesh, Celery too, reads with our
# reader: messages may hold bytes that py-amqp's own raises on.
TRANSPORT_ALIASES["amqp"] = "meshtasks.amqp.receiving:Transport"
TRANSPORT_ALIASES["amqps"] = "meshtasks.amqp.receiving:TLSTransport"
