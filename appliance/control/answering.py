"""What every call of the control API shares: errors become gRPC statuses, callers have a name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, NoReturn, TypeVar

import grpc
import structlog

from appliance.control.client import ACTOR_METADATA
from appliance.errors import ApplianceError, NotAllowed, NotFound
from dicom_bridge.errors import DicomBridgeError
from federation.errors import FederationError

log = structlog.get_logger(__name__)
R = TypeVar("R")


def answering(method: Callable[[Any, Any, Any], R]) -> Callable[[Any, Any, Any], R]:
    """Turn our errors into gRPC status codes, once, at this edge."""

    @wraps(method)
    def _call(self: Any, request: Any, context: Any) -> R:  # noqa: ANN401
        with _told(context, method.__name__):
            return method(self, request, context)

    return _call


def answering_each(
    method: Callable[[Any, Any, Any], Iterator[R]],
) -> Callable[[Any, Any, Any], Iterator[R]]:
    """As `answering`, of a call that answers several times."""

    @wraps(method)
    def _call(self: Any, request: Any, context: Any) -> Iterator[R]:  # noqa: ANN401
        with _told(context, method.__name__):
            yield from method(self, request, context)

    return _call


@contextmanager
def _told(context: grpc.ServicerContext, call: str) -> Iterator[None]:
    try:
        yield
    except NotFound as error:
        _abort(context, grpc.StatusCode.NOT_FOUND, str(error))
    except NotAllowed as error:
        _abort(context, grpc.StatusCode.FAILED_PRECONDITION, str(error))
    except (ApplianceError, DicomBridgeError, FederationError) as error:
        _abort(context, grpc.StatusCode.ABORTED, str(error))
    except Exception as error:  # edge: a control call must not end the service
        log.error("control call failed", call=call, error=type(error).__name__)
        _abort(context, grpc.StatusCode.INTERNAL, f"internal error ({type(error).__name__})")


def _abort(context: grpc.ServicerContext, code: grpc.StatusCode, text: str) -> NoReturn:
    context.abort(code, text)
    raise AssertionError("abort returns never")


def actor_of(context: grpc.ServicerContext) -> str:
    """The local account that the caller named; the socket admits this account only."""
    for key, value in context.invocation_metadata():
        if key == ACTOR_METADATA and isinstance(value, str):
            return value[:64]
    return "local"
