import torch

from segtasks.transforms.normalise import Normalise


def test_bytes_become_channels_last_floats_by_the_formula():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    images_NHWC = torch.randint(0, 256, (2, 5, 7, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found_NCHW = Normalise(mean, std)(images_NHWC)
    column = torch.tensor(mean, dtype=torch.float64).view(3, 1, 1), torch.tensor(std, dtype=torch.float64).view(3, 1, 1)
    expected_NCHW = (images_NHWC.permute(0, 3, 1, 2).double() / 255 - column[0]) / column[1]
    assert found_NCHW.dtype == torch.float32
    assert found_NCHW.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found_NCHW.double(), expected_NCHW, rtol=0, atol=1e-6)
