"""Reading Core ML packages (`.mlpackage`): the protobuf, its types and constants, the weight file. A leaf: needs PyTorch,
and of coremltools the protobuf's description."""

from export.mlpackage.dtypes import DTYPES, DType
from export.mlpackage.package import Package
from export.mlpackage.types import DictionaryType, ListType, StateType, TensorType, ValueType
from export.mlpackage.values import Values

__all__ = ["DTYPES", "DType", "DictionaryType", "ListType", "Package", "StateType", "TensorType", "ValueType", "Values"]
