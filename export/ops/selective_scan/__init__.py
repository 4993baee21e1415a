"""The selective scan of Mamba, in the forms that the project needs. See `sequential.py` for what it computes.

sequential   the truth, step by step          looped     one loop in stock operators, for ExecuTorch
unrolled     plain tensor operations, for Core ML, ONNX and training
training     a kernel with its gradient, for a CPU
fused        one operator, for hosts that link this project's kernels
"""

from export.ops.selective_scan.fused import bidirectional_scan, selective_scan_fused
from export.ops.selective_scan.looped import selective_scan_looped
from export.ops.selective_scan.sequential import selective_scan_sequential
from export.ops.selective_scan.training import training_scan
from export.ops.selective_scan.unrolled import cache_width, selective_scan_unrolled

__all__ = [
    "bidirectional_scan",
    "cache_width",
    "selective_scan_fused",
    "selective_scan_looped",
    "selective_scan_sequential",
    "selective_scan_unrolled",
    "training_scan",
]
