from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class PredictRequest(_message.Message):
    __slots__ = ("payload", "model_id", "id")
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    payload: bytes
    model_id: str
    id: str
    def __init__(self, payload: _Optional[bytes] = ..., model_id: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class PredictResponse(_message.Message):
    __slots__ = ("scores", "label", "id", "error")
    SCORES_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    scores: _containers.RepeatedScalarFieldContainer[float]
    label: str
    id: str
    error: str
    def __init__(self, scores: _Optional[_Iterable[float]] = ..., label: _Optional[str] = ..., id: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...
