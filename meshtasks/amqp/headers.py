"""Names of the AMQP headers the mesh writes, in one place."""

from __future__ import annotations

#: Exchange and routing key of first publication.
EXCHANGE = "x-mesh-exchange"
ROUTING_KEY = "x-mesh-routing-key"
#: Queue the message failed in.
QUEUE = "x-mesh-queue"
#: Retries that count against the message (those during an outage do not).
ATTEMPT = "x-mesh-attempt"
#: Epoch seconds of the first failure; gives the age that ``max_age`` bounds.
FIRST_FAILED_AT = "x-mesh-first-failed-at"
#: Epoch seconds of first receipt: the time of a reading that carries none.
RECEIVED_AT = "x-mesh-received-at"
#: Set on a message that must be processed alone: it may have killed its process.
SINGLE = "x-mesh-isolate"
#: Why a message is dead: a sentence, and the class of the fault.
REASON = "x-mesh-reason"
ERROR_TYPE = "x-mesh-error-type"
ERROR_MESSAGE = "x-mesh-error-message"
TRACEBACK = "x-mesh-traceback"
#: How often it was retried, by which task, when and where it died.
RETRIES = "x-mesh-retries"
TASK = "x-mesh-task"
TASK_ID = "x-mesh-task-id"
FAILED_AT = "x-mesh-failed-at"
WORKER = "x-mesh-worker"
#: Place of the record in the array message it came in.
RECORD_INDEX = "x-mesh-record-index"

#: What of a message's headers had to be left out when it was published again.
OMITTED = "x-mesh-omitted-headers"

#: How often a dead letter was replayed, when the last replay that took it began, and
#: the reason each time (tables, the latest last).
REPLAYS = "x-mesh-replays"
REPLAYED_AT = "x-mesh-replayed-at"
HISTORY = "x-mesh-history"

#: Id in the archive of a record that comes from there once more. It is not archived
#: again.
ARCHIVED = "x-mesh-archived"
#: Marks a message that is stored silently: no alerts, no webhooks.
QUIET = "x-mesh-quiet"
#: Marks excerpts that the mesh made for the archive.
EXCERPTS = "x-mesh-archive"

#: What a failure adds. A message that is replayed begins anew.
OF_A_FAILURE = frozenset(
    {
        ATTEMPT,
        FIRST_FAILED_AT,
        REASON,
        ERROR_TYPE,
        ERROR_MESSAGE,
        TRACEBACK,
        RETRIES,
        TASK,
        TASK_ID,
        FAILED_AT,
        WORKER,
    }
)

#: How RabbitMQ notes that it took a message from a queue itself.
DEATHS_OF_THE_BROKER = frozenset(
    {
        "x-death",
        "x-first-death-exchange",
        "x-first-death-queue",
        "x-first-death-reason",
        "x-last-death-exchange",
        "x-last-death-queue",
        "x-last-death-reason",
    }
)

#: Headers that RabbitMQ keeps itself. They are not copied to a message
#: published again: a stale ``x-death`` makes brokers before 4.0.1 take a later
#: expiry for a dead-letter cycle and drop the message.
BROKER_MANAGED = DEATHS_OF_THE_BROKER | {"x-delivery-count", "x-acquired-count"}

#: Headers that send a message to further queues (CC and BCC, of RabbitMQ), or make a
#: call of it (Celery's task protocol 2). A sender's are not published again.
STEERING = frozenset(
    {
        "BCC",
        "CC",
        "argsrepr",
        "compression",
        "eta",
        "expires",
        "group",
        "group_index",
        "id",
        "ignore_result",
        "kwargsrepr",
        "lang",
        "origin",
        "parent_id",
        "replaced_task_nesting",
        "retries",
        "root_id",
        "shadow",
        "stamped_headers",
        "stamps",
        "task",
        "timelimit",
    }
)
