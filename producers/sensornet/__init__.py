"""What devices publish by MQTT becomes the mesh's own records.

Everything but :mod:`~producers.sensornet.service` and
:mod:`~producers.sensornet.command` is pure: topic and bytes in, readings out.
"""
