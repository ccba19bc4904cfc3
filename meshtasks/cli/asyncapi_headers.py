"""What each AMQP header of the mesh means: its JSON type and a sentence."""

from __future__ import annotations

from meshtasks.amqp import headers

#: On any message that the mesh publishes once more; none has to be given by others.
PASSED_ON = {
    headers.EXCHANGE: ("string", "Exchange of first publication."),
    headers.ROUTING_KEY: ("string", "Routing key of first publication."),
    headers.RECEIVED_AT: ("number", "First receipt, Unix time in seconds."),
    headers.QUEUE: ("string", "Queue it failed in."),
    headers.ATTEMPT: ("integer", "Retries that count against it."),
    headers.FIRST_FAILED_AT: ("number", "First failure, Unix time in seconds."),
    headers.SINGLE: ("integer", "1: to be processed alone."),
    headers.REPLAYS: ("integer", "How often it was given back as a dead letter."),
    headers.REPLAYED_AT: ("number", "Last giving back, Unix time in seconds."),
    headers.HISTORY: ("array", "What it died of each time, the latest last."),
    headers.ARCHIVED: ("string", "Id in the archive, which it was replayed from."),
    headers.EXCERPTS: ("integer", "1: excerpts, which the mesh made for the archive."),
    headers.QUIET: ("integer", "1: no alerts, no webhooks."),
    headers.OMITTED: ("string", "What a sender's headers lost, to fit into a frame."),
}

#: On a dead letter besides.
DEAD_LETTER = {
    headers.REASON: ("string", "Why it is dead, in a sentence."),
    headers.ERROR_TYPE: ("string", "Class of the fault, such as UnknownUnit."),
    headers.ERROR_MESSAGE: ("string", "What the fault said."),
    headers.TRACEBACK: ("string", "The end of the traceback; may be empty."),
    headers.RETRIES: ("integer", "Retries that had counted against it."),
    headers.TASK: ("string", "Celery's name of the task it died in."),
    headers.TASK_ID: ("string", "Celery's id of that task, one for each batch."),
    headers.FAILED_AT: ("string", "When it died, RFC 3339."),
    headers.WORKER: ("string", "Celery's name of the worker it died in."),
    headers.RECORD_INDEX: ("integer", "Place in the array that it was a record of."),
}
