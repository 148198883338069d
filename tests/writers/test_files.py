import pytest

from segtasks.writers._base import Labelled
from segtasks.writers._files import image_suffix, stem_of


def sample(image_id, media_type="image/png"):
    return Labelled(image_id=image_id, split="train", height=1, width=1, mask=None, instances=None, image=None, media_type=media_type)


@pytest.mark.parametrize(
    ("image_id", "name"),
    [
        ("images/train/a.png#y=0000,x=0512", "a#y=0000,x=0512.png"),
        ("b/c.tif#y=00,x=64#y=0000,x=0016", "b/c#y=00,x=64#y=0000,x=0016.png"),
        ("patient.nii.gz#k=0007", "patient.nii#k=0007.png"),
        ("shot#1.png", "shot#1.png"),
        ("shot#.v=2.jpg", "shot#.v=2.png"),
    ],
)
def test_a_part_of_a_file_keeps_its_place_in_the_name(image_id, name):
    one = sample(image_id)
    assert stem_of(one) + image_suffix(one) == name


def test_tiles_keep_their_images_own_suffix():
    assert image_suffix(sample("a.JPEG#y=0000,x=0512", "image/jpeg")) == ".JPEG"
