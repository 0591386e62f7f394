from __future__ import annotations

import pytest

from dshrink.search.errors import PlanError
from dshrink.search.published import published_mask, published_masks

#: Blocks of each network and how many of them Tab. 9 keeps.
KEPT = {
    "MBV2-1.4-DS-A": (17, 11),
    "MBV2-1.4-DS-B": (17, 8),
    "MBV2-1.4-DS-C": (17, 8),
    "MBV2-1.4-DS-D": (17, 6),
    "MBV2-1.4-DS-E": (17, 6),
    "MBV2-1.4-DS-F": (17, 0),
    "MBV2-DS-A": (17, 12),
    "MBV2-DS-B": (17, 12),
    "MBV2-DS-C": (17, 9),
    "MBV2-DS-D": (17, 7),
    "Eff-Lite0-A": (16, 9),
    "Eff-Lite0-B": (16, 8),
    "Eff-Lite0-C": (16, 6),
    "Eff-Lite0-D": (16, 0),
    "EffLite3-DS-A": (24, 9),
    "EffLite3-DS-B": (24, 11),
    "EffLite3-DS-C": (24, 13),
    "EffLite3-DS-D": (24, 15),
}


def test_the_papers_18_masks_ship_with_the_package() -> None:
    found = {
        name: (len(mask.keep_mask), mask.keep_mask.count("1"))
        for name, mask in published_masks().items()
    }
    assert found == KEPT


def test_a_mask_is_the_papers() -> None:
    mask = published_mask("MBV2-1.4-DS-A")
    assert (mask.base_model, mask.keep_mask) == ("mobilenetv2_140", "10011010101101111")


def test_the_case_of_a_name_does_not_matter() -> None:
    assert published_mask("mbv2-ds-c") == published_masks()["MBV2-DS-C"]


def test_an_unknown_name_gets_its_neighbours() -> None:
    with pytest.raises(PlanError, match=r"no network 'MBV2-1\.4-A'; did you mean: MBV2-1\.4-DS-A"):
        published_mask("MBV2-1.4-A")
    with pytest.raises(PlanError, match=r"known: MBV2-1\.4-DS-A"):
        published_mask("??")
