from __future__ import annotations

import json

import nibabel
import numpy as np
from numpy.typing import NDArray

from segtasks.storage import Store

CASES = {"Tr": ("liver_00", "liver_01"), "Ts": ("liver_02",)}
SHAPE = (7, 6, 3)  # X, Y, Z as the files have them
AFFINE = np.array([[-1.0, 0, 0, 3], [0, -1.5, 0, 4], [0, 0, 2.5, -5], [0, 0, 0, 1]])  # L-P-S


def volume(array: NDArray[np.generic]) -> bytes:
    return bytes(nibabel.Nifti1Image(array, AFFINE).to_bytes())


def write(store: Store) -> None:
    """nnU-Net: two modalities, a file each; float labels; test cases without labels."""
    described = {
        "channel_names": {"0": "T1", "1": "FLAIR"},
        "labels": {"background": 0, "liver": 1, "tumour": 2},
        "numTraining": 2,
        "file_ending": ".nii",
    }
    store.create("dataset.json", json.dumps(described).encode())
    for part, names in CASES.items():
        for seed, name in enumerate(names):
            rng = np.random.default_rng(seed)
            for channel in range(2):
                store.create(f"images{part}/{name}_{channel:04d}.nii", volume(rng.normal(50, 20, SHAPE).astype(np.float32)))
            if part == "Tr":
                store.create(f"labels{part}/{name}.nii", volume(rng.integers(0, 3, SHAPE).astype(np.float32)))


def break_one(store: Store) -> str:
    """One slice of a label has a value that is no class; the other slices of the case stay."""
    array = np.zeros(SHAPE, np.float32)
    array[2, 3, 1] = 9
    store.delete("labelsTr/liver_01.nii")
    store.create("labelsTr/liver_01.nii", volume(array))
    return "imagesTr/liver_01_0000.nii#z=0001"
