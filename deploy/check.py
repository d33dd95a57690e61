"""Checks the Helm chart, what is made of it for kustomize, the unit and the dashboards, without a cluster.

Renders the chart with Helm's own engine, holds the result against the JSON schemas of Kubernetes and the
models of the Prometheus operator, and compares it with deploy/kustomize, which `--write` makes anew. One
line per check; exit status 1 where one fails.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import helm_python as helm
import kubernetes_validate
import yaml
from cloudcoil.models.prometheus_operator import v1 as operator
from grafana_foundation_sdk.cog import encoder, plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

DEPLOY = Path(__file__).parent
CHART = DEPLOY / "helm" / "floodmark"
# The oldest that the chart admits and the newest that the schemas know.
VERSIONS = ("1.30", "1.37")
# Kinds of the Prometheus operator, of which Kubernetes has no schema.
OPERATOR = "monitoring.coreos.com/v1"
# What Grafana's Prometheus plugin reads beside what Grafana's own model of a dashboard has.
PLUGINS_OWN = {"titleFormat", "textFormat", "definition"}
MONITORING = {
    "podMonitor": {"enabled": True},
    "prometheusRule": {"enabled": True},
    "dashboards": {"enabled": True},
}
DIGEST = "sha256:" + 64 * "0"
CASES = {
    "defaults": {},
    "everything": {
        **MONITORING,
        "webConfigSecret": "floodmark-web",
        "hostNetwork": True,
        "imagePullSecrets": [{"name": "registry"}],
        "podLabels": {"team": "sre"},
        "podAnnotations": {"note": "x"},
        "affinity": {"nodeAffinity": {}},
        "image": {"repository": "registry.local/floodmark", "tag": "1"},
        "networkPolicy": {"extraIngress": [{"ports": [{"protocol": "UDP", "port": 5140}]}]},
    },
    "an image by digest, nobody admitted": {
        "image": {"repository": "registry.local/floodmark", "tag": "1", "digest": DIGEST},
        "networkPolicy": {"from": []},
    },
}
REFUSED = {
    "a key that there is not": {"capabilites": []},
    "a capability that the agent has no use for": {"capabilities": ["SYS_MODULE"]},
    "a port that there is not": {"port": 70000},
    "a digest that is none": {"image": {"digest": "sha256:0"}},
    "a digest for a tag": {"image": {"digest": "1.0"}},
}


def files_of(values):
    return helm.Chart.load(CHART).render(values, name="floodmark", namespace="floodmark")


def render(values):
    files = files_of(values)
    text = "\n---\n".join(files[name] for name in sorted(files) if name.endswith(".yaml"))
    return [document for document in yaml.safe_load_all(text) if document]


def validate(documents):
    for document in documents:
        if "kustomize" in document["apiVersion"]:
            continue
        if document["apiVersion"] == OPERATOR:
            model = getattr(operator, document["kind"]).model_validate(document)
            is_known_whole(document, model.model_dump(mode="json", by_alias=True, exclude_unset=True))
            continue
        for version in VERSIONS:
            kubernetes_validate.validate(document, version, strict=True)


def unknown(document, taken, path=""):
    """Where the document says something that a model of it has not taken in: a name that there is not."""
    if isinstance(document, dict):
        for name, value in document.items():
            where = f"{path}/{name}"
            yield from unknown(value, taken[name], where) if name in taken else [where]
    elif isinstance(document, list):
        for number, (value, other) in enumerate(zip(document, taken, strict=True)):
            yield from unknown(value, other, f"{path}/{number}")


def is_known_whole(document, taken, plugins_own=frozenset()):
    strange = [path for path in unknown(document, taken) if path.split("/")[-1] not in plugins_own]
    assert not strange, f"no such thing: {', '.join(strange)}"


def operators_names():
    """A misspelt name is found, which the models alone let through."""
    (monitor,) = (d for d in render(MONITORING) if d["kind"] == "PodMonitor")
    validate([monitor])
    monitor["spec"]["podMetricsEndpoints"][0]["intervall"] = "15s"
    try:
        validate([monitor])
    except AssertionError as error:
        assert "intervall" in str(error), error
        return
    raise AssertionError("it was taken")


def dashboards():
    plugins.register_default_plugins()
    files = sorted((DEPLOY / "grafana").glob("*.json"))
    assert files
    for file in files:
        document = json.loads(file.read_text())
        taken = encoder.JSONEncoder().encode(Dashboard.from_json(document))
        is_known_whole(document, json.loads(taken), PLUGINS_OWN)


def refuses(values):
    try:
        render(values)
    except helm.HelmError as error:
        assert "values don't meet the specifications" in str(error), error
        return
    raise AssertionError("it was taken")


def is_confined(documents):
    (daemon,) = (d for d in documents if d["kind"] == "DaemonSet")
    pod = daemon["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    context = container["securityContext"]
    assert not context["privileged"] and not context["allowPrivilegeEscalation"]
    assert context["readOnlyRootFilesystem"]
    assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    assert not pod["automountServiceAccountToken"] and not pod["hostNetwork"]
    assert context["capabilities"]["drop"] == ["ALL"]
    writable = [m["name"] for m in container["volumeMounts"] if not m.get("readOnly")]
    assert writable == ["state", "run"], writable
    unit = (DEPLOY / "systemd" / "floodmark.service").read_text()
    (granted,) = re.findall(r"^AmbientCapabilities=(.*)$", unit, re.M)
    chart = {f"CAP_{name}" for name in context["capabilities"]["add"]}
    assert chart == set(granted.split()), "the chart and the unit differ"


def image_of(values):
    (daemon,) = (d for d in render(values) if d["kind"] == "DaemonSet")
    return daemon["spec"]["template"]["spec"]["containers"][0]["image"]


def image():
    assert image_of({"image": {"tag": "1"}}) == "ghcr.io/floodmark/floodmark:1"
    by_digest = {"image": {"tag": "1", "digest": DIGEST}}
    assert image_of(by_digest) == f"ghcr.io/floodmark/floodmark@{DIGEST}"


def policy_of(values):
    (daemon,) = (d for d in render(values) if d["kind"] == "DaemonSet")
    (policy,) = (d["spec"] for d in render(values) if d["kind"] == "NetworkPolicy")
    labels = daemon["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items(), "it selects other pods"
    assert policy["policyTypes"] == ["Ingress"]
    return policy["ingress"]


def network_policy():
    """An ingress rule without `from` admits everybody, one list without rules nobody."""
    (rule,) = policy_of({})
    assert rule["from"] and rule["ports"] == [{"protocol": "TCP", "port": "metrics"}], rule
    assert policy_of({"networkPolicy": {"from": []}}) == []
    syslog = {"from": [{"podSelector": {}}], "ports": [{"protocol": "UDP", "port": 5140}]}
    assert policy_of({"networkPolicy": {"from": [], "extraIngress": [syslog]}}) == [syslog]
    off = render({"networkPolicy": {"enabled": False}})
    assert not [d for d in off if d["kind"] == "NetworkPolicy"]


def notes():
    """Who installs it without authentication or policy is warned."""

    def warnings(values):
        (name,) = (name for name in files_of(values) if name.endswith("NOTES.txt"))
        return files_of(values)[name].count("WARNING")

    guarded = {"webConfigSecret": "floodmark-web"}
    assert warnings(guarded) == 0
    assert warnings({}) == 1
    assert warnings({"networkPolicy": {"enabled": False}}) == 2
    assert warnings(guarded | {"hostNetwork": True}) == 1


def plain(documents):
    """Without what only Helm has a use for."""
    for document in documents:
        labels = document["metadata"].get("labels", {})
        labels.pop("app.kubernetes.io/managed-by", None)
        if document["kind"] == "DaemonSet":
            document["spec"]["template"]["metadata"].pop("annotations")
    return documents


def kustomized(documents):
    header = "# Made of the Helm chart by `cargo xtask manifests --write`.\n"
    return header + yaml.safe_dump_all(documents, sort_keys=False, width=110)


def kustomize(write):
    base = plain(render({}))
    kinds = {(d["kind"], d["metadata"]["name"]) for d in base}
    more = [d for d in plain(render(MONITORING)) if (d["kind"], d["metadata"]["name"]) not in kinds]
    root = DEPLOY / "kustomize"
    wanted = {
        root / "base" / "floodmark.yaml": kustomized(base),
        root / "monitoring" / "monitoring.yaml": kustomized(more),
    }
    for path, text in wanted.items():
        if write:
            path.write_text(text)
        assert path.read_text() == text, f"{path.name} is out of date: cargo xtask manifests --write"
    for path in root.rglob("*.yaml"):
        documents = list(yaml.safe_load_all(path.read_text()))
        validate(documents)
        for resource in documents[0].get("resources", []) if path.stem == "kustomization" else []:
            assert (path.parent / resource).exists(), f"{path}: {resource}"


def unit():
    if not shutil.which("systemd-analyze"):
        print("skipped: there is no systemd-analyze here")
        return
    path = DEPLOY / "systemd" / "floodmark.service"
    security = ["systemd-analyze", "security", "--offline=true", "--threshold=40", path]
    judged = subprocess.run(security, capture_output=True, text=True)
    assert judged.returncode == 0, judged.stdout[-200:] + judged.stderr
    # It also looks for the program and its man page, which need not be installed here.
    said = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True).stderr
    wrong = [line for line in said.splitlines() if "floodmark" in line and " not " not in line
             and "man floodmark" not in line]
    assert not wrong, wrong


def lint():
    report = helm.lint(CHART, strict=True)
    # Severity 1 is advice: that there is no icon.
    assert not [message for message in report["messages"] if message["severity"] > 1], report


def main():
    write = "--write" in sys.argv
    checks = {"unit: verified, and an exposure of 4.0 at most": unit, "chart: lint": lint}
    for name, values in CASES.items():
        checks[f"chart: {name} against the schemas of {', '.join(VERSIONS)} and the operator"] = (
            lambda values=values: validate(render(values))
        )
    checks["chart: a misspelt name in what is the operator's is found"] = operators_names
    checks["dashboards: every name is one that Grafana knows"] = dashboards
    for name, values in REFUSED.items():
        checks[f"chart: refuses {name}"] = lambda values=values: refuses(values)
    checks["chart: not privileged, read-only, capabilities as the unit's"] = lambda: is_confined(
        render({})
    )
    checks["chart: an image by tag and by digest"] = image
    checks["chart: the network policy admits whom it should and nobody else"] = network_policy
    checks["chart: its notes warn where anybody may read"] = notes
    checks["kustomize: the same as the chart, against the schemas"] = lambda: kustomize(write)
    failed = 0
    for name, check in checks.items():
        try:
            check()
            print(f"ok      {name}")
        except Exception as error:  # each check is to be run
            failed += 1
            print(f"FAILED  {name}: {error}")
    print(f"{len(checks) - failed} passed, 0 skipped, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
