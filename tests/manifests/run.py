"""Holds the manifests of k8s/ against Kubernetes, against the CRDs, against good practice and against the program."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.error
import urllib.request

import jsonschema
import kubernetes_validate
import yaml
from cloudcoil.models.keda import v1alpha1 as keda
from cloudcoil.models.prometheus_operator import v1 as prometheus_operator
from live import DESTINATION, free_port, live_metrics

PROGRAM = sys.argv[1]
HERE = os.path.dirname(__file__)
KUBERNETES = "1.37"
KUSTOMIZATIONS = ["k8s/base", "k8s/overlays/small", "k8s/overlays/ha", "tests/manifests/spool"]
ROLES = {"run", "receiver", "worker"}
# What the last steps of stopping may take beyond shutdown.grace, in seconds.
STOP_MARGIN = 5
COMMAND_SECONDS = 120
START_SECONDS = 20
# Labels that Prometheus gives a series when it scrapes.
PROMETHEUS_LABELS = {"namespace", "job", "instance", "pod"}

# Checks of the scanner that do not fit, each with its reason.
SKIPPED_CHECKS = {
    "CKV_K8S_11": "no limit on processor time: throttling would make HubSpot wait",
    "CKV_K8S_15": "imagePullPolicy: the tag is a version and never moves",
    "CKV_K8S_43": "a digest is the operator's to write, once the image is in a registry",
    "CKV_K8S_35": "the Cluster Operator's user and password go into a URL, which only an environment variable can compose",
}

problems = []


def expect(ok, where, message):
    if not ok:
        problems.append(f"{where}: {message}")


def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS, **options)


def render(folder):
    rendered = run("kustomize", "build", folder)
    if rendered.returncode != 0:
        sys.exit(f"{folder} cannot be rendered:\n{rendered.stderr}")
    return list(yaml.safe_load_all(rendered.stdout)), rendered.stdout


def closed(schema):
    """The same schema, which takes no field that it does not name."""
    if isinstance(schema, dict):
        schema = {key: closed(value) for key, value in schema.items()}
        if "properties" in schema and "additionalProperties" not in schema:
            schema["additionalProperties"] = False
    elif isinstance(schema, list):
        schema = [closed(value) for value in schema]
    return schema


def crd_schemas():
    models = [keda.ScaledObject, keda.TriggerAuthentication, prometheus_operator.ServiceMonitor, prometheus_operator.PrometheusRule]
    schemas = {model.__name__: closed(model.model_json_schema(by_alias=True)) for model in models}
    with open(f"{HERE}/rabbitmq-cluster.schema.json", encoding="utf-8") as file:
        schemas["RabbitmqCluster"] = json.load(file)
    return schemas


def validate(where, manifest, schemas):
    kind = manifest["kind"]
    if kind in schemas:
        errors = list(jsonschema.Draft202012Validator(schemas[kind]).iter_errors(manifest))
        for error in errors:
            expect(False, where, f"{kind} {error.json_path}: {error.message[:300]}")
        return
    try:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        expect(False, where, f"{kind} {manifest['metadata']['name']}: {error.message[:300]}")
    except kubernetes_validate.SchemaNotFoundError:
        expect(False, where, f"{kind}: no schema to check it against")


def scan(where, text):
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/manifests.yaml"
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        scanned = run("checkov", "-f", path, "--framework", "kubernetes", "--skip-check", ",".join(SKIPPED_CHECKS), "-o", "json", "--quiet")
    report = json.loads(scanned.stdout)
    results = report if isinstance(report, dict) else report[0]
    expect(results.get("summary", {}).get("passed", 0) > 0, where, "the scanner checked nothing")
    for failed in results.get("results", {}).get("failed_checks", []):
        expect(False, where, f"{failed['check_id']} {failed['check_name']}: {failed['resource']}")


def of_kind(manifests, *kinds):
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def selects(selector, labels):
    return all(labels.get(key) == value for key, value in selector.items())


def status(url):
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return None, ""


class Workload:
    """A Deployment or StatefulSet, and the configuration that its program is given."""

    def __init__(self, where, manifest, manifests):
        self.where = f"{where} {manifest['kind']} {manifest['metadata']['name']}"
        self.manifests = manifests
        self.kind = manifest["kind"]
        self.claims = manifest["spec"].get("volumeClaimTemplates", [])
        self.pod = manifest["spec"]["template"]
        self.spec = self.pod["spec"]
        self.container = self.spec["containers"][0]
        self.role, flag, self.config_path = self.container["args"]
        expect(self.role in ROLES, self.where, f"the program has no command {self.role}")
        expect(flag in run(PROGRAM, self.role, "--help").stdout, self.where, f"the program has no flag {flag}")
        self.mounts = {mount["mountPath"]: mount["name"] for mount in self.container["volumeMounts"]}
        config_map = self.volume(os.path.dirname(self.config_path))["configMap"]["name"]
        maps = [m for m in of_kind(manifests, "ConfigMap") if m["metadata"]["name"] == config_map]
        self.toml = maps[0]["data"][os.path.basename(self.config_path)]
        self.config = tomllib.loads(self.toml)

    def volume(self, path):
        name = self.mounts[path]
        volumes = self.spec["volumes"] + [{"name": "data"}]
        return next(volume for volume in volumes if volume["name"] == name)

    def environment(self):
        """The container's variables as the kubelet would make them, with made-up secrets."""
        values = {}
        for variable in self.container.get("env", []):
            value = variable.get("value", "made-up")
            values[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda name: values[name[1]], value)
        references = "".join(variable.get("value", "") for variable in self.container.get("env", []))
        for name in values:
            known = name.startswith("CRM_RELAY_") or f"$({name})" in references
            expect(known, self.where, f"nothing reads the variable {name}")
        return values

    def spool(self):
        """The folder of the spool, if there is one."""
        return self.environment().get("CRM_RELAY__SPOOL__FOLDER")

    def check_spool(self):
        """It is on a disk that comes back with the pod, which has room for it."""
        if not self.spool():
            return
        expect(self.kind == "StatefulSet", self.where, "a spool's disk must come back with the pod")
        volume = self.mounts.get(os.path.dirname(self.spool()))
        sizes = {claim["metadata"]["name"]: claim["spec"]["resources"]["requests"]["storage"] for claim in self.claims}
        expect(sizes.get(volume, "").endswith("Gi"), self.where, f"the spool is not on a claimed volume: {volume}")
        effective = run(PROGRAM, "config", env={"CRM_RELAY__BUS__URL": "amqp://127.0.0.1"})
        bytes_max = tomllib.loads(effective.stdout)["spool"]["bytes_max"]
        expect(bytes_max == "1.0 GiB" and int(sizes[volume].removesuffix("Gi")) > 1, self.where, f"the spool may have {bytes_max}, its disk {sizes[volume]}")

    def check_ports(self):
        ports = {port["name"]: port["containerPort"] for port in self.container["ports"]}
        listens = {"admin": self.config["admin"]["listen"]}
        if self.role != "worker":
            listens["http"] = self.config["receiver"]["listen"]
        expected = {name: int(address.rsplit(":", 1)[1]) for name, address in listens.items()}
        expect(ports == expected, self.where, f"it has the ports {ports}, the program listens on {expected}")
        for address in listens.values():
            expect(address.startswith("0.0.0.0:"), self.where, f"nobody outside the pod reaches {address}")

    def check_files(self, folder):
        """Every file that the configuration names is on a mounted volume; what the role does not read need not be."""
        for path in re.findall(r'"file:([^"]+)"', self.toml) + [self.config["bus"].get("data_dir", "")]:
            if path and os.path.dirname(path) in self.mounts:
                os.makedirs(folder + os.path.dirname(path), exist_ok=True)
                if path != self.config["bus"].get("data_dir"):
                    with open(folder + path, "w", encoding="utf-8") as file:
                        file.write("amqp://guest:guest@127.0.0.1:1/%2f" if path.endswith("url") else "made-up-and-long-enough")
            elif path and path in self.mounts:
                os.makedirs(folder + path, exist_ok=True)

    def check_stopping(self):
        seconds = {key: float(self.config["shutdown"][key].removesuffix("s")) for key in ("delay", "grace")}
        allowed = self.spec["terminationGracePeriodSeconds"]
        expect(allowed >= seconds["grace"] + STOP_MARGIN, self.where, f"it is killed after {allowed} s, stopping may take {seconds['grace'] + STOP_MARGIN}")
        expect(seconds["delay"] > 0, self.where, "requests would meet a closed port during a roll-out")

    def check_program(self, folder):
        """The program starts with this very configuration, and answers the probes and scrapes where they ask."""
        admin = free_port()
        toml = self.toml.replace("file:/", f"file:{folder}/").replace('"/var/lib/', f'"{folder}/var/lib/')
        with open(f"{folder}/relay.toml", "w", encoding="utf-8") as file:
            file.write(toml)
        environment = {
            **self.environment(),
            **({"CRM_RELAY__SPOOL__FOLDER": folder + self.spool()} if self.spool() else {}),
            "CRM_RELAY__RECEIVER__LISTEN": f"127.0.0.1:{free_port()}",
            "CRM_RELAY__ADMIN__LISTEN": f"127.0.0.1:{admin}",
        }
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen(
                [PROGRAM, self.role, "--config", f"{folder}/relay.toml"], env=environment, stdout=subprocess.DEVNULL, stderr=log
            )
            try:
                self.ask(process, admin, log)
            finally:
                process.kill()
                process.wait(COMMAND_SECONDS)

    def ask(self, process, admin, log):
        begun = time.monotonic()
        while status(f"http://127.0.0.1:{admin}/livez")[0] != 200:
            if process.poll() is not None or time.monotonic() - begun > START_SECONDS:
                log.seek(0)
                expect(False, self.where, "the program does not start: " + log.read().decode()[-800:])
                return
            time.sleep(0.05)
        # There is no broker here: who needs none is ready, and who has a spool.
        ready = 200 if self.role == "run" or self.spool() else 503
        for probe, expected in (("livenessProbe", 200), ("readinessProbe", ready)):
            get = self.container[probe]["httpGet"]
            expect(get["port"] == "admin", self.where, f"{probe} asks the port {get['port']}")
            url = f"http://127.0.0.1:{admin}{get['path']}"
            # The admin port answers before the rest has started.
            while (answer := status(url)[0]) != expected and time.monotonic() - begun < START_SECONDS:
                time.sleep(0.05)
            expect(answer == expected, self.where, f"{probe}: {get['path']} answers {answer}")
        answer = status(f"http://127.0.0.1:{admin}/metrics")[0]
        expect(answer == 200, self.where, f"/metrics answers {answer}")

    def check_admin(self):
        """What others reach asks for a token, and who scrapes sends it."""
        token = self.config["admin"].get("token", "").removeprefix("file:")
        expect(token, self.where, "the admin port is open to the cluster, without admin.token")
        secret = self.volume(os.path.dirname(token))["secret"]["secretName"]
        for monitor in of_kind(self.manifests, "ServiceMonitor"):
            for endpoint in monitor["spec"]["endpoints"]:
                sent = endpoint.get("authorization", {}).get("credentials", {})
                expect(sent == {"name": secret, "key": os.path.basename(token)}, self.where, f"the ServiceMonitor sends {sent}, admin.token is {secret}")

    def check(self):
        self.check_ports()
        self.check_admin()
        self.check_stopping()
        self.check_spool()
        folder = tempfile.mkdtemp()
        try:
            self.check_files(folder)
            self.check_program(folder)
        finally:
            shutil.rmtree(folder)


