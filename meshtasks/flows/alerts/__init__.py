"""The flow of alerts: stores their states, and sends notifications to receivers.

The handlers of ``alerts.critical`` and ``alerts.notifications`` only store the state of
each alert. A timer of the worker sends the notifications that are due. So reminders,
group waits and quiet hours need no messages, and a receiver that is slow or unavailable
blocks no queue: the group is retried until a receiver accepts the notification.

Alerts are handled in batches because a batch is one transaction, and each transaction
waits for the disk.

A rerun is harmless: a record that is delivered again is recognised by its id. A
notification is claimed before it is sent, and recorded afterwards; after a crash
between the two it is sent twice.
"""
