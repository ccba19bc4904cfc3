-- The tables of a new SQLite file, as tables.py describes them and the migrations make
-- them: SQLAlchemy, which could write this, takes 17 MB in a process that loads it.

CREATE TABLE alert_events (
    number INTEGER NOT NULL,
    state TEXT NOT NULL,
    PRIMARY KEY (number)
);
CREATE TABLE alert_groups (
    id TEXT NOT NULL,
    state TEXT NOT NULL,
    tag TEXT NOT NULL,
    wake_at DOUBLE,
    urgency INTEGER DEFAULT '0' NOT NULL,
    claimed_until DOUBLE DEFAULT '0' NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (tag)
) WITHOUT ROWID;
CREATE INDEX alert_groups_wake ON alert_groups (wake_at);
CREATE TABLE alert_notes (
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (name)
) WITHOUT ROWID;
CREATE TABLE alerts (
    fingerprint TEXT NOT NULL,
    state TEXT NOT NULL,
    firing BOOLEAN NOT NULL,
    received_at DOUBLE NOT NULL,
    ends_at DOUBLE,
    PRIMARY KEY (fingerprint)
) WITHOUT ROWID;
CREATE INDEX alerts_firing ON alerts (firing, received_at);
CREATE TABLE alerts_seen (
    id TEXT NOT NULL,
    at DOUBLE NOT NULL,
    PRIMARY KEY (id)
) WITHOUT ROWID;
CREATE INDEX alerts_seen_age ON alerts_seen (at);
CREATE TABLE archive_claims (
    id TEXT NOT NULL,
    PRIMARY KEY (id)
) WITHOUT ROWID;
CREATE TABLE archive_damaged (
    name TEXT NOT NULL,
    fault TEXT NOT NULL,
    PRIMARY KEY (name)
) WITHOUT ROWID;
CREATE TABLE archive_generation (
    id SMALLINT NOT NULL,
    current SMALLINT NOT NULL,
    started_at DOUBLE NOT NULL,
    ids BIGINT NOT NULL,
    PRIMARY KEY (id)
) WITHOUT ROWID;
CREATE TABLE archive_ids_0 (
    id TEXT NOT NULL,
    PRIMARY KEY (id)
) WITHOUT ROWID;
CREATE TABLE archive_ids_1 (
    id TEXT NOT NULL,
    PRIMARY KEY (id)
) WITHOUT ROWID;
CREATE TABLE archive_pending (
    name TEXT NOT NULL,
    ids TEXT NOT NULL,
    owner INTEGER,
    server TEXT,
    claimed_at DOUBLE DEFAULT '0' NOT NULL,
    PRIMARY KEY (name)
) WITHOUT ROWID;
CREATE TABLE counts (
    bucket DOUBLE NOT NULL,
    queue TEXT NOT NULL,
    done BIGINT NOT NULL,
    dead BIGINT NOT NULL,
    aside BIGINT NOT NULL,
    PRIMARY KEY (bucket, queue)
) WITHOUT ROWID;
CREATE TABLE gateway_requests (
    client TEXT NOT NULL,
    "key" TEXT NOT NULL,
    digest TEXT NOT NULL,
    id TEXT NOT NULL,
    at DOUBLE NOT NULL,
    response TEXT,
    PRIMARY KEY (client, "key")
) WITHOUT ROWID;
CREATE INDEX gateway_requests_age ON gateway_requests (at);
CREATE TABLE gateway_tasks (
    id TEXT NOT NULL,
    name TEXT,
    client TEXT,
    state TEXT NOT NULL,
    result TEXT,
    error TEXT,
    submitted_at DOUBLE,
    updated_at DOUBLE NOT NULL,
    PRIMARY KEY (id)
) WITHOUT ROWID;
CREATE INDEX gateway_tasks_age ON gateway_tasks (updated_at);
CREATE TABLE imports (
    token TEXT NOT NULL,
    file TEXT NOT NULL,
    at DOUBLE NOT NULL,
    PRIMARY KEY (token)
) WITHOUT ROWID;
CREATE TABLE probes (
    sink TEXT NOT NULL,
    at DOUBLE NOT NULL,
    PRIMARY KEY (sink)
) WITHOUT ROWID;
CREATE TABLE rule_states (
    "key" TEXT NOT NULL,
    state TEXT NOT NULL,
    updated_at DOUBLE NOT NULL,
    PRIMARY KEY ("key")
) WITHOUT ROWID;
CREATE TABLE sensor_gaps (
    routing_key TEXT NOT NULL,
    sensor_id TEXT NOT NULL,
    begins_at DOUBLE NOT NULL,
    ends_at DOUBLE NOT NULL,
    PRIMARY KEY (routing_key, sensor_id, begins_at)
) WITHOUT ROWID;
CREATE INDEX sensor_gaps_age ON sensor_gaps (ends_at);
CREATE TABLE sensor_incidents (
    routing_key TEXT NOT NULL,
    sensor_id TEXT NOT NULL,
    cause TEXT NOT NULL,
    begins_at DOUBLE NOT NULL,
    ends_at DOUBLE NOT NULL,
    number BIGINT NOT NULL,
    reason TEXT NOT NULL,
    example TEXT NOT NULL,
    ahead_low DOUBLE NOT NULL,
    ahead_high DOUBLE NOT NULL,
    first_time DOUBLE,
    last_time DOUBLE,
    PRIMARY KEY (routing_key, sensor_id, cause, begins_at)
) WITHOUT ROWID;
CREATE INDEX sensor_incidents_age ON sensor_incidents (ends_at);
CREATE TABLE sensors (
    routing_key TEXT NOT NULL,
    sensor_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    location TEXT NOT NULL,
    unit TEXT NOT NULL,
    value DOUBLE,
    time DOUBLE NOT NULL,
    first_at DOUBLE NOT NULL,
    received_at DOUBLE NOT NULL,
    number BIGINT NOT NULL,
    usual_seconds DOUBLE NOT NULL,
    spread_seconds DOUBLE NOT NULL,
    ahead_seconds DOUBLE NOT NULL,
    PRIMARY KEY (routing_key, sensor_id)
) WITHOUT ROWID;
CREATE INDEX sensors_age ON sensors (received_at);
CREATE TABLE silences (
    id TEXT NOT NULL,
    state TEXT NOT NULL,
    ends_at DOUBLE NOT NULL,
    PRIMARY KEY (id)
) WITHOUT ROWID;
CREATE TABLE spans (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    seen_by TEXT NOT NULL,
    begins_at DOUBLE NOT NULL,
    ends_at DOUBLE,
    heard_at DOUBLE NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (kind, name, seen_by, begins_at)
) WITHOUT ROWID;
CREATE INDEX spans_age ON spans (heard_at);
CREATE TABLE webhook_calls (
    record TEXT NOT NULL,
    workflow TEXT NOT NULL,
    at DOUBLE NOT NULL,
    PRIMARY KEY (record, workflow)
) WITHOUT ROWID;
CREATE INDEX webhook_calls_age ON webhook_calls (at);
CREATE TABLE alert_members (
    group_id TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    notified TEXT NOT NULL,
    pending BOOLEAN DEFAULT 0 NOT NULL,
    PRIMARY KEY (group_id, fingerprint),
    FOREIGN KEY(group_id) REFERENCES alert_groups (id) ON DELETE CASCADE,
    FOREIGN KEY(fingerprint) REFERENCES alerts (fingerprint) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX alert_members_alert ON alert_members (fingerprint);
CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