def check_wiring(where, manifests, workloads):
    """Services, Ingress, budgets and autoscalers name what is there."""
    pods = [workload.pod["metadata"]["labels"] for workload in workloads]
    ports = {port["name"] for workload in workloads for port in workload.container["ports"]}
    services = {service["metadata"]["name"]: service for service in of_kind(manifests, "Service")}
    for name, service in services.items():
        expect(any(selects(service["spec"]["selector"], labels) for labels in pods), where, f"Service {name} selects no pod")
        for port in service["spec"]["ports"]:
            expect(port["targetPort"] in ports, where, f"Service {name} leads to the unknown port {port['targetPort']}")
            public = service["metadata"]["name"] == "crm-relay"
            expect(port["targetPort"] == ("http" if public else "admin"), where, f"Service {name} mixes public and admin")
    for policy in of_kind(manifests, "NetworkPolicy"):
        for rule in policy["spec"].get("ingress", []):
            for port in rule.get("ports", []):
                named = isinstance(port["port"], str)
                expect(not named or port["port"] in ports, where, f"NetworkPolicy {policy['metadata']['name']} names the unknown port {port['port']}")
    for ingress in of_kind(manifests, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                known = {port["name"] for port in services[backend["name"]]["spec"]["ports"]}
                expect(backend["port"]["name"] in known, where, f"Ingress names the unknown port {backend['port']['name']}")
                for workload in workloads:
                    url = f"https://{rule['host']}{path['path']}"
                    expect(workload.config["receiver"]["public_url"] == url, where, f"Ingress is {url}, receiver.public_url is not")
    scaled = {}
    for scaler in of_kind(manifests, "HorizontalPodAutoscaler", "ScaledObject"):
        spec = scaler["spec"]
        name = spec["scaleTargetRef"]["name"]
        kind = spec["scaleTargetRef"].get("kind", "Deployment")
        targets = [m for m in of_kind(manifests, kind) if m["metadata"]["name"] == name]
        expect(len(targets) == 1, where, f"{scaler['kind']} scales {name}, which is not there")
        expect(all("replicas" not in target["spec"] for target in targets), where, f"{name} has replicas and a scaler")
        scaled[name] = spec.get("minReplicas", spec.get("minReplicaCount"))
    for budget in of_kind(manifests, "PodDisruptionBudget"):
        selector = budget["spec"]["selector"]["matchLabels"]
        for target in of_kind(manifests, "Deployment", "StatefulSet"):
            if selects(selector, target["spec"]["template"]["metadata"]["labels"]):
                name = target["metadata"]["name"]
                replicas = scaled.get(name, target["spec"].get("replicas"))
                expect(budget["spec"]["minAvailable"] < replicas, where, f"the disruption budget of {name} lets no pod go")
                break
        else:
            expect(False, where, f"the disruption budget {budget['metadata']['name']} selects nothing")


def check_keda(where, manifests):
    for scaler in of_kind(manifests, "ScaledObject"):
        effective = run(PROGRAM, "config", env={"CRM_RELAY__BUS__URL": "amqp://127.0.0.1"})
        bus = tomllib.loads(effective.stdout)["bus"]
        expect(scaler["spec"]["maxReplicaCount"] == bus["partitions"], where, f"KEDA's ceiling is not bus.partitions, {bus['partitions']}")
        for trigger in scaler["spec"]["triggers"]:
            pattern = re.compile(trigger["metadata"]["queueName"])
            names = [f"{bus['prefix']}.intake.{n}" for n in range(bus["partitions"])]
            expect(all(pattern.search(name) for name in names), where, "KEDA's pattern misses a partition's queue")
            others = [f"{bus['prefix']}.dead.letters", f"{bus['prefix']}.destination.intake"]
            expect(not any(pattern.search(name) for name in others), where, "KEDA's pattern takes in other queues")


def json_unescaped(text):
    """A dashboard's quotes are escaped, since it is JSON within YAML."""
    return text.replace('\\"', '"')


def check_metrics(where, text, metrics):
    """Every metric and every label value that the text names is on /metrics of a relay at work."""
    known = families(metrics)
    for name in sorted(set(re.findall(r"\b(?:crm_relay|process)_\w+", text))):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        expect(name in known or base in known, where, f"the program has no metric {name}")
    for name, matchers in sorted(set(re.findall(r"\b((?:crm_relay|process)_\w+)\{([^}]*)\}", text))):
        for label, operator, value in re.findall(r'(\w+)(=~|!~|!=|=)"((?:[^"\\]|\\.)*)"', matchers):
            if label not in PROMETHEUS_LABELS:
                check_matcher(where, name, label, operator, value.replace("\\\\", "\\"), metrics)


def check_matcher(where, name, label, operator, value, metrics):
    """What is matched, or left out, must be there: each alternative of a pattern by itself."""
    there = label_values(name, label, metrics)
    for wanted in value.split("|") if "~" in operator else [re.escape(value)]:
        expect(any(re.fullmatch(wanted, one) for one in there), where, f'{name} never has {label}{operator}"{wanted}"')


def check_lint(metrics):
    """promtool's lint of names, units and help texts; process_* are a library's."""
    lint = run("promtool", "check", "metrics", input=metrics)
    for line in (lint.stdout + lint.stderr).splitlines():
        expect(line.startswith("process_"), "promtool check metrics", line)


def check_readme(metrics):
    """README's table has the program's metrics with their labels, no more and no fewer, and the values it names exist."""
    with open("README.md", encoding="utf-8") as file:
        rows = re.findall(r"^\| `(crm_relay_\w+)` \|(.*)\|(.*)\|$", file.read(), re.M)
    names = {name for name, _, _ in rows}
    ours = {name for name in families(metrics) if name.startswith("crm_relay_")}
    expect(names == ours, "README.md", f"its metrics and those of /metrics differ: {sorted(names ^ ours)}")
    for name, labels, meaning in rows:
        told = set(re.findall(r"`(\w+)`", labels))
        found = {label for line in re.findall(rf"^{name}(?:_count)?\{{(.*)\}}", metrics, re.M) for label in re.findall(r'(\w+)="', line)}
        expect(told == found, "README.md", f"{name} has the labels {sorted(found)}, not {sorted(told)}")
        for value in re.findall(r"`([^`]+)`", meaning):
            there = {one for label in told for one in label_values(name, label, metrics)}
            expect(value.replace("<name>", DESTINATION) in there, "README.md", f"{name} never has the value {value}")


def families(metrics):
    return set(re.findall(r"^# TYPE (\w+)", metrics, re.M))


def label_values(name, label, metrics):
    return set(re.findall(rf'^{name}\{{(?:[^}}]*,)?{label}="([^"]*)"', metrics, re.M))


def check_alerts(where, manifests):
    """promtool takes the rules, every alert has a test that lets it fire, and an entry in the runbook."""
    with open(f"{HERE}/alerts.yaml", encoding="utf-8") as file:
        tests = file.read()
    with open("RUNBOOK.md", encoding="utf-8") as file:
        entries = {heading.lower() for heading in re.findall(r"^## (\w+)$", file.read(), re.M)}
    for manifest in of_kind(manifests, "PrometheusRule"):
        with tempfile.TemporaryDirectory() as folder:
            with open(f"{folder}/rules.yaml", "w", encoding="utf-8") as file:
                yaml.safe_dump(manifest["spec"], file)
            with open(f"{folder}/alerts.yaml", "w", encoding="utf-8") as file:
                file.write(tests)
            for command in (["check", "rules", "rules.yaml"], ["test", "rules", "alerts.yaml"]):
                tool = run("promtool", *command, cwd=folder)
                expect(tool.returncode == 0, where, f"promtool {command[0]}: {(tool.stdout + tool.stderr)[-1500:]}")
        alerts = [rule for group in manifest["spec"]["groups"] for rule in group["rules"]]
        for alert in alerts:
            name = alert["alert"]
            expect(f'"{name}"' in tests, where, f"no test lets {name} fire")
            expect(alert["annotations"]["runbook"] == f"RUNBOOK.md#{name.lower()}", where, f"{name} leads to another runbook entry")
        names = {alert["alert"].lower() for alert in alerts}
        expect(names == entries, where, f"alerts and runbook entries differ: {sorted(names ^ entries)}")


def check_dashboard(where, manifests):
    """Grafana cannot be run here, so this is about what it would stumble over."""
    for config_map in of_kind(manifests, "ConfigMap"):
        if "dashboard.json" not in config_map["data"]:
            continue
        panels = json.loads(config_map["data"]["dashboard.json"])["panels"]
        identifiers = [panel["id"] for panel in panels]
        expect(len(set(identifiers)) == len(identifiers), where, "two panels share an id")
        taken = set()
        for panel in panels:
            grid = panel["gridPos"]
            cells = {(x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])}
            expect(not cells & taken and grid["x"] + grid["w"] <= 24, where, f"the panel {panel['title']} overlaps another")
            taken |= cells


def main():
    schemas = crd_schemas()
    metrics = live_metrics(PROGRAM)
    check_lint(metrics)
    check_readme(metrics)
    for where in KUSTOMIZATIONS:
        manifests, text = render(where)
        for manifest in manifests:
            validate(where, manifest, schemas)
        scan(where, text)
        workloads = [Workload(where, manifest, manifests) for manifest in of_kind(manifests, "Deployment", "StatefulSet")]
        for workload in workloads:
            workload.check()
        check_wiring(where, manifests, workloads)
        check_keda(where, manifests)
        check_metrics(where, json_unescaped(text), metrics)
        check_alerts(where, manifests)
        check_dashboard(where, manifests)
        print(f"{where}: {len(manifests)} manifests, {len(workloads)} workloads")
    if problems:
        sys.exit("\n".join(["", *problems]))


main()
