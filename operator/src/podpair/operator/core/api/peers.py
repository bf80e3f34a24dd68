"""Who may reach the pods, as in a NetworkPolicy: with its fields and rules, so that what is accepted here is accepted there."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from podpair.operator.core.api.rules import Rule, Section
from podpair.operator.core.api.scalars import IPV6_ADDRESS, LABEL_VALUE, Labels, QualifiedName, valid_names

_BYTE = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"{_BYTE}([.]{_BYTE}){{3}}/(3[0-2]|[12]?[0-9])"
_IPV6 = f"{IPV6_ADDRESS}/(12[0-8]|1[01][0-9]|[1-9]?[0-9])"
CIDR = f"^({_IPV4}|{_IPV6})$"


Cidr = Annotated[str, Field(pattern=CIDR, max_length=64)]
_Value = Annotated[str, Field(pattern=LABEL_VALUE, max_length=63)]


def _valued(requirement: "Requirement") -> bool:
    return (requirement.operator in ("In", "NotIn")) == (len(requirement.values) > 0)


class _Written(Section):
    """Leaves empty fields out: with them the API server would consider a NetworkPolicy changed."""

    @model_serializer(mode="wrap")
    def _without_empty(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in write(self).items() if value}


class Requirement(_Written):
    """One condition on a label."""

    RULES: ClassVar = (
        Rule(
            "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
            "values go with the operators In and NotIn, and only with them",
            _valued,
        ),
    )
    key: QualifiedName
    """The label."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """What holds of its value."""
    values: Annotated[tuple[_Value, ...], Field(max_length=64)] = ()
    """The values, for In and NotIn."""


class LabelSelector(_Written):
    """Objects by their labels; `{}` is all."""

    RULES: ClassVar = (valid_names("matchLabels"),)
    match_labels: Labels = Field(default_factory=dict)
    """Labels that they have."""
    match_expressions: Annotated[tuple[Requirement, ...], Field(max_length=16)] = ()
    """Conditions on their labels."""


class IpBlock(_Written):
    """Addresses."""

    cidr: Cidr
    """The network, such as 10.0.0.0/8."""
    except_: Annotated[tuple[Cidr, ...], Field(alias="except", max_length=16)] = ()
    """Networks within it that are not meant."""


def _one_kind(peer: "Peer") -> bool:
    return (peer.ip_block is not None) != (peer.pod_selector is not None or peer.namespace_selector is not None)


class Peer(Section):
    """Pods, namespaces or addresses, as in a NetworkPolicy."""

    RULES: ClassVar = (
        Rule(
            "has(self.ipBlock) != (has(self.podSelector) || has(self.namespaceSelector))",
            "a peer is an ipBlock, or a podSelector and a namespaceSelector or one of the two",
            _one_kind,
        ),
    )
    pod_selector: LabelSelector | None = None
    """Pods."""
    namespace_selector: LabelSelector | None = None
    """Namespaces; without, the resource's own."""
    ip_block: IpBlock | None = None
    """Addresses."""
