"""What devices publish by MQTT becomes the mesh's own records.

Everything but :mod:`~meshtasks.producers.sensornet.__main__` is pure: topic and bytes
in, readings out.
"""
