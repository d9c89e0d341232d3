"""What docs/deploy.md and docs/deploy say is what the code does: commands, settings, routes, ports, users."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.version import Version

from pipelines.commands.cli import parser
from pipelines.home import PROJECT, SINGLE_THREAD, Home
from pipelines.shipping import bento
from services.app import create_app
from services.settings import Settings, workers
from tests.services.test_bento import instructions

DEPLOY = PROJECT / "docs" / "deploy"
PAGE = PROJECT / "docs" / "deploy.md"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
MANIFESTS = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
NIGHTS = instructions((DEPLOY / "Dockerfile").read_text())
BENTOML = {"/livez", "/readyz"}
"""Routes of BentoML's own that are in front of ours: tests/services/test_bento.py asks a running bento for them."""
PORTS = {"service": 3000, "server": 4200}


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [manifest for manifest in MANIFESTS if manifest["kind"] == kind]


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for manifest in of_kind("Deployment"):
        yield manifest["metadata"]["name"], manifest["spec"]["template"]["spec"]


def understood(words: list[str]) -> None:
    """Fails unless the command line takes these arguments."""
    try:
        parser().parse_args(words)
    except SystemExit:
        pytest.fail(f"there is no such command: headway {' '.join(words)}")


def unit(path: Path) -> configparser.RawConfigParser:
    read = configparser.RawConfigParser(strict=True, delimiters=("=",), comment_prefixes=("#",), interpolation=None)
    read.optionxform = str  # type: ignore[assignment,method-assign]
    read.read_string(path.read_text())
    return read


