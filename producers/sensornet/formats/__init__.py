"""One module per vendor: ``parse(levels, body)`` gives a
:class:`~producers.sensornet.payload.Payload` or says why there is none.

``levels`` are those of the topic behind the fixed beginning of its source, of
``zigbee2mqtt/kitchen/lamp`` for ``zigbee2mqtt/#`` thus ``kitchen`` and ``lamp``. A
body that ought to hold readings and cannot be read raises
:class:`~meshtasks.errors.InvalidMessage`. Two values of a device that may
differ have different kinds or parts, whatever else a message holds: each is a series
of its own for ever.
"""
