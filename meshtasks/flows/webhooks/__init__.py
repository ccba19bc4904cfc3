"""The flow of webhooks. Events of the home (motions, state changes, automations) start
workflows: they call webhooks, mostly of n8n.

Events come in batches so that a workflow may take a whole batch in one request, and for
the archive. The batches are small and do not wait long (config/queues.yaml), because a
light may depend on them. No points are written, because workflows would then wait for
an unavailable time-series store. An event that starts no workflow is done once it is
archived, if archive.yaml selects it.

The workflows that a record starts are called one after the other. The record is done
when all calls have succeeded. Otherwise it is retried or dead, and the successful calls
are logged, so that neither a retry nor a replay repeats them.

A rerun is as harmless as the called workflows make it. Delivery is at least once, and
every request has an ``Idempotency-Key`` of the record's id and the workflow's name,
which is the same at each attempt. The entries of a whole batch have the ids of their
records.
"""
