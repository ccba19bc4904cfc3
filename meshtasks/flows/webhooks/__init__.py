"""Events of the home start workflows: motions, state changes and automations call
webhooks, of n8n above all.

Events come in batches so that a workflow may take a whole batch in one request, and for
the archive. The batches are small and do not wait long (config/queues.yaml), because a
light may depend on them. No point is written: the workflows would have to wait for the
time-series store whenever that is unavailable. An event without a workflow is archived
if it is selected, and done.

The workflows that a record starts are called one after the other, and the record is
done when all have taken it. If some have not, it is retried or dead, and those that
have are logged, so that neither a retry nor a replay calls them again.

A rerun is as harmless as the called workflows make it: delivery is at least once, and
every request carries an ``Idempotency-Key`` of the record's id and the workflow's name,
the same each time. The entries of a whole batch carry the ids of their records.
"""
