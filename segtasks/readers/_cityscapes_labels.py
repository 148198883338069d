"""The label table of Cityscapes, from `cityscapesscripts/helpers/labels.py` of cityscapesScripts 2.2.4 (id 0 to 33).

`license plate`, id -1, is in no label image. A train id of 255 is not evaluated.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Label:
    """One row; `color` is RGB."""

    id: int
    train_id: int
    category: str
    has_instances: bool
    color: tuple[int, int, int]
    name: str


# id, trainId, category, hasInstances, color, name
_TABLE = """
0 255 void 0 000000 unlabeled
1 255 void 0 000000 ego vehicle
2 255 void 0 000000 rectification border
3 255 void 0 000000 out of roi
4 255 void 0 000000 static
5 255 void 0 6f4a00 dynamic
6 255 void 0 510051 ground
7 0 flat 0 804080 road
8 1 flat 0 f423e8 sidewalk
9 255 flat 0 faaaa0 parking
10 255 flat 0 e6968c rail track
11 2 construction 0 464646 building
12 3 construction 0 66669c wall
13 4 construction 0 be9999 fence
14 255 construction 0 b4a5b4 guard rail
15 255 construction 0 966464 bridge
16 255 construction 0 96785a tunnel
17 5 object 0 999999 pole
18 255 object 0 999999 polegroup
19 6 object 0 faaa1e traffic light
20 7 object 0 dcdc00 traffic sign
21 8 nature 0 6b8e23 vegetation
22 9 nature 0 98fb98 terrain
23 10 sky 0 4682b4 sky
24 11 human 1 dc143c person
25 12 human 1 ff0000 rider
26 13 vehicle 1 00008e car
27 14 vehicle 1 000046 truck
28 15 vehicle 1 003c64 bus
29 255 vehicle 1 00005a caravan
30 255 vehicle 1 00006e trailer
31 16 vehicle 1 005064 train
32 17 vehicle 1 0000e6 motorcycle
33 18 vehicle 1 770b20 bicycle
"""


def _row(line: str) -> Label:
    number, train_id, category, things, color, name = line.split(" ", 5)
    red, green, blue = bytes.fromhex(color)
    return Label(int(number), int(train_id), category, things == "1", (red, green, blue), name)


LABELS = tuple(_row(line) for line in _TABLE.split("\n") if line)
BY_NAME = {label.name: label for label in LABELS}
