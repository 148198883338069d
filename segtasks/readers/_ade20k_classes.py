"""The 150 classes of the ADE20K scene parsing challenge, and which codes of the full release each of them is made of.

Names are the first of `objectInfo150.txt`, colours those of `color150.mat` (as in MMSegmentation), codes those of
`convertFromADE/mapFromADE.txt`, all of CSAILVision/sceneparsing.
"""

from __future__ import annotations

from segtasks.errors import InputError
from segtasks.readers._describe import Color, voc_color
from segtasks.spec import ClassSpec

# Number in the challenge's masks, codes in the full release's, colour, name.
_TABLE = """
1 2978 787878 wall
2 312 b47878 building
3 2420 06e6e6 sky
4 976 503232 floor
5 2855 04c803 tree
6 447 787850 ceiling
7 2131 8c8c8c road
8 165 cc05ff bed
9 3055 e6e6e6 windowpane
10 1125 04fa07 grass
11 350 e005ff cabinet
12 2377 ebff07 sidewalk
13 1831 96053d person
14 838 787846 earth
15 774,783 08ff33 door
16 2684 ff0652 table
17 1610 8fff8c mountain
18 1910 ccff04 plant
19 687 ff3307 curtain
20 471 cc4603 chair
21 401 0066c8 car
22 2994 3de6fa water
23 1735 ff0633 painting
24 2473 0b66ff sofa
25 2329 ff0747 shelf
26 1276 ff09e0 house
27 2264 0907e6 sea
28 1564 dcdcdc mirror
29 2178 ff095c rug
30 913 7009ff field
31 57 08ffd6 armchair
32 2272 07ffe0 seat
33 907 ffb806 fence
34 724 0aff47 desk
35 2138 ff290a rock
36 2985,533 07ffff wardrobe
37 1395 e0ff08 lamp
38 155 6608ff bathtub
39 2053 ff3d06 railing
40 689 ffc207 cushion
41 137 ff7a08 base
42 266 00ff14 box
43 581 ff0829 column
44 2380 ff0599 signboard
45 491 0633ff chest of drawers
46 627 eb0cff counter
47 2212 a09614 sand
48 2388 00a3ff sink
49 2423 8c8c8c skyscraper
50 943 fa0a0f fireplace
51 2096 14ff00 refrigerator
52 1121 1fff00 grandstand
53 1788 ff1f00 path
54 2530 ffe000 stairs
55 2185 99ff00 runway
56 420 0000ff case
57 1948 ff4700 pool table
58 1869 00ebff pillow
59 2251 00adff screen door
60 2531 1f00ff stairway
61 2128 0bc8c8 river
62 294 ff5200 bridge
63 239 00fff5 bookcase
64 212 003dff blind
65 571 00ff70 coffee table
66 2793 00ff85 toilet
67 978 ff0000 flower
68 236 ffa300 book
69 1240 ff6600 hill
70 181 c2ff00 bench
71 629 008fff countertop
72 2598 33ff00 stove
73 1744 0052ff palm
74 1374 00ff29 kitchen island
75 591 00ffad computer
76 2679 0a00ff swivel chair
77 223 adff00 boat
78 123 00ff99 bar
79 47 ff5c00 arcade machine
80 1282 ff00ff hovel
81 327 ff00f5 bus
82 2821 ff0066 towel
83 1451 ffad00 light
84 2880 ff0014 truck
85 2828 ffb8b8 tower
86 480 001fff chandelier
87 77 00ff3d awning
88 2616 0047ff streetlight
89 246,247 ff00cc booth
90 2733 00ffc2 television
91 14 00ff52 airplane
92 738 000aff dirt track
93 38 0070ff apparel
94 1936 3300ff pole
95 1401 00c2ff land
96 120 007aff bannister
97 868 00ffa3 escalator
98 1702 ff9900 ottoman
99 249 00ff0a bottle
100 308 ff7000 buffet
101 1969 8fff00 poster
102 2526 5200ff stage
103 2928 a3ff00 van
104 2337 ffeb00 ship
105 1023 08b8aa fountain
106 609 8500ff conveyer belt
107 389 00ff5c canopy
108 2989 b800ff washer
109 1930 ff001f plaything
110 2668 00b8ff swimming pool
111 2586 00d6ff stool
112 131 ff0070 barrel
113 146 5cff00 basket
114 3016 00e0ff waterfall
115 2739 70e0ff tent
116 95 46b8a0 bag
117 1563 a300ff minibike
118 642 9900ff cradle
119 1708 47ff00 oven
120 103 ff00a3 ball
121 1002 ffcc00 food
122 2569 ff008f step
123 2704 00ffeb tank
124 2833 85ff00 trade name
125 1551 ff00eb microwave
126 1981 f500ff pot
127 29 ff007a animal
128 187 fff500 bicycle
129 1393 0abed4 lake
130 747 d6ff00 dishwasher
131 2254 00ccff screen
132 206 1400ff blanket
133 2262 ffff00 sculpture
134 1260 0099ff hood
135 2243 0029ff sconce
136 2932 00ffcc vase
137 2836 2900ff traffic light
138 2850 29ff00 tray
139 64 ad00ff ashcan
140 894 00f5ff fan
141 1858 4700ff pier
142 3109 7a00ff crt screen
143 1919 00ffb8 plate
144 1583 005cff monitor
145 318 b8ff00 bulletin board
146 2356 0085ff shower
147 2046 ffd600 radiator
148 1098 19c2c2 glass
149 530 66ff00 clock
150 954 5c00ff flag
"""


def _rows() -> list[tuple[int, list[int], Color, str]]:
    rows = []
    for line in _TABLE.strip().split("\n"):
        number, codes, color, name = line.split(" ", 3)
        red, green, blue = bytes.fromhex(color)
        rows.append((int(number), [int(code) for code in codes.split(",")], (red, green, blue), name))
    return rows


CLASSES = tuple(ClassSpec(name=name, color=color, source_id=number) for number, _, color, name in _rows())
CODES = {code: number - 1 for number, codes, _, _ in _rows() for code in codes}  # of the full release, to class index


def from_object_info(text: str, path: str) -> tuple[ClassSpec, ...]:
    """The classes of an `objectInfo150.txt`: lines of number, ratio, train, val and names, with tabs between them.

    A class has the first of its names, all of them where another class has that one too.
    """
    names: list[str] = []
    for place, line in enumerate(text.splitlines(), 1):
        parts = [part.strip() for part in line.split("\t")]
        if not any(parts) or parts[0].lower() == "idx":
            continue
        if len(parts) < 5 or parts[0] != str(len(names) + 1) or not parts[4]:
            raise InputError(
                f"{path}, line {place}: {line[:120]!r} is not class {len(names) + 1}; "
                "needed: number, ratio, train, val and names, with tabs between them, numbers from 1 on"
            )
        names.append(parts[4])
    if not names:
        raise InputError(f"{path} names no class; needed: lines of number, ratio, train, val and names, with tabs between them")
    first = [name.split(",")[0].strip() or name for name in names]
    chosen = [one if first.count(one) == 1 else name for one, name in zip(first, names)]
    if twice := [name for name in chosen if chosen.count(name) > 1]:
        raise InputError(f"{path} names {twice[0]!r} twice; needed: each class once")
    colors = [CLASSES[at].color if at < len(CLASSES) else voc_color(at + 1) for at in range(len(names))]
    return tuple(ClassSpec(name=name, color=color, source_id=at + 1) for at, (name, color) in enumerate(zip(chosen, colors)))