@pytest.fixture
def routes(home: Home, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    for name, value in SINGLE_THREAD.items():
        monkeypatch.setenv(name, value)
    return {route.path for route in create_app(home).routes} | BENTOML  # type: ignore[attr-defined]


def test_every_setting_is_one_that_the_code_reads() -> None:
    code = "".join(
        path.read_text() for folder in ("services", "pipelines") for path in (PROJECT / folder).rglob("*.py")
    )
    files = [PAGE, *(path for path in DEPLOY.rglob("*") if path.is_file())]
    named = {name for path in files for name in re.findall(r"\bHEADWAY_[A-Z_]+\b", path.read_text())}
    ours = {"HEADWAY_IMAGE"}  # compose.yaml's own
    assert {"HEADWAY_HOME", "HEADWAY_WORKERS", "HEADWAY_LEDGER_URL"} <= named
    assert [name for name in sorted(named - ours) if name not in code] == []


def test_the_settings_file_is_valid_with_every_line_in_force() -> None:
    text = (DEPLOY / "headway.env").read_text()
    pairs = dict(line.lstrip("#").split("=", 1) for line in text.splitlines() if re.match(r"#?[A-Z_]+=", line))
    assert len(pairs) >= 10
    assert Settings.read(pairs).rate is not None
    assert workers(pairs) == 2


def test_every_route_and_file_of_the_page_is_there(routes: set[str]) -> None:
    text = PAGE.read_text()
    named = set(re.findall(r"(?<=[`0])(/(?:v1/[a-z./]+|readyz|livez|healthz|metrics))(?=[`\s])", text))
    assert {"/v1/ready", "/readyz", "/livez", "/metrics"} <= named <= routes
    for target in re.findall(r"\]\(([^)#]+)\)", text) + re.findall(r"(?<![\w/-])docs/deploy/[\w./]*\w", text):
        path = PROJECT / target if target.startswith("docs") else PAGE.parent / target
        assert path.exists() or path.name in (".env", "postgres.password"), f"{target} is not there"
    anchors = {re.sub(r"[^a-z -]", "", line.lower()).strip().replace(" ", "-") for line in re.findall("## (.*)", text)}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_a_unit_is_confined_and_comes_back(path: Path) -> None:
    service = unit(path)["Service"]
    words = shlex.split(service["ExecStart"])
    assert words[0] == f"{service['WorkingDirectory']}/.venv/bin/headway"
    understood(words[1:])
    assert words[2] == path.stem.removeprefix("headway-")
    assert service["User"] == "headway" and service["Restart"] == "always"
    assert service["NoNewPrivileges"] == "yes" and service["ProtectSystem"] == "strict"
    assert re.fullmatch(r"\d+G", service["MemoryMax"])
    home = re.search("^HEADWAY_HOME=(.*)$", (DEPLOY / "headway.env").read_text(), re.MULTILINE)
    assert home is not None and home[1] == service["ReadWritePaths"] == f"/var/lib/{service['StateDirectory']}"
    if words[2] in PORTS:
        assert int(words[words.index("--port") + 1]) == PORTS[words[2]]
        assert (service["IPAddressDeny"], service["IPAddressAllow"]) == ("any", "localhost")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_systemd_itself_accepts_the_units(tmp_path: Path) -> None:
    here = Path(sys.executable).parent.parent
    for path in UNITS:
        text = path.read_text().replace("/opt/headway/.venv", str(here)).replace("/opt/headway", str(PROJECT))
        (tmp_path / path.name).write_text(text)
    units = [str(tmp_path / path.name) for path in UNITS]
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    told = subprocess.run(["systemd-analyze", "--version"], capture_output=True, text=True, check=True).stdout
    if Version(told.split()[1]) >= Version("250"):
        for each in units:
            security = ["systemd-analyze", "security", "--offline=true", each]
            said = subprocess.run(security, capture_output=True, text=True, check=True).stdout
            assert float(re.findall(r"exposure level for \S+: ([\d.]+)", said)[0]) < 3.0


def test_the_proxy_asks_the_service() -> None:
    assert f"reverse_proxy 127.0.0.1:{PORTS['service']}" in (DEPLOY / "Caddyfile").read_text()


def test_both_images_share_a_user_and_keep_to_one_thread() -> None:
    said = dict(NIGHTS)
    assert re.fullmatch(r"PYTHON=3\.\d+\.\d+-slim-bookworm", said["ARG"])
    assert said["FROM"] == "python:${PYTHON}"
    environment = dict(pair.split("=", 1) for pair in shlex.split(said["ENV"]))
    assert {name: environment[name] for name in SINGLE_THREAD} == SINGLE_THREAD
    assert environment["HEADWAY_HOME"] == bento.CONTAINER["HEADWAY_HOME"]
    ours = dict(instructions(bento.DOCKERFILE.read_text()))
    assert said["USER"] == ours["USER"] and int(said["USER"].partition(":")[0]) > 0
    assert said["VOLUME"] == ours["VOLUME"]
    assert json.loads(said["ENTRYPOINT"]) == ["headway"]
    installs = [rest for word, rest in NIGHTS if word == "RUN" and "install" in rest]
    assert all("--require-hashes" in rest for rest in installs if ".lock" in rest)


def test_compose_shows_nothing_but_the_service_and_only_to_this_machine() -> None:
    services = COMPOSE["services"]
    assert services["service"]["ports"] == [f"127.0.0.1:{PORTS['service']}:{bento.CONTAINER['BENTOML_PORT']}"]
    assert not [name for name, one in services.items() if name != "service" and "ports" in one]
    for name in ("service", "server", "worker"):
        one = services[name]
        assert one["user"] == dict(NIGHTS)["USER"] and one["read_only"] is True
        assert one["cap_drop"] == ["ALL"] and one["security_opt"] == ["no-new-privileges:true"]
        assert {"mem_limit", "pids_limit", "restart"} <= set(one)
        assert one["volumes"] == [f"state:{dict(NIGHTS)['VOLUME']}"]
        if name != "service":
            understood(one["command"])
            assert one["command"][1] == name
    assert services["worker"]["network_mode"] == "service:server"
    assert {volume.split(":")[0] for one in services.values() for volume in one.get("volumes", [])} == set(
        COMPOSE["volumes"]
    )
    assert all(re.search(r":\w|\$\{", one["image"]) and ":latest" not in one["image"] for one in services.values())
    assert (DEPLOY / services["server"]["build"]["context"]).resolve() == PROJECT


def test_compose_asks_routes_that_exist(routes: set[str]) -> None:
    checks = {name: COMPOSE["services"][name]["healthcheck"]["test"][-1] for name in PORTS}
    found = {name: re.findall(r"127\.0\.0\.1:(\d+)(/[\w/]+)'", check) for name, check in checks.items()}
    assert found["service"] == [(str(PORTS["service"]), "/v1/ready")] and "/v1/ready" in routes
    assert found["server"] == [(str(PORTS["server"]), "/api/health")]


def test_kubernetes_pods_are_confined() -> None:
    assert of_kind("Namespace")[0]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    user = int(dict(NIGHTS)["USER"].partition(":")[0])
    for name, pod in pods():
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True and security["runAsUser"] == security["fsGroup"] == user
        assert security["seccompProfile"] == {"type": "RuntimeDefault"} and pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False and own["readOnlyRootFilesystem"] is True
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]) and container["resources"]["limits"]
            assert re.search(r":\w+$", container["image"]) and not container["image"].endswith(":latest"), name
            assert not [env for env in container.get("env", []) if re.search("KEY|PASSWORD|TOKEN", env["name"])]
            if "args" in container:
                understood(container["args"])
                assert container["args"][1] == container["name"]


