"""The selective scan of Mamba, in the forms that the project needs. See `sequential.py` for what it computes."""

from export.ops.selective_scan.looped import selective_scan_looped
from export.ops.selective_scan.sequential import selective_scan_sequential

__all__ = ["selective_scan_looped", "selective_scan_sequential"]
