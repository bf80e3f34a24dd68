"""The objects that a resource becomes, kind by kind; `podpair.operator.core.desired` puts them together."""