def test_kubernetes_parts_fit_together(routes: set[str]) -> None:
    claims = {claim["metadata"]["name"] for claim in of_kind("PersistentVolumeClaim")}
    labels = {}
    for manifest in of_kind("Deployment"):
        labels[manifest["metadata"]["name"]] = manifest["spec"]["template"]["metadata"]["labels"]
        assert manifest["spec"]["selector"]["matchLabels"].items() <= labels[manifest["metadata"]["name"]].items()
    for name, pod in pods():
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["state"]["persistentVolumeClaim"]["claimName"] in claims
        together = pod["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0]
        assert together["labelSelector"]["matchLabels"].items() <= labels[name].items(), "no first pod could start"
        for container in pod["containers"]:
            mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            assert mounts[dict(NIGHTS)["VOLUME"]] == "state" and set(mounts.values()) <= set(volumes)
    service, container = of_kind("Service")[0]["spec"], dict(pods())["headway-service"]["containers"][0]
    assert service["selector"].items() <= labels["headway-service"].items()
    assert container["ports"] == [{"name": service["ports"][0]["targetPort"], "containerPort": PORTS["service"]}]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["port"] == container["ports"][0]["name"] and asked["path"] in routes & BENTOML
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in of_kind("NetworkPolicy")}
    assert policies["headway"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    own = policies["headway-service"]
    assert own["podSelector"]["matchLabels"].items() <= labels["headway-service"].items()
    assert own["ingress"][0]["ports"] == [{"protocol": "TCP", "port": PORTS["service"]}] and own["egress"] == []
    assert Settings.read({env["name"]: env["value"] for env in container["env"]}).rate is not None
    assert {manifest["metadata"].get("namespace", "headway") for manifest in MANIFESTS} == {"headway"}


@pytest.mark.parametrize(
    ("kind", "module", "name"),
    [
        ("redis", "feast.infra.online_stores.redis", "RedisOnlineStoreConfig"),
        ("postgres", "feast.infra.utils.postgres.postgres_config", "PostgreSQLConfig"),
    ],
)
def test_the_other_stores_are_as_feast_wants_them(kind: str, module: str, name: str) -> None:
    try:
        config = getattr(__import__(module, fromlist=[name]), name)
    except ImportError as error:
        pytest.skip(f"Feast's {kind} extra is not installed: {error}")
    blocks = map(yaml.safe_load, re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL))
    wanted = next(block["online_store"] for block in blocks if block["online_store"]["type"] == kind)
    declared = {"type": kind} if "type" in config.model_fields else {}
    options = {key: value for key, value in wanted.items() if key != "type"}
    assert set(options) <= set(config.model_fields)
    assert config(**declared, **options)


def test_nothing_there_is_secret_or_of_one_machine() -> None:
    held = "".join(path.read_text() for path in DEPLOY.rglob("*") if path.is_file())
    assert not re.search(r"hw_[\w-]{20}|BEGIN [A-Z ]*PRIVATE KEY|password\s*[:=]\s*\w", held, re.IGNORECASE)
    assert os.linesep + "USER 10001" in held
