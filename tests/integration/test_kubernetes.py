"""deploy/kubernetes: rendered by kubectl itself, and held against Kubernetes' schemas.

The kinds of operators (RabbitMQ, CloudNativePG, KEDA) are not in these schemas.
"""

from __future__ import annotations

import importlib
import importlib.resources
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from meshtasks.amqp.topology import PENDING_TIMESERIES, TOPOLOGY
from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.flows.loading import load_flows
from tests.conftest import ROOT
from tests.support.environments import KUBERNETES_VENV

OVERLAYS = ("single", "cluster")
OF_OPERATORS = {
    "RabbitmqCluster": "rabbitmq.com/v1beta1",
    "Cluster": "postgresql.cnpg.io/v1",
    "ScaledObject": "keda.sh/v1alpha1",
    "TriggerAuthentication": "keda.sh/v1alpha1",
}
#: Nothing of theirs tells whether a restart would help.
NEVER_RESTARTED = {"normaliser"}

Resource = dict[str, Any]


@pytest.fixture(scope="module", params=OVERLAYS)
def resources(request: pytest.FixtureRequest) -> list[Resource]:
    """All that an overlay renders to."""
    kubectl = KUBERNETES_VENV / "bin" / "kubectl"
    overlay = ROOT / "deploy" / "kubernetes" / "overlays" / request.param
    rendered = subprocess.run(
        [kubectl, "kustomize", overlay], capture_output=True, text=True, check=False
    )
    assert rendered.returncode == 0, rendered.stderr
    return list(yaml.safe_load_all(rendered.stdout))


def pods(resources: list[Resource]) -> Iterator[tuple[str, Resource]]:
    """Name and template of everything that runs pods."""
    for each in resources:
        if each["kind"] in {"Deployment", "StatefulSet"}:
            yield each["metadata"]["name"], each["spec"]["template"]


def containers(resources: list[Resource]) -> Iterator[tuple[str, Resource]]:
    for name, template in pods(resources):
        for container in template["spec"]["containers"]:
            yield name, container


def matches(selector: Resource, labels: dict[str, str]) -> bool:
    if any(labels.get(k) != v for k, v in selector.get("matchLabels", {}).items()):
        return False
    return all(
        labels.get(each["key"]) in each["values"]
        for each in selector.get("matchExpressions", ())
    )


def test_every_resource_is_as_the_schemas_want_it(resources: list[Resource]) -> None:
    (site,) = KUBERNETES_VENV.glob("lib/python3*/site-packages")
    sys.path.append(str(site))
    # its backport is not installed
    sys.modules.setdefault("importlib_resources", importlib.resources)
    try:
        schemas = importlib.import_module("kubernetes_validate")
    finally:
        sys.path.remove(str(site))
    checked = 0
    for each in resources:
        if OF_OPERATORS.get(each["kind"]) == each["apiVersion"]:
            continue
        schemas.validate(each, "1.37", strict=True)
        checked += 1
    assert checked > 20


def test_all_is_in_one_namespace(resources: list[Resource]) -> None:
    for each in resources:
        if each["kind"] == "Namespace":
            assert each["metadata"]["name"] == "meshtasks"
        else:
            assert each["metadata"]["namespace"] == "meshtasks", each["metadata"]


def test_nothing_runs_as_root_or_writes_to_its_image(resources: list[Resource]) -> None:
    for _, template in pods(resources):
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["automountServiceAccountToken"] is False
    for name, container in containers(resources):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name
        assert container["resources"]["limits"]["memory"], name


def test_no_program_takes_the_address_of_a_service_for_an_option(
    resources: list[Resource],
) -> None:
    for name, template in pods(resources):  # FLOWER_PORT ended Flower
        assert template["spec"]["enableServiceLinks"] is False, name


def test_what_keda_scales_has_no_number_of_its_own(resources: list[Resource]) -> None:
    scaled = {
        each["spec"]["scaleTargetRef"]["name"]
        for each in resources
        if each["kind"] == "ScaledObject"
    }
    for each in resources:
        if each["kind"] == "Deployment" and each["metadata"]["name"] in scaled:
            assert "replicas" not in each["spec"]


def test_every_container_is_probed(resources: list[Resource]) -> None:
    for name, container in containers(resources):
        assert "readinessProbe" in container, name
        assert ("livenessProbe" in container) is (name not in NEVER_RESTARTED), name


def test_every_queue_is_consumed_by_one_deployment(resources: list[Resource]) -> None:
    settings = Settings(Environment(config_dir=ROOT / "config"))
    topology = settings.read(TOPOLOGY)
    consumed: list[str] = []
    for name, container in containers(resources):
        if name.startswith("worker-"):
            command = container["command"]
            consumed += command[command.index("-Q") + 1].split(",")
    # whoever fills the queue of pending points consumes it
    named = {*topology.domain_queues} - {PENDING_TIMESERIES}
    handled = load_flows().handlers(settings).keys() & named
    assert sorted(consumed) == sorted([*handled, topology.commands_queue])


def test_every_selector_selects_something(resources: list[Resource]) -> None:
    labels = [template["metadata"]["labels"] for _, template in pods(resources)]
    operators = [each for each in resources if each["kind"] in OF_OPERATORS]
    names = {each["metadata"]["name"] for each in operators}
    labels += [{"app.kubernetes.io/name": name} for name in names]
    labels += [{"cnpg.io/cluster": name} for name in names]
    deployments = {name for name, _ in pods(resources)}
    for each in resources:
        spec = each.get("spec", {})
        match each["kind"]:
            case "PodDisruptionBudget":
                selectors = [spec["selector"]]
            case "Service":
                selectors = [{"matchLabels": spec["selector"]}]
            case "NetworkPolicy":
                rules = [*spec.get("ingress", ()), *spec.get("egress", ())]
                peers = [
                    p
                    for rule in rules
                    for p in (*rule.get("from", ()), *rule.get("to", ()))
                ]
                selectors = [spec["podSelector"]]
                selectors += [p["podSelector"] for p in peers if "podSelector" in p]
            case "ScaledObject":
                assert spec["scaleTargetRef"]["name"] in deployments
                continue
            case _:
                continue
        for selector in selectors:
            assert any(matches(selector, found) for found in labels), each["metadata"]


def test_secrets_are_referred_to_and_described(resources: list[Resource]) -> None:
    page = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    assert not [each for each in resources if each["kind"] == "Secret"]
    text = json.dumps(resources)
    assert "password" not in text.replace("MESH_DB_PASSWORD", "").replace(
        '"key": "password"', ""
    )
    wanted = set()
    for _, container in containers(resources):
        for variable in container.get("env", ()):
            if source := variable.get("valueFrom"):
                wanted.add(source["secretKeyRef"]["name"])
            else:
                assert variable["name"] == "MESH_STATE_URL"
    assert wanted
    assert not {name for name in wanted if name not in page}


def test_the_broker_has_accounts_and_topology_from_its_start(
    resources: list[Resource],
) -> None:
    text = json.dumps([each for each in resources if each["kind"] != "NetworkPolicy"])
    assert "load_definitions = /etc/rabbitmq/" in text
    assert '"secretName": "rabbitmq-definitions"' in text
