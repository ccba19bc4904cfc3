"""Alerts: which alerts fire, and which notifications go to whom, and when.

The handlers of ``alerts.critical`` and ``alerts.notifications`` only store the state
of each alert; a timer of the worker sends every notification that is due. So
reminders, group waits and quiet hours need no further message, a slow receiver
blocks no queue, and a receiver that is unavailable keeps no message in the broker: the
group is retried until a receiver takes the notification.

Alerts come in batches because a batch is one transaction, and each transaction waits
for the disk.

A rerun is harmless: a record that is delivered again is recognised by its id. A
notification is claimed before it is sent and recorded afterwards; a crash between the
two sends it twice, at worst.
"""
