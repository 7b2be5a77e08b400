"""What is in deploy/ agrees with the router, and with itself: names, options, times, labels, and who may do what."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from deployment import (
    COMPOSE,
    DEPLOY,
    DOCKERFILE,
    MANIFESTS,
    ROOT,
    Container,
    compose,
    compose_containers,
    image_environment,
    image_list,
    instructions,
    kubernetes_containers,
    pod_templates,
    resource,
    resources,
    settings,
)

from router.child import _DRAIN_S
from router.cli.main import main
from router.client._access import API_KEY, TLS_CA

CONTAINERS = [pytest.param(found, id=f"compose-{found.name}") for found in compose_containers()] + [
    pytest.param(found, id=f"kubernetes-{found.name}") for found in kubernetes_containers()
]
SERVING = [case for case in CONTAINERS if list(case.values[0].arguments) == ["serve"]]
FILES = [path for path in DEPLOY.rglob("*") if path.is_file() and path.parent.name != "tls" and path.name != ".env"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_every_variable_is_a_setting(path: Path) -> None:
    known = settings() | {API_KEY, TLS_CA}
    assert {"BANDIT_ROUTER_LISTEN", "BANDIT_ROUTER_DATABASE_URL"} <= known
    used = set(re.findall(r"\bBANDIT_ROUTER_[A-Z0-9_]*[A-Z0-9]", path.read_text()))
    assert used <= known


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_command_is_one(container: Container) -> None:
    # Options and all: the command line is parsed, and nothing is run.
    name, *arguments = container.arguments
    command = main.get_command(None, name)  # type: ignore[arg-type]
    assert command is not None
    command.make_context(name, list(arguments), resilient_parsing=False)


def test_the_images_command_is_one() -> None:
    assert image_list("ENTRYPOINT") == ["bandit-router"]
    assert image_list("CMD") == ["serve"]


def test_images_are_of_this_version() -> None:
    named = {f"{container.raw['image']}" for container in [*compose_containers(), *kubernetes_containers()]}
    assert named == {f"bandit-router:{version('bandit-router')}"}


@pytest.mark.parametrize("container", SERVING)
def test_servers_ask_for_keys_and_tls(container: Container) -> None:
    told = container.told
    assert not told["BANDIT_ROUTER_LISTEN"].startswith("127.")
    assert told["BANDIT_ROUTER_AUTH"] == "keys"
    assert told["BANDIT_ROUTER_TLS_CERT"]
    assert told["BANDIT_ROUTER_TLS_KEY"]
    assert "BANDIT_ROUTER_INSECURE" not in told


@pytest.mark.parametrize("container", SERVING)
def test_servers_write_to_a_volume_of_their_own(container: Container) -> None:
    directory = container.told["BANDIT_ROUTER_DATA_DIR"]
    if "volumeMounts" in container.raw:
        mounts = {mount["name"]: mount["mountPath"] for mount in container.raw["volumeMounts"]}
        claims = [claim["metadata"]["name"] for claim in resource("StatefulSet")["spec"]["volumeClaimTemplates"]]
        assert [mounts[claim] for claim in claims] == [directory]
    else:
        assert [volume.split(":")[1] for volume in container.raw["volumes"]] == [directory]


def test_no_two_services_share_a_spool() -> None:
    volumes = [volume.split(":")[0] for found in compose_containers() for volume in found.raw.get("volumes", [])]
    assert len(volumes) == len(set(volumes)) == 2
    assert set(volumes) <= compose()["volumes"].keys()


def test_nothing_is_killed_before_it_has_drained() -> None:
    # Workers, and then the keeper.
    needed = 2 * _DRAIN_S
    pod = resource("StatefulSet")["spec"]["template"]["spec"]
    command = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert command[0] == "sleep"
    assert pod["terminationGracePeriodSeconds"] > needed + int(command[1])
    for container in compose_containers():
        assert int(container.raw["stop_grace_period"].removesuffix("s")) > needed


@pytest.mark.parametrize(
    "template", pod_templates(), ids=lambda found: found["metadata"]["labels"]["app.kubernetes.io/name"]
)
def test_pods_may_do_nothing_that_they_need_not(template: dict[str, Any]) -> None:
    pod = template["spec"]
    (user,) = [found.text for found in instructions() if found.name == "USER"]
    assert f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" == user
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    # A service named bandit-router would set BANDIT_ROUTER_PORT and its like.
    assert pod["enableServiceLinks"] is False
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}


def test_all_of_kubernetes_is_in_one_namespace() -> None:
    (namespace,) = [found["metadata"]["name"] for found in resources() if found["kind"] == "Namespace"]
    assert {found["metadata"]["namespace"] for found in resources() if found["kind"] != "Namespace"} == {namespace}


def test_selectors_find_the_pods_and_ports_that_there_are() -> None:
    workload = resource("StatefulSet")
    labels = workload["spec"]["template"]["metadata"]["labels"]
    ports = {port["name"]: port["containerPort"] for port in workload["spec"]["template"]["spec"]["containers"][0]["ports"]}
    service = resource("Service")
    selectors = [
        workload["spec"]["selector"]["matchLabels"],
        service["spec"]["selector"],
        resource("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        resource("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ]
    assert [selector for selector in selectors if not selector.items() <= labels.items()] == []
    # The budget and the service are for the routers alone, the policy also for the job.
    job = resource("Job", "bandit-router-migrate")["spec"]["template"]["metadata"]["labels"]
    assert [selector.items() <= job.items() for selector in selectors] == [False, False, False, True]
    assert workload["spec"]["serviceName"] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert {port["targetPort"]: port["port"] for port in service["spec"]["ports"]} == ports
    told = kubernetes_containers()[-1].told
    assert told["BANDIT_ROUTER_LISTEN"].rsplit(":", 1)[1] == str(ports["grpc"])
    assert told["BANDIT_ROUTER_METRICS_LISTEN"].rsplit(":", 1)[1] == str(ports["metrics"])
    ingress = resource("NetworkPolicy")["spec"]["ingress"]
    assert [port["port"] for rule in ingress for port in rule["ports"]] == ["grpc", "metrics"]


def test_what_is_mounted_and_referred_to_exists() -> None:
    secrets = {found["metadata"]["name"]: found["stringData"].keys() for found in resources() if found["kind"] == "Secret"}
    for container in kubernetes_containers():
        for value in container.environment.values():
            name, slash, key = value.partition("/")
            if slash and name in secrets:
                assert key in secrets[name]
        assert container.environment["BANDIT_ROUTER_DATABASE_URL"] == "bandit-router-database/url"
    pod = resource("StatefulSet")["spec"]["template"]["spec"]
    (mount,) = [mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "tls"]
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "tls"]
    told = kubernetes_containers()[-1].told
    files = {Path(told[f"BANDIT_ROUTER_TLS_{which}"]) for which in ("CERT", "KEY")}
    assert files == {Path(mount["mountPath"]) / key for key in secrets[volume["secret"]["secretName"]]}


def test_the_probes_tell_ready_from_alive() -> None:
    (router,) = resource("StatefulSet")["spec"]["template"]["spec"]["containers"]
    paths = {name: router[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert paths == {"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/livez"}


def config(name: str) -> Any:
    """A file that Compose mounts as a config."""
    return yaml.safe_load((DEPLOY / compose()["configs"][name]["file"]).read_text())


def test_prometheus_scrapes_every_router_and_knows_the_alerts() -> None:
    configuration = config("prometheus")
    ((scraped,),) = [scrape["static_configs"] for scrape in configuration["scrape_configs"]]
    assert scraped["targets"] == [
        f"{found.name}:{found.told['BANDIT_ROUTER_METRICS_LISTEN'].rsplit(':', 1)[1]}"
        for found in compose_containers()
        if list(found.arguments) == ["serve"]
    ]
    mounts = dict(volume.split(":")[1::-1] for volume in compose()["services"]["prometheus"]["volumes"])
    (rules,) = configuration["rule_files"]
    assert "groups" in yaml.safe_load((DEPLOY / mounts[rules]).read_text())


def test_grafana_finds_its_dashboards_and_their_data() -> None:
    (provider,) = config("grafana-dashboards")["providers"]
    mounts = dict(volume.split(":")[1::-1] for volume in compose()["services"]["grafana"]["volumes"])
    dashboards = [json.loads(path.read_text()) for path in (DEPLOY / mounts[provider["options"]["path"]]).glob("*.json")]
    assert dashboards
    (source,) = config("grafana-datasources")["datasources"]
    wanted = {
        chosen["query"] for found in dashboards for chosen in found["templating"]["list"] if chosen["type"] == "datasource"
    }
    assert wanted == {source["type"]}
    assert source["url"].startswith("http://prometheus:")


def test_every_port_of_compose_is_for_this_machine() -> None:
    ports = [port for service in compose()["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 3
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_secrets_of_compose_are_files_of_the_certificate_maker() -> None:
    made = set(re.findall(r"\b(?:ca|tls)\.(?:pem|crt|key)\b", (DEPLOY / "make-certificate").read_text())) - {"ca.key"}
    named = {name: Path(secret["file"]) for name, secret in compose()["secrets"].items()}
    assert named == {name: Path("tls") / name for name in made}
    for container in compose_containers():
        used = {Path(value).name for value in container.environment.values() if value.startswith("/run/secrets/")}
        assert used == set(container.raw["secrets"])


def test_the_image_is_made_of_what_it_may_be_made_of() -> None:
    copied = [found.text.split() for found in instructions() if found.name == "COPY" and "--from" not in found.text]
    sources = {source for copy in copied for source in copy[:-1]}
    first, *rest = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert first == "*"
    assert {line[1:] for line in rest if line.startswith("!")} == sources
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_the_health_check_asks_where_the_image_listens() -> None:
    assert f"http://{image_environment()['BANDIT_ROUTER_METRICS_LISTEN']}/readyz" in image_list("HEALTHCHECK")[-1]
    # Where a container listens on all addresses, its own loopback is one of them.
    for case in SERVING:
        assert case.values[0].told["BANDIT_ROUTER_METRICS_LISTEN"] == "0.0.0.0:9464"


def test_there_is_something_to_check() -> None:
    assert COMPOSE.exists()
    assert DOCKERFILE.exists()
    assert len(SERVING) == 3
    assert len(MANIFESTS) >= 7
