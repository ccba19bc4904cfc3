"""One module per vendor: ``parse(levels, body)`` gives a report or says why there is
none.

``levels`` are those of the topic behind the fixed beginning of its source, of
``zigbee2mqtt/kitchen/lamp`` for ``zigbee2mqtt/#`` thus ``kitchen`` and ``lamp``. A
body that ought to hold readings and cannot be read raises
:class:`~meshtasks.domain.errors.InvalidMessage`.
"""
