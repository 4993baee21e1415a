"""What `cheap_graph_passes` changes for a while is as it was afterwards, whatever happened within."""

import copy
import gc

import pytest
import torch
from torch.fx.traceback import NodeSource

from export.graph_passes import cheap_graph_passes


def test_collector_and_copies_are_as_before_also_after_a_failure_and_within_one_another():
    thresholds = gc.get_threshold()
    with pytest.raises(ValueError), cheap_graph_passes():
        with cheap_graph_passes():
            assert gc.get_threshold() != thresholds
        source = NodeSource(None, "a pass")
        assert copy.deepcopy([source])[0] is source
        raise ValueError
    assert gc.get_threshold() == thresholds and gc.get_freeze_count() == 0
    assert copy.deepcopy([source])[0] is not source


def test_a_graph_is_traced_alike():
    module, example = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.SiLU()), (torch.randn(2, 4),)
    plain = torch.export.export(module, example).run_decompositions({})
    with cheap_graph_passes():
        cheap = torch.export.export(module, example).run_decompositions({})
    assert str(cheap.graph) == str(plain.graph)
