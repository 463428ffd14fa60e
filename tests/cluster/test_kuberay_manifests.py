"""The KubeRay manifests use fields that the CRDs of KubeRay 1.5 have, with values of their kind.

The lists hold what of ray.io_rayclusters.yaml and ray.io_rayjobs.yaml (API ray.io/v1) a manifest of
ours may use: a misspelt field would be dropped by the API server without a word.
"""

import pytest
import yaml
from edited import MANIFESTS

CLUSTER = {
    "rayVersion": str, "authOptions": dict, "enableInTreeAutoscaling": bool,
    "autoscalerOptions": dict, "headGroupSpec": dict, "workerGroupSpecs": list, "suspend": bool,
}  # fmt: skip
AUTOSCALER = {
    "resources": dict, "image": str, "env": list, "version": ("v1", "v2"),
    "idleTimeoutSeconds": int, "upscalingMode": ("Default", "Aggressive", "Conservative"),
}  # fmt: skip
HEAD = {
    "serviceType": ("ClusterIP", "NodePort", "LoadBalancer"), "enableIngress": bool,
    "rayStartParams": dict, "template": dict,
}  # fmt: skip
WORKER = {
    "groupName": str, "replicas": int, "minReplicas": int, "maxReplicas": int, "numOfHosts": int,
    "idleTimeoutSeconds": int, "rayStartParams": dict, "template": dict,
}  # fmt: skip
JOB = {
    "entrypoint": str, "runtimeEnvYAML": str, "shutdownAfterJobFinishes": bool,
    "ttlSecondsAfterFinished": int, "activeDeadlineSeconds": int, "backoffLimit": int,
    "submissionMode": ("K8sJobMode", "HTTPMode", "InteractiveMode"), "rayClusterSpec": dict,
}  # fmt: skip
POD = {
    "containers": list, "volumes": list, "nodeSelector": dict, "tolerations": list,
    "serviceAccountName": str,
}  # fmt: skip
CONTAINER = {
    "name": str, "image": str, "resources": dict, "securityContext": dict, "volumeMounts": list,
    "env": list, "ports": list,
}  # fmt: skip


def check(values, fields, where):
    for key, value in values.items():
        assert key in fields, f"{where}.{key} is no field"
        kind = fields[key]
        if isinstance(kind, tuple):
            assert value in kind, f"{where}.{key} is {value!r}"
        else:
            assert type(value) is kind, f"{where}.{key} is {value!r}"


def check_cluster(spec):
    check(spec, CLUSTER, "spec")
    check(spec["autoscalerOptions"], AUTOSCALER, "autoscalerOptions")
    check(spec["authOptions"], {"mode": ("token", "disabled")}, "authOptions")
    check(spec["headGroupSpec"], HEAD, "headGroupSpec")
    for group in spec["workerGroupSpecs"]:
        check(group, WORKER, "workerGroupSpecs")
        assert group["minReplicas"] == group["replicas"] == 0 < group["maxReplicas"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert all(type(value) is str for value in group["rayStartParams"].values())
        check_pod(group["template"]["spec"])


def check_pod(pod):
    check(pod, POD, "template.spec")
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    for container in pod["containers"]:
        check(container, CONTAINER, "container")
        assert set(container["resources"]) == {"requests", "limits"}
        assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes


def manifests(file):
    return {found["kind"]: found for found in yaml.safe_load_all(file.read_text())}


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.name)
def test_the_fields_are_the_crds(file):
    for kind, manifest in manifests(file).items():
        assert set(manifest) == {"apiVersion", "kind", "metadata", "spec"}
        if kind == "PersistentVolumeClaim":
            continue
        assert manifest["apiVersion"] == "ray.io/v1"
        spec = manifest["spec"]
        if kind == "RayJob":
            check(spec, JOB, "spec")
            assert spec["shutdownAfterJobFinishes"], "nothing may be left to pay for"
        check_cluster(spec.get("rayClusterSpec", spec))


def test_a_misspelt_field_is_seen():
    spec = manifests(MANIFESTS[0])["RayCluster"]["spec"]
    spec["headGroupSpec"]["rayStartParam"] = {}
    with pytest.raises(AssertionError, match="rayStartParam is no field"):
        check_cluster(spec)


def test_the_image_can_compile_networks():
    """Ray's own is without a compiler, and torch.compile falls back without one."""
    lines = (MANIFESTS[0].parent / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    (installed,) = [line for line in lines if "apt-get install" in line]
    assert installed.startswith("RUN sudo apt-get update &&") and "g++" in installed.split()


def test_claims_are_made_where_they_are_used():
    found = manifests(MANIFESTS[0])
    volumes = found["RayCluster"]["spec"]["headGroupSpec"]["template"]["spec"]["volumes"]
    claims = {volume["persistentVolumeClaim"]["claimName"] for volume in volumes}
    assert claims == {found["PersistentVolumeClaim"]["metadata"]["name"]}
