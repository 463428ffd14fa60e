"""The security group that rsray makes, in a pretended AWS; and that Ray leaves it as it is."""

import pytest
import yaml
from edited import CLUSTERS, edit

from rsray.cluster.definition import read_cluster_file
from rsray.cluster.firewall import ensure_security_group
from rsray.errors import UserError

boto3 = pytest.importorskip("boto3")
moto = pytest.importorskip("moto")


@pytest.fixture
def aws(monkeypatch):
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "testing")
    with moto.mock_aws():
        yield boto3.client("ec2", region_name="us-east-1")


@pytest.fixture
def definition(tmp_path):
    return read_cluster_file(edit(CLUSTERS / "aws-gpu.yaml", tmp_path)).resolved()


def rules(client, group):
    found = client.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]
    open_to = {
        (rule["IpProtocol"], rule.get("FromPort"), entry["CidrIp"])
        for rule in found["IpPermissions"]
        for entry in rule["IpRanges"]
    }
    members = {
        (rule["IpProtocol"], pair["GroupId"])
        for rule in found["IpPermissions"]
        for pair in rule["UserIdGroupPairs"]
    }
    return open_to, members


def test_the_group_opens_ssh_to_the_user_and_all_to_its_members(aws, definition):
    said = []
    filled = ensure_security_group(definition, said.append)
    groups = {
        kind["node_config"]["SecurityGroupIds"][0]
        for kind in filled["available_node_types"].values()
    }
    (group,) = groups
    assert rules(aws, group) == ({("tcp", 22, "203.0.113.7/32")}, {("-1", group)})
    assert "203.0.113.7/32" in said[0]
    assert "SecurityGroupIds" not in definition["available_node_types"]["gpu"]["node_config"]


def test_a_new_address_replaces_the_old_one(aws, definition):
    first = ensure_security_group(definition, lambda text: None)
    definition["provider"]["security_group"]["IpPermissions"][0]["IpRanges"] = [
        {"CidrIp": "198.51.100.9/32"}
    ]
    second = ensure_security_group(definition, lambda text: None)
    assert yaml.safe_dump(first["available_node_types"]) == yaml.safe_dump(
        second["available_node_types"]
    )
    group = second["available_node_types"]["head"]["node_config"]["SecurityGroupIds"][0]
    assert rules(aws, group)[0] == {("tcp", 22, "198.51.100.9/32")}


def test_rays_own_set_up_adds_nothing(aws, definition):
    from ray.autoscaler._private.aws import config as ray_aws

    filled = ensure_security_group(definition, lambda text: None)
    group = filled["available_node_types"]["head"]["node_config"]["SecurityGroupIds"][0]
    ray_aws._configure_security_group(filled)
    assert rules(aws, group) == ({("tcp", 22, "203.0.113.7/32")}, {("-1", group)})


def test_left_to_itself_ray_would_open_ssh_to_the_world():
    # What this module is for; if it fails, Ray has mended it and the module can go.
    from ray.autoscaler._private.aws import config as ray_aws

    assert "0.0.0.0/0" in str(ray_aws._create_default_ssh_inbound_rules())


def test_a_users_own_group_is_kept(definition):
    for kind in definition["available_node_types"].values():
        kind["node_config"]["SecurityGroupIds"] = ["sg-1"]
    assert ensure_security_group(definition, lambda text: None) is definition


def test_no_default_network_is_the_users_to_solve(aws, definition):
    for vpc in aws.describe_vpcs()["Vpcs"]:
        for subnet in aws.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc["VpcId"]]}])[
            "Subnets"
        ]:
            aws.delete_subnet(SubnetId=subnet["SubnetId"])
        aws.delete_vpc(VpcId=vpc["VpcId"])
    with pytest.raises(UserError, match="no default VPC"):
        ensure_security_group(definition, lambda text: None)
