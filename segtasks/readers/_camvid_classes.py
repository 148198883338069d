"""CamVid's 32 colours, SegNet's 11 classes, and which of the former make up the latter.

Colours and names are those of CamVid's `label_colors.txt`. The grouping is that of SegNet (Badrinarayanan et al., 2015), written out in
MathWorks' "Semantic Segmentation Using Deep Learning", whose 11 classes are in the order of SegNet's own labels.
"""

from __future__ import annotations

import csv

from segtasks.errors import InputError
from segtasks.readers._describe import Color
from segtasks.spec import ClassSpec, DatasetSpec, LabelEncoding

IGNORE = 255
_SEGNET_VOID = 11  # in SegNet's label images
# SegNet's class, its colour, and the original ones that it is made of.
_GROUPS: dict[str, tuple[Color, tuple[str, ...]]] = {
    "sky": ((128, 128, 128), ("Sky",)),
    "building": ((128, 0, 0), ("Bridge", "Building", "Wall", "Tunnel", "Archway")),
    "pole": ((192, 192, 128), ("Column_Pole", "TrafficCone")),
    "road": ((128, 64, 128), ("Road", "LaneMkgsDriv", "LaneMkgsNonDriv")),
    "pavement": ((60, 40, 222), ("Sidewalk", "ParkingBlock", "RoadShoulder")),
    "tree": ((128, 128, 0), ("Tree", "VegetationMisc")),
    "sign": ((192, 128, 128), ("SignSymbol", "Misc_Text", "TrafficLight")),
    "fence": ((64, 64, 128), ("Fence",)),
    "car": ((64, 0, 128), ("Car", "SUVPickupTruck", "Truck_Bus", "Train", "OtherMoving")),
    "pedestrian": ((64, 64, 0), ("Pedestrian", "Child", "CartLuggagePram", "Animal")),
    "bicyclist": ((0, 128, 192), ("Bicyclist", "MotorcycleScooter")),
}
_GROUP_OF = {name.lower(): index for index, (_, names) in enumerate(_GROUPS.values()) for name in names}
_VOID = "void"
COLORS: dict[str, Color] = {
    "Animal": (64, 128, 64),
    "Archway": (192, 0, 128),
    "Bicyclist": (0, 128, 192),
    "Bridge": (0, 128, 64),
    "Building": (128, 0, 0),
    "Car": (64, 0, 128),
    "CartLuggagePram": (64, 0, 192),
    "Child": (192, 128, 64),
    "Column_Pole": (192, 192, 128),
    "Fence": (64, 64, 128),
    "LaneMkgsDriv": (128, 0, 192),
    "LaneMkgsNonDriv": (192, 0, 64),
    "Misc_Text": (128, 128, 64),
    "MotorcycleScooter": (192, 0, 192),
    "OtherMoving": (128, 64, 64),
    "ParkingBlock": (64, 192, 128),
    "Pedestrian": (64, 64, 0),
    "Road": (128, 64, 128),
    "RoadShoulder": (128, 128, 192),
    "Sidewalk": (0, 0, 192),
    "SignSymbol": (192, 128, 128),
    "Sky": (128, 128, 128),
    "SUVPickupTruck": (64, 128, 192),
    "TrafficCone": (0, 0, 64),
    "TrafficLight": (0, 64, 64),
    "Train": (192, 64, 128),
    "Tree": (128, 128, 0),
    "Truck_Bus": (192, 128, 192),
    "Tunnel": (64, 0, 64),
    "VegetationMisc": (192, 192, 0),
    "Void": (0, 0, 0),
    "Wall": (64, 192, 0),
}


def segnet_spec() -> DatasetSpec:
    """For SegNet's label images: 0..10, and 11 for void."""
    table = (*((index, index) for index in range(len(_GROUPS))), (_SEGNET_VOID, IGNORE))
    return _spec({name: color for name, (color, _) in _GROUPS.items()}, LabelEncoding(kind="value", table=table))


def grouped_spec(colors: dict[str, Color], where: str) -> DatasetSpec:
    """For label images in the original colours: SegNet's 11 classes, void ignored."""
    if strange := [name for name in colors if name.lower() not in _GROUP_OF and name.lower() != _VOID]:
        raise InputError(f"{where} names classes that are in no group of SegNet's: {', '.join(strange[:5])}; use classes: 32")
    table = {_pack(color): _GROUP_OF.get(name.lower(), IGNORE) for name, color in colors.items()}
    return _spec({name: color for name, (color, _) in _GROUPS.items()}, LabelEncoding(kind="color", table=tuple(sorted(table.items()))))


def whole_spec(colors: dict[str, Color]) -> DatasetSpec:
    """For label images in the original colours: each of them a class, void ignored."""
    kept = {name: color for name, color in colors.items() if name.lower() != _VOID}
    table = {_pack(color): IGNORE for color in colors.values()} | {_pack(color): index for index, color in enumerate(kept.values())}
    return _spec(kept, LabelEncoding(kind="color", table=tuple(sorted(table.items()))))


def parse_colors(text: str, path: str) -> dict[str, Color]:
    """Colours by name, of `label_colors.txt` (lines of R G B name) or `class_dict.csv` (name, r, g, b below a header)."""
    rows: list[tuple[int, list[str]]]
    if path.endswith(".csv"):
        rows = [(at, [*row[1:4], row[0]]) for at, row in enumerate(csv.reader(text.splitlines()), 1) if row and row[0].strip() != "name"]
    else:
        rows = [(at, line.split(maxsplit=3)) for at, line in enumerate(text.splitlines(), 1) if line.strip()]
    found: dict[str, Color] = {}
    for number, parts in rows:
        channels = [int(part) if part.strip().isdecimal() else 256 for part in parts[:3]]
        name = parts[3].strip() if len(parts) == 4 else ""
        if not name or max(channels) > 255 or len(channels) != 3:
            raise InputError(
                f"{path}, line {number}: {' '.join(parts)[:120]!r} is no class; needed: red, green and blue of 0..255 and a name"
            )
        color = (channels[0], channels[1], channels[2])
        if name in found or color in found.values():
            raise InputError(f"{path}, line {number}: {name} {color} comes a second time; needed: a name and a colour for each class")
        found[name] = color
    if not found:
        raise InputError(f"{path} names no class; needed: lines of red, green, blue and name")
    return found


def _spec(colors: dict[str, Color], encoding: LabelEncoding) -> DatasetSpec:
    classes = tuple(ClassSpec(name=name, color=color) for name, color in colors.items())
    return DatasetSpec(name="camvid", classes=classes, ignore_index=IGNORE, label_encoding=encoding)


def _pack(color: Color) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]
