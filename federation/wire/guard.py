"""A server interceptor: who may call, and a record of every message as it is serialised."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import grpc

from federation.wire.frames import Coders


class Admission(Protocol):
    """Decides on a call; it aborts the context (raising) where the caller is refused."""

    def __call__(self, context: grpc.ServicerContext) -> None:
        """Return where the call may go on."""
        ...


def admit_everybody(context: grpc.ServicerContext) -> None:
    """The admission of a listener whose calls carry their own proof."""


class MessageRecorder:
    """Writes every serialised message, as it stands before TLS, to a file of its own.

    Args:
        folder: gets ``NNNNNNNN-<in|out>-<Method>.bin``.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        taken = [int(path.name[:8]) for path in folder.glob("[0-9]*.bin")]
        self._numbers = itertools.count(max(taken, default=0) + 1)

    def record(self, direction: str, method: str, message: bytes) -> None:
        """Keep one message."""
        name = f"{next(self._numbers):08d}-{direction}-{method.rpartition('/')[2]}.bin"
        (self._folder / name).write_bytes(message)


@dataclass(frozen=True)
class _Shape:
    """What kind of call a handler serves."""

    request_stream: bool
    response_stream: bool


class Guard(grpc.ServerInterceptor):  # type: ignore[misc, type-arg, unused-ignore]
    """Asks ``admit`` before a call and before every message of a stream, and records messages.

    Args:
        admit: refuses by aborting the call's context.
        recorder: None records nothing.
        coders: methods whose messages are not coded by protobuf's own code.
    """

    def __init__(
        self,
        admit: Admission,
        recorder: MessageRecorder | None = None,
        coders: Coders | None = None,
    ) -> None:
        self._admit = admit
        self._recorder = recorder
        self._own_coders = coders or {}

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Any],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:  # noqa: ANN401 - grpc's own type for handlers is private
        """Wrap the handler that serves a method."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        shape = _Shape(handler.request_streaming, handler.response_streaming)
        reads, writes = self._coders(handler, handler_call_details.method)
        behaviour, make = _parts(handler, shape)
        return make(
            self._guarded(behaviour, shape), request_deserializer=reads, response_serializer=writes
        )

    def _coders(
        self,
        handler: Any,  # noqa: ANN401 - as above
        method: str,
    ) -> tuple[Callable[[bytes], Any], Callable[[Any], bytes]]:
        own_read, own_write = self._own_coders.get(method, (None, None))
        reads = own_read or handler.request_deserializer
        writes = own_write or handler.response_serializer
        recorder = self._recorder
        if recorder is None:
            return reads, writes

        def _read(raw: bytes) -> Any:  # noqa: ANN401
            recorder.record("in", method, raw)
            return reads(raw)

        def _write(message: Any) -> bytes:  # noqa: ANN401
            raw = cast("bytes", writes(message))
            recorder.record("out", method, raw)
            return raw

        return _read, _write

    def _guarded(self, behaviour: Callable[..., Any], shape: _Shape) -> Callable[..., Any]:
        def _each(items: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
            for item in items:
                self._admit(context)
                yield item

        def _call(request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ANN401
            self._admit(context)
            return behaviour(_each(request, context) if shape.request_stream else request, context)

        def _stream(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: ANN401
            self._admit(context)
            yield from _each(behaviour(request, context), context)

        return _stream if shape.response_stream else _call


def _parts(
    handler: Any,  # noqa: ANN401 - as above
    shape: _Shape,
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    if shape.request_stream and shape.response_stream:
        return handler.stream_stream, grpc.stream_stream_rpc_method_handler
    if shape.request_stream:
        return handler.stream_unary, grpc.stream_unary_rpc_method_handler
    if shape.response_stream:
        return handler.unary_stream, grpc.unary_stream_rpc_method_handler
    return handler.unary_unary, grpc.unary_unary_rpc_method_handler
