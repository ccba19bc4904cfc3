"""The normaliser: makes records of the messages that devices publish by MQTT.

Only :mod:`~meshtasks.producers.sensornet.service` and the file of announcements do I/O;
everything else computes readings from a topic and bytes.
"""
