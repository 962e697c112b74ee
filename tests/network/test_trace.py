from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.network.trace import Trace, clean_name, first_float_tensor, trace_forward
from lightning_gengap.undisturbed import undisturbed
from tests import networks


def traced(model: nn.Module, images: Tensor) -> Trace:
    with undisturbed(model):
        return trace_forward(model, images, lambda inputs: model(images if inputs is None else inputs))


def outputs_passed_by_every_path(trace: Trace) -> list[str]:
    through = trace.bottlenecks()
    return [visit.module for visit in trace.visits if visit.side == "output" and visit.edge in through]


def test_every_tensor_of_a_chain_is_a_bottleneck() -> None:
    trace = traced(networks.made(networks.mlp), networks.images(4))
    assert outputs_passed_by_every_path(trace) == [str(i) for i in range(8)]


def test_residual_branches_are_none() -> None:
    names = outputs_passed_by_every_path(traced(networks.made(networks.ResNet), networks.images(4)))
    assert names == ["conv1", "bn1", "layer1.shortcut", "layer1", "layer2", "layer3.shortcut", "layer3", "fc"]


def test_depth_counts_the_calls_of_modules_with_parameters() -> None:
    trace = traced(networks.made(networks.Reused), networks.images(4))
    depths = {(visit.module, visit.side, visit.call): visit.depth for visit in trace.visits}
    assert trace.depth == 4
    assert depths["shared", "input", 0] == 1
    assert depths["shared", "output", 1] == 3
    assert depths["head", "output", 0] == 4
    assert trace.calls == {"first": 1, "shared": 2, "head": 1}


@pytest.mark.parametrize("cut", ["inputs", "stem"])
def test_behind_a_cut_of_the_graph_residual_branches_are_none_either(cut: str) -> None:
    class Cut(networks.ResNet):
        def forward(self, images: Tensor) -> Tensor:
            x = self.conv1(images.detach() if cut == "inputs" else images)
            x = torch.relu(self.bn1(x if cut == "inputs" else x.detach()))
            return self.fc(self.layer3(self.layer2(self.layer1(x))).mean(dim=(2, 3)))

    names = outputs_passed_by_every_path(traced(networks.made(Cut), networks.images(4)))
    kept = ["bn1", "layer1.shortcut", "layer1", "layer2", "layer3.shortcut", "layer3", "fc"]
    assert names == (["conv1", *kept] if cut == "inputs" else kept)


def test_overwritten_tensors_are_known() -> None:
    trace = traced(networks.made(lambda: networks.cnn_with_batch_norm(inplace=True)), networks.images(4))
    overwritten = [visit.module for visit in trace.visits if visit.side == "output" and visit.overwritten]
    assert overwritten == ["1", "4", "7"]


def test_a_forward_without_gradients_has_no_path() -> None:
    class Silent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        @torch.no_grad()
        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)

    trace = traced(Silent(), torch.randn(3, 4))
    assert trace.root is None
    assert outputs_passed_by_every_path(trace) == []


def test_the_model_and_its_inputs_are_left_as_they_were() -> None:
    model, images = networks.made(networks.ResNet), networks.images(4)
    traced(model, images)
    assert not images.requires_grad
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_first_float_tensor_is_found_in_nested_contents() -> None:
    tensor, ids = torch.ones(2), torch.ones(2, dtype=torch.long)
    assert first_float_tensor((None, [ids, {"mask": ids, "hidden": tensor}], torch.zeros(1))) is tensor
    assert first_float_tensor((ids, "text", None)) is None


def test_names_are_free_of_the_wrappers_of_compilation() -> None:
    assert clean_name("_orig_mod.body._orig_mod.0") == "body.0"
