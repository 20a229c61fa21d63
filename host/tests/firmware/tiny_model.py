"""Writes the smallest .tflite that a board can run: int8 [1, 6] -> FULLY_CONNECTED -> one more operator -> int8 [1, 2]."""

from __future__ import annotations

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

N_OBS, N_ACT = 6, 2


def tiny_model(operator: str = "TANH", input_type: str = "INT8") -> bytes:
    """``operator``: a builtin without options that follows the layer; ``input_type``: type of the input tensor."""
    weights = np.arange(-6, 6, dtype=np.int8).reshape(N_ACT, N_OBS) * 9
    model = schema.ModelT()
    model.version = 3
    model.buffers = [_buffer(None), _buffer(weights.tobytes()), _buffer(np.array([100, -300], "<i4").tobytes())]
    model.operatorCodes = [_code("FULLY_CONNECTED"), _code(operator)]
    graph = schema.SubGraphT()
    graph.tensors = [
        _tensor("observation", [1, N_OBS], input_type, 1 / 64, 3),
        _tensor("weights", [N_ACT, N_OBS], "INT8", 1 / 128, 0, buffer=1),
        _tensor("bias", [N_ACT], "INT32", 1 / 8192, 0, buffer=2),
        _tensor("hidden", [1, N_ACT], "INT8", 1 / 32, -5),
        _tensor("action", [1, N_ACT], "INT8", 1 / 128, 0),
    ]
    graph.inputs, graph.outputs = [0], [4]
    layer = _operator(0, [0, 1, 2], [3])
    layer.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    layer.builtinOptions = schema.FullyConnectedOptionsT()
    graph.operators = [layer, _operator(1, [3], [4])]
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _buffer(data: bytes | None) -> schema.BufferT:
    buffer = schema.BufferT()
    buffer.data = None if data is None else np.frombuffer(data, np.uint8)
    return buffer


def _code(name: str) -> schema.OperatorCodeT:
    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, name)
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    code.version = 4 if name == "FULLY_CONNECTED" else 1
    return code


def _operator(code: int, inputs: list[int], outputs: list[int]) -> schema.OperatorT:
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = code, inputs, outputs
    return operator


def _tensor(name: str, shape: list[int], kind: str, scale: float, zero_point: int, buffer: int = 0) -> schema.TensorT:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.buffer = name, shape, buffer
    tensor.type = getattr(schema.TensorType, kind)
    tensor.quantization = schema.QuantizationParametersT()
    tensor.quantization.scale, tensor.quantization.zeroPoint = [scale], [zero_point]
    return tensor
