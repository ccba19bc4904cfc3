"""AMQP: topology, reading, publishing with confirms, dead letters."""

from kombu.transport import TRANSPORT_ALIASES

# Every connection in a process of the mesh, Celery's included, uses our reader.
# Messages may contain bytes on which py-amqp's reader raises.
TRANSPORT_ALIASES["amqp"] = "meshtasks.amqp.receiving:Transport"
TRANSPORT_ALIASES["amqps"] = "meshtasks.amqp.receiving:TLSTransport"
