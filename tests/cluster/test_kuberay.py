"""``deploy/kuberay.yaml`` against Kubernetes' own schemas and the fields that KubeRay's reference gives a RayJob."""

import shlex
from importlib.metadata import version
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tuning.cli import resolve_plan
from tuning.flags import options

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "deploy" / "kuberay.yaml").read_text()
KUBERNETES = "1.37"

# Source: KubeRay's API reference, v1.7.0: RayJobSpec, RayClusterSpec, HeadGroupSpec, WorkerGroupSpec, AuthOptions and
# AutoscalerOptions. What the file does not use is left out; a pod's template is checked as Kubernetes' own.
POSITIVE, NATURAL = {"type": "integer", "minimum": 1}, {"type": "integer", "minimum": 0}
START = {"type": "object", "additionalProperties": {"type": "string"}}
POD = {"type": "object", "required": ["spec"]}


def _object(required=(), **properties):
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


AUTOSCALER = _object(
    idleTimeoutSeconds=NATURAL,
    upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
    version={"enum": ["v1", "v2"]},
)
HEAD = _object(["rayStartParams", "template"], rayStartParams=START, template=POD)
WORKERS = _object(
    ["groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"],
    groupName={"type": "string", "minLength": 1},
    replicas=NATURAL, minReplicas=NATURAL, maxReplicas=POSITIVE, numOfHosts=POSITIVE,
    rayStartParams=START, template=POD,
)  # fmt: skip
CLUSTER = _object(
    ["rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"],
    rayVersion={"type": "string"},
    authOptions=_object(["mode"], mode={"const": "token"}, secretName={"type": "string"}),
    enableInTreeAutoscaling={"type": "boolean"},
    autoscalerOptions=AUTOSCALER,
    headGroupSpec=HEAD,
    workerGroupSpecs={"type": "array", "minItems": 1, "items": WORKERS},
)
SPEC = _object(
    ["entrypoint", "rayClusterSpec"],
    entrypoint={"type": "string", "minLength": 1},
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    runtimeEnvYAML={"type": "string"},
    backoffLimit=NATURAL, ttlSecondsAfterFinished=NATURAL, activeDeadlineSeconds=POSITIVE,
    preRunningDeadlineSeconds=POSITIVE, shutdownAfterJobFinishes={"type": "boolean"}, suspend={"type": "boolean"},
    rayClusterSpec=CLUSTER,
) | {
    # a time to live without a shutdown is refused by the operator
    "if": {"properties": {"ttlSecondsAfterFinished": POSITIVE}, "required": ["ttlSecondsAfterFinished"]},
    "then": {"properties": {"shutdownAfterJobFinishes": {"const": True}}, "required": ["shutdownAfterJobFinishes"]},
}  # fmt: skip
RAYJOB = _object(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"}, kind={"const": "RayJob"}, metadata=_object(["name"], name={"type": "string"}),
    spec=SPEC,
)  # fmt: skip


def groups(cluster):
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def accepted(text):
    """Return the file's objects by kind, checked."""
    objects = {document["kind"]: document for document in yaml.safe_load_all(text)}
    jsonschema.validate(objects["RayJob"], RAYJOB)
    pods = [
        {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": group["template"]}
        for group in groups(objects["RayJob"]["spec"]["rayClusterSpec"])
    ]
    for document in [*pods, *[document for kind, document in objects.items() if kind != "RayJob"]]:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    return objects


def test_kubernetes_and_kuberay_accept_the_file():
    assert list(accepted(TEXT)) == ["ConfigMap", "PersistentVolumeClaim", "RayJob"]


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("mode: token", "mode: disabled"),
        ("    authOptions:\n      mode: token\n", ""),
        ("authOptions:", "authOption:"),
        ("maxReplicas: 4", 'maxReplicas: "4"'),
        ("volumeMounts:", "volumeMount:"),
        ("configMapRef:", "configmapRef:"),
        ("accessModes: [ReadWriteMany]", "accessModes: ReadWriteMany"),
        ('num-cpus: "0"', "num-cpus: 0"),
        ("shutdownAfterJobFinishes: true\n", "shutdownAfterJobFinishes: false\n"),
    ],
)
def test_a_mistake_in_the_file_is_refused(right, wrong):
    assert right in TEXT
    with pytest.raises(jsonschema.ValidationError):
        accepted(TEXT.replace(right, wrong))


def test_what_the_file_refers_to_is_there():
    objects = accepted(TEXT)
    claim, addresses = objects["PersistentVolumeClaim"]["metadata"]["name"], objects["ConfigMap"]
    assert objects["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]
    assert list(addresses["data"]) == ["MLFLOW_TRACKING_URI"]
    for group in groups(objects["RayJob"]["spec"]["rayClusterSpec"]):
        (container,), (volume,) = group["template"]["spec"]["containers"], group["template"]["spec"]["volumes"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim
        assert [mount["name"] for mount in container["volumeMounts"]] == [volume["name"]]
        assert container["envFrom"][0]["configMapRef"]["name"] == addresses["metadata"]["name"]


def test_gpu_workers_come_and_go_and_the_head_trains_nothing():
    cluster = accepted(TEXT)["RayJob"]["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    assert cluster["enableInTreeAutoscaling"]
    assert workers["minReplicas"] <= workers["replicas"] < workers["maxReplicas"]
    assert workers["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}


def test_ray_waits_for_a_job_that_it_stops_to_leave_its_report():
    head = accepted(TEXT)["RayJob"]["spec"]["rayClusterSpec"]["headGroupSpec"]
    (container,) = head["template"]["spec"]["containers"]
    assert {"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": "60"} in container["env"]


def test_the_image_has_the_ray_that_is_tested():
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    assert f"FROM rayproject/ray:{version('ray')}-py311-gpu" in dockerfile
    cluster = accepted(TEXT)["RayJob"]["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == version("ray")
    for group in groups(cluster):
        assert group["template"]["spec"]["containers"][0]["image"].endswith(f":{version('ray')}")


def test_the_jobs_command_is_a_search_whose_runs_folder_is_on_the_claim():
    objects = accepted(TEXT)
    python, script, *flags = shlex.split(objects["RayJob"]["spec"]["entrypoint"])
    (folder,) = [
        line.split()[-1] for line in (ROOT / "deploy" / "Dockerfile").read_text().splitlines() if "COPY" in line
    ]
    assert (python, script) == ("python", f"{folder}/tune.py")
    names = {flag: option.name for option in options() for flag in option.opts}
    plan = resolve_plan(None, {names[flag]: value for flag, value in zip(flags[::2], flags[1::2], strict=True)})
    assert plan.ray_address == "auto"
    (mount,) = objects["RayJob"]["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0][
        "volumeMounts"
    ]
    assert Path(plan.runs_dir).is_relative_to(mount["mountPath"])
