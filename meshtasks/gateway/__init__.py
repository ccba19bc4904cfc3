"""The HTTP gateway: publishes events, calls commands, returns their results.

A response with status 202 is sent only after the broker has confirmed the message.
"""
