"""The protocol's word for what a plan asks for."""

from __future__ import annotations

from federation.update_spec import UpdateSpec
from federation.wire import federation_pb2 as pb


def update_kind(update: UpdateSpec) -> pb.UpdateKind.ValueType:
    """The kind of the updates that a plan asks for."""
    return pb.UPDATE_KIND_PLAIN if update.encoding == "fp32" else pb.UPDATE_KIND_QUANTISED
