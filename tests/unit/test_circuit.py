"""The circuit of a sink."""

from __future__ import annotations

from meshtasks.worker.circuit import Circuit


def middle(low: float, high: float) -> float:
    return (low + high) / 2


def test_the_first_failure_opens_it() -> None:
    circuit = Circuit("timeseries")

    assert circuit.trip("refused")
    assert circuit.is_open
    assert not circuit.trip("refused again")


def test_an_answered_probe_closes_it() -> None:
    circuit = Circuit("timeseries")
    circuit.trip("refused")

    circuit.close()

    assert not circuit.is_open


def test_probes_back_off_to_thirty_seconds() -> None:
    circuit = Circuit("timeseries", middle)
    waits = []
    for _ in range(7):
        waits.append(circuit.next_probe_seconds())
        circuit.probe_failed("refused")

    assert waits == [1, 2, 4, 8, 16, 30, 30]


def test_a_probe_waits_as_long_as_the_sink_asked() -> None:
    assert Circuit("timeseries", middle).next_probe_seconds(90.0) == 90.0
