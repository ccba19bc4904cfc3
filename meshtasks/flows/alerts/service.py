r"""What the alert manager does to its state, one transaction each.

::

    news --take_in--> groups wake --claim--> job --(sent or not)--> settle
                           ^                                          |
                           \\------------- wake_at ------------------/

A claim lasts longer than sending can take. It ends by itself when the worker died,
and the notification is sent again: twice, at worst, but never not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from meshtasks.flows.alerts import decision as decisions
from meshtasks.flows.alerts import muting as mutings
from meshtasks.flows.alerts import standing as standings
from meshtasks.flows.alerts.config import AlertPolicy, GroupKey
from meshtasks.flows.alerts.decision import (
    Decision,
    Group,
    Member,
    Told,
    decide,
    failed,
    reviewed,
    taken,
)
from meshtasks.flows.alerts.events import Event, EventKind
from meshtasks.flows.alerts.muting import Muting
from meshtasks.flows.alerts.standing import Phase, Standing, given_up, hear, rank
from meshtasks.flows.alerts.store import AlertStore
from meshtasks.flows.alerts.tables import AlertTables
from meshtasks.records.alert import Alert

#: Longer than any receiver takes to fail.
_CLAIM_SECONDS_PER_RECEIVER = 60.0

_PRUNE_EVERY_SECONDS = 3_600.0
#: The clock is noted so often; it is seen to go back by more than this.
_CLOCK_SECONDS = 10.0


class News(NamedTuple):
    """One record of an alerts queue.

    Attributes:
        record_id: the same when the record is delivered again.
        alert: the record.
        said_at: when it was published, epoch seconds.
    """

    record_id: str
    alert: Alert
    said_at: float


class Job(NamedTuple):
    """A notification to send.

    Attributes:
        group: of these alerts.
        alerts: what to tell.
        phases: what to tell of each, by fingerprint.
        repeats: it only reminds.
    """

    group: Group
    alerts: list[Standing]
    phases: dict[str, Phase]
    repeats: bool


def take_in(
    store: AlertStore, policy: AlertPolicy, news: Iterable[News], now: float
) -> None:
    """Note how alerts stand after news of them. Repeated news change nothing.

    Raises:
        SinkUnavailable: the store is busy or out of order.
    """
    inhibits = False
    with store.transaction() as tables:
        _watch_clock(tables, now)
        for record_id, alert, said_at in news:
            if tables.is_repeated(record_id, now):
                continue
            known = tables.alert(alert.fingerprint)
            standing = hear(known, alert, said_at, now)
            if standing is None:
                continue
            tables.put_alert(standing)
            inhibits |= _noted(tables, policy, known, standing, now)
        if inhibits:
            tables.wake_all(now)


def claim(store: AlertStore, policy: AlertPolicy, now: float) -> Job | None:
    """The most urgent notification that is due; None when none is.

    It is this process's to send, and to be settled afterwards.

    Raises:
        SinkUnavailable: the store is busy or out of order.
    """
    with store.transaction() as tables:
        _keep_up(tables, policy, now)
        while (group := tables.due_group(now)) is not None:
            job = _review(tables, policy, group, now)
            if job is not None:
                return job
    return None


def settle(
    store: AlertStore,
    job: Job,
    events: Iterable[Event],
    now: float,
    *,
    retry_at: float | None,
    tried: bool = True,
) -> None:
    """Note what became of a notification.

    Args:
        store: the store.
        job: what was to be sent.
        events: what happened to it.
        now: epoch seconds.
        retry_at: when to try it again if no receiver took it, epoch seconds.
        tried: whether any receiver was asked; if not, it is no failure.

    Raises:
        SinkUnavailable: the store is busy or out of order.
    """
    with store.transaction() as tables:
        for event in events:
            tables.note(event)
        group = tables.group(job.group.id)
        if group is None:
            return
        known = {each.alert.fingerprint: each.told for each in tables.members(group.id)}
        for alert in job.alerts:
            name = alert.fingerprint
            if name not in known:
                continue
            phase = job.phases[name]
            if retry_at is None:
                told = Told(phase, alert.severity, at=now)
            else:
                owed = known[name].owed or phase != "resolved"
                told = replace(known[name], owed=owed)
            tables.put_member(group.id, name, told)
        if retry_at is None:
            group = taken(group, now)
        else:
            group = failed(group, retry_at, counts=tried)
        tables.put_group(group, wake_at=now)


def _noted(
    tables: AlertTables,
    policy: AlertPolicy,
    known: Standing | None,
    alert: Standing,
    now: float,
) -> bool:
    """What follows when an alert stands otherwise than before.

    Returns:
        Whether all groups must be looked at, because others may be inhibited now, or
        no longer. The caller wakes them once, however many alerts there are.
    """
    changes = alert.firing != (known is not None and known.firing)
    if changes:
        kind: EventKind = "firing" if alert.firing else "resolved"
        tables.note(Event(now, kind, alert.title, alert.fingerprint, alert.message))
    _assign(tables, policy, alert, now, moves=False)
    return changes and policy.may_inhibit(alert.labels)


def _assign(
    tables: AlertTables,
    policy: AlertPolicy,
    alert: Standing,
    now: float,
    *,
    moves: bool,
) -> None:
    """Put an alert into its groups, and wake them.

    An alert that is over stays where it was told.

    Args:
        moves: the routes have changed, not the alert: what receivers know of it is
            taken along, so that it is not told once more.
    """
    name = alert.fingerprint
    present = tables.memberships(name)
    keys: Mapping[str, GroupKey] = {}
    if alert.firing or (moves and present):
        keys = {key.id: key for key in policy.groups_of(name, alert.labels)}
        known = max(present.values(), key=lambda told: told.at, default=Told())
        free_tags = _leave(tables, name, present, present.keys() - keys.keys())
        for key in keys.values():
            if key.id in present:
                continue
            if tables.group(key.id) is None:
                _open_group(tables, key, free_tags)
            tables.put_member(key.id, name, known if moves else Told())
    for group_id in keys or present:
        tables.wake(group_id, now, rank(alert.severity))


def _leave(
    tables: AlertTables,
    fingerprint: str,
    present: Mapping[str, Told],
    group_ids: Iterable[str],
) -> list[str]:
    """Take an alert out of groups, and forget those that are empty then.

    Returns:
        The tags of the forgotten groups that were told. Whoever goes on with one of
        them replaces the notification on the phone, which nobody updates any more.
    """
    free_tags = []
    for group_id in group_ids:
        tables.drop_member(group_id, fingerprint)
        group = tables.group(group_id)
        if group is not None and not tables.members(group_id):
            tables.drop_group(group_id)
            if present[group_id].phase is not None:
                free_tags.append(group.tag)
    return free_tags


def _open_group(tables: AlertTables, key: GroupKey, free_tags: list[str]) -> None:
    tag = free_tags.pop() if free_tags else f"mesh-{key.id}"
    while tables.has_tag(tag):  # the group that had it by right gave it away
        tag += "-"
    tables.put_group(Group(key.id, key.route, key.labels, tag), wake_at=None)


def _review(
    tables: AlertTables, policy: AlertPolicy, group: Group, now: float
) -> Job | None:
    """Decide what to do with a group; claim it if there is something to send."""
    route = policy.by_name[group.route]
    present = tables.members(group.id)
    # Thousands may fire; most groups need to know of none of them.
    inhibited = any(policy.may_be_inhibited(alert.labels) for alert, _ in present)
    firing = tables.firing() if inhibited else ()
    muting = Muting(policy, tables.silences(), firing, now)
    members = [Member(alert, told, muting.of(alert)) for alert, told in present]
    decision = decide(group, members, route, policy.flapping, now)
    group = reviewed(group, decision, now)
    told_by_name = {alert.fingerprint: told for alert, told in present}
    for name in decision.forget:
        tables.drop_member(group.id, name)
    for name in decision.owe:
        owed = replace(told_by_name[name], owed=True)
        tables.put_member(group.id, name, owed)
    if decision.tell:
        until = now + _CLAIM_SECONDS_PER_RECEIVER * (len(route.receivers) + 1)
        tables.put_group(group, wake_at=now, claimed_until=until)
        tell = frozenset(decision.tell)
        alerts = [alert for alert, *_ in members if alert.fingerprint in tell]
        phases = {each.fingerprint: each.phase(policy.flapping, now) for each in alerts}
        return Job(group, alerts, phases, decision.repeats)
    _put_to_sleep(tables, group, decision, len(members), route.group_interval, now)
    return None


def _put_to_sleep(
    tables: AlertTables,
    group: Group,
    decision: Decision,
    members: int,
    interval_seconds: float,
    now: float,
) -> None:
    """Store a group that has nothing to send now.

    An empty one is kept for its interval: an alert that comes back must not be told
    sooner for its group having been forgotten.
    """
    wake_at = decision.wake_at
    if members == len(decision.forget):
        wake_at = (group.notified_at or 0.0) + interval_seconds
        if wake_at <= now:
            tables.drop_group(group.id)
            return
    tables.put_group(group, wake_at)


def _keep_up(tables: AlertTables, policy: AlertPolicy, now: float) -> None:
    """What time and a changed configuration do to alerts."""
    _watch_clock(tables, now)
    if tables.changes_note("policy", policy.digest):
        for alert in tables.alerts():
            _assign(tables, policy, alert, now, moves=True)
    inhibited = False
    for known in tables.firing_unheard_since(now - policy.resolve_timeout):
        alert = given_up(known, policy.resolve_timeout, now)
        tables.put_alert(alert)
        inhibited |= _noted(tables, policy, known, alert, now)
    if inhibited:
        tables.wake_all(now)
    if tables.changes_note("pruned", str(now // _PRUNE_EVERY_SECONDS)):
        for alert in tables.prune(now):
            detail = "no receiver took it in time"
            tables.note(Event(now, "given up", alert.title, alert.fingerprint, detail))


def _watch_clock(tables: AlertTables, now: float) -> None:
    """Notice that the host's clock was put back, and bring everything that is
    remembered back with it: what was told "tomorrow" would keep quiet until then."""
    noted = tables.noted("clock")
    if noted is None or now < float(noted):
        for alert in tables.alerts():
            tables.put_alert(standings.clock_put_right(alert, now))
        for group in tables.groups():
            for alert, told in tables.members(group.id):
                if told.at > now:
                    right = replace(told, at=now)
                    tables.put_member(group.id, alert.fingerprint, right)
            tables.put_group(decisions.clock_put_right(group, now), wake_at=now)
        for silence in tables.silences():
            tables.put_silence(mutings.clock_put_right(silence, now))
        tables.forget_future_receipts(now)
    tables.changes_note("clock", str(now // _CLOCK_SECONDS * _CLOCK_SECONDS))
