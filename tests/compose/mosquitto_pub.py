"""Stands in for ``mosquitto_pub`` where it is not installed: one message, QoS 1."""

from __future__ import annotations

import argparse
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion


def main(arguments: list[str]) -> int:
    """Publish; 0 once the broker has confirmed it."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("-h", dest="host", default="localhost")
    parser.add_argument("-p", dest="port", type=int, default=1883)
    parser.add_argument("-u", dest="user")
    parser.add_argument("-P", dest="password")
    parser.add_argument("-q", dest="qos", type=int, default=0)
    parser.add_argument("-t", dest="topic", required=True)
    parser.add_argument("-m", dest="message", required=True)
    parser.add_argument("-i", dest="client_id", default="")
    parser.add_argument("--cafile")
    given = parser.parse_args(arguments)
    client = mqtt.Client(CallbackAPIVersion.VERSION2, given.client_id)
    client.username_pw_set(given.user, given.password)
    if given.cafile:
        client.tls_set(given.cafile)
    client.connect(given.host, given.port)
    client.loop_start()
    sent = client.publish(given.topic, given.message, max(given.qos, 1))
    sent.wait_for_publish(30)
    client.disconnect()
    client.loop_stop()
    return 0 if sent.is_published() else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
