import torch
from torch import nn

from segtasks.inference.fold import fold_batch_norm
from segtasks.models import unet


def settled(model):
    """With statistics and weights of BatchNorm that are not the neutral ones."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias.data, module.running_var, module.weight.data):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model.eval()


def example(side=32):
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def test_every_batch_norm_of_a_unet_is_folded_and_the_logits_stay():
    torch.manual_seed(0)
    model = settled(unet.build(unet.Config(width=8, depth=2), 5))
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    folded, count = fold_batch_norm(model, example())
    assert count == norms == 10
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.inference_mode():
        torch.testing.assert_close(folded(example(48)), model(example(48)), rtol=1e-4, atol=1e-4)


def test_the_original_is_left_as_it_was():
    model = settled(unet.build(unet.Config(width=4, depth=1), 2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fold_batch_norm(model, example())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class Shared(nn.Module):
    """A convolution used twice, once with and once without its BatchNorm; and a BatchNorm after an addition."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)
        self.first_norm = nn.BatchNorm2d(4)
        self.twice = nn.Conv2d(4, 4, 1)
        self.twice_norm = nn.BatchNorm2d(4)
        self.sum_norm = nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.first_norm(self.first(x)).relu()
        y = self.twice(x)
        return self.sum_norm(self.twice_norm(y) + self.twice(y))


def test_what_is_used_twice_or_follows_no_convolution_is_not_folded():
    torch.manual_seed(0)
    model = settled(Shared())
    folded, count = fold_batch_norm(model, example())
    assert count == 1
    assert isinstance(folded.first_norm, nn.Identity)
    assert isinstance(folded.twice_norm, nn.BatchNorm2d)
    with torch.inference_mode():
        torch.testing.assert_close(folded(example()), model(example()), rtol=1e-4, atol=1e-4)


class Reused(nn.Module):
    """The convolution's own output is needed beside the BatchNorm's: folding would change it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + y


def test_a_model_that_folding_would_change_comes_back_as_it_is():
    model = settled(Reused())
    folded, count = fold_batch_norm(model, example())
    assert folded is model
    assert count == 0
