"""The 80 classes of MS-COCO (Lin et al., 2014), which detectors of that dataset recognise."""

from __future__ import annotations

import numpy as np

from cran_bench.frontend.interfaces import NO_CLASS

_NAMES = """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
    parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
    handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
    surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
    broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop,
    mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors,
    teddy bear, hair drier, toothbrush
"""
CLASSES = tuple(name.strip() for name in _NAMES.split(","))

_IS_USED = ~np.isin(np.arange(91), (0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
PLACES = np.where(_IS_USED, _IS_USED.cumsum() - 1, NO_CLASS).astype(np.int16)
"""(91,) int16, the place in `CLASSES` of each category id of the annotations; -1 for an id that no class has."""
