"""The security group of an AWS cluster: ssh from the user's address, and nothing else.

Left to itself `ray up` makes a group that opens ssh to 0.0.0.0/0 beside the rules of the
definition. It leaves a group alone that exists and has rules, so rsray makes it first.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from rsray.errors import UserError


def ensure_security_group(definition: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """Return the definition with the security group in every node type, made or brought up to date.

    The group lets its own members talk, and lets in what `provider.security_group` says. A
    definition that names its own SecurityGroupIds is returned as it is. UserError when AWS refuses.
    """
    kinds = definition["available_node_types"]
    if all(kind["node_config"].get("SecurityGroupIds") for kind in kinds.values()):
        return definition
    try:
        import boto3  # type: ignore[import-untyped]
        from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]
    except ImportError as problem:
        raise UserError("AWS needs boto3: uv pip install boto3") from problem
    client = boto3.client("ec2", region_name=definition["provider"]["region"])
    rules = definition["provider"]["security_group"]["IpPermissions"]
    try:
        group = _group_id(client, definition)
        _set_rules(client, group, rules)
    except (ClientError, BotoCoreError) as problem:
        raise UserError(f"AWS refused the security group: {problem}") from problem
    ranges = ", ".join(entry["CidrIp"] for rule in rules for entry in rule.get("IpRanges", []))
    say(f"security group {group}: ssh from {ranges} only")
    filled = copy.deepcopy(definition)
    for kind in filled["available_node_types"].values():
        kind["node_config"].setdefault("SecurityGroupIds", [group])
    return filled


def _group_id(client: Any, definition: dict[str, Any]) -> str:
    """Return the id of the cluster's group in the VPC of its subnets, made if need be."""
    name, vpc = f"rsray-{definition['cluster_name']}", _vpc_id(client, definition)
    filters = [
        {"Name": "group-name", "Values": [name]},
        {"Name": "vpc-id", "Values": [vpc]},
    ]
    found = client.describe_security_groups(Filters=filters)["SecurityGroups"]
    if found:
        return str(found[0]["GroupId"])
    made = client.create_security_group(
        GroupName=name, Description="rsray: ssh from the user, all within", VpcId=vpc
    )
    return str(made["GroupId"])


def _vpc_id(client: Any, definition: dict[str, Any]) -> str:
    subnets = [
        subnet
        for kind in definition["available_node_types"].values()
        for subnet in kind["node_config"].get("SubnetIds", [])
    ]
    if subnets:
        return str(client.describe_subnets(SubnetIds=subnets[:1])["Subnets"][0]["VpcId"])
    default = client.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    if not default:
        raise UserError("the account has no default VPC: give SubnetIds in every node_config")
    return str(default[0]["VpcId"])


def _set_rules(client: Any, group: str, rules: list[dict[str, Any]]) -> None:
    """Make the group's inbound rules exactly these and "all among its members"."""
    now = client.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]
    if now:
        client.revoke_security_group_ingress(GroupId=group, IpPermissions=now)
    members = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}
    client.authorize_security_group_ingress(GroupId=group, IpPermissions=[members, *rules])
