from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from segtasks.config import Plugin
from segtasks.errors import ConfigError, InputError
from segtasks.losses import weighted_sum
from segtasks.losses.weighted_sum import Term, WeightedSum
from segtasks.plugins import configure, load, resolved
from segtasks.storage import open_store
from segtasks.testing.losses import check_loss
from tests.losses._cases import IGNORE, random_case, spec_of
from tests.training.world import shapes, train

REBALANCE = [
    {"loss": "cross_entropy", "schedule": "linear", "initial": 1.0, "weight": 0.01},
    {"loss": "boundary", "schedule": "linear", "initial": 0.0, "weight": 0.99},
]


def built(*terms, spec=None, pixels=(70, 20, 9, 1)):
    config = configure("losses", Plugin(name="weighted_sum", options={"terms": list(terms)}))
    return weighted_sum.build(config, spec or spec_of(), pixels)


def alone(name, **options):
    module = load("losses", name)
    return module.build(module.Config(**options), spec_of(), [70, 20, 9, 1])


def test_it_is_the_sum_of_its_terms_values_and_gradients():
    logits, target = random_case()
    logits.requires_grad_()
    loss = built("dice", {"loss": {"name": "weighted_cross_entropy", "options": {"weights": "median"}}, "weight": 0.5})
    value = loss(logits, target)
    expected = alone("dice")(logits, target) + 0.5 * alone("weighted_cross_entropy", weights="median")(logits, target)
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(*(torch.autograd.grad(each, logits)[0] for each in (value, expected)))


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (0.2, 0.6), (0.5, 1.0)])
def test_a_linear_ramp_is_numpys_interpolation(start, end):
    term = Term(loss="dice", schedule="linear", initial=0.3, weight=2.0, start=start, end=end)
    for share in np.linspace(0, 1, 101):
        assert term.weight_at(share) == pytest.approx(np.interp(share, [start, end], [0.3, 2.0]))


def test_a_cosine_ramp_is_half_way_in_the_middle_and_flat_at_its_ends():
    term = Term(loss="dice", schedule="cosine", initial=1.0, weight=0.0, start=0.2, end=0.6)
    assert [term.weight_at(share) for share in (0, 0.2, 0.4, 0.6, 1)] == pytest.approx([1, 1, 0.5, 0, 0])
    assert term.weight_at(0.3) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)


def test_a_ramp_of_no_length_is_a_step():
    term = Term(loss="dice", schedule="linear", weight=2.0, start=0.5, end=0.5)
    assert [term.weight_at(share) for share in (0, 0.499, 0.5, 1)] == [0, 0, 2, 2]


@pytest.mark.parametrize(("share", "a"), [(0.0, 0.0), (0.5, 0.495), (1.0, 0.99)])
def test_kervadecs_rebalancing_is_two_ramps(share, a):
    """(1 - a) L_R + a L_B, a rising (Kervadec et al., MedIA 2021)."""
    logits, target = random_case()
    loss = built(*REBALANCE)
    loss.set_progress(share)
    assert loss.weights() == pytest.approx([1 - a, a])
    expected = (1 - a) * alone("cross_entropy")(logits, target) + a * alone("boundary")(logits, target)
    assert loss(logits, target).item() == pytest.approx(expected.item(), rel=1e-9)


def test_progress_reaches_sums_within_sums():
    inner = {"name": "weighted_sum", "options": {"terms": [*REBALANCE, "dice"]}}
    loss = built({"loss": inner, "weight": 2.0}, "focal")
    loss.set_progress(0.5)
    assert loss.losses[0].weights() == pytest.approx([0.505, 0.495, 1])


def test_a_term_is_not_computed_while_its_weight_is_0():
    asked = []
    terms = [Term(loss="dice"), Term(loss="boundary", schedule="linear", start=0.5)]
    loss = WeightedSum(
        spec_of(), terms, [lambda logits, target: asked.append(0) or logits.sum(), lambda logits, target: asked.append(1) or logits.sum()]
    )
    logits, target = random_case()
    for share in (0.0, 0.5, 0.75):
        loss.set_progress(share)
        loss(logits, target)
    assert asked == [0, 0, 0, 1]


def test_a_step_at_which_every_weight_is_0_has_a_gradient_of_0():
    logits, target = random_case()
    logits[0, 0, 0, 0] = math.inf  # times 0 it is not a number
    logits.requires_grad_()
    value = built({"loss": "dice", "schedule": "linear"})(logits, target)
    value.backward()
    assert value.item() == 0
    assert logits.grad.abs().max() == 0


def test_terms_see_the_target_as_it_was_and_may_be_of_other_packages():
    """`nan_loss` is a plain function, and takes ignored pixels for classes if it is shown them as such."""
    logits, target = random_case()
    ours, theirs = built("cross_entropy")(logits, target), built("tests.training.nan_loss")(logits, target)
    assert (target == IGNORE).any()
    assert theirs.item() == pytest.approx(ours.item(), rel=1e-12)


def test_class_weights_of_terms_move_with_it_and_are_no_part_of_a_checkpoint():
    loss = built({"loss": "weighted_cross_entropy"}, "dice").to("meta")
    assert loss.losses[0].class_weights.device.type == "meta"
    assert loss.state_dict() == {}


def test_the_recipe_has_every_default_of_every_term_written_out():
    short = resolved("losses", Plugin(name="weighted_sum", options={"terms": ["dice", {"loss": "boundary", "weight": 0.1}]}))
    dice, boundary = short.options["terms"]
    assert dice["loss"] == resolved("losses", Plugin(name="dice")).model_dump(mode="json")
    assert boundary == {
        "loss": {"name": "boundary", "options": {"include_background": True}},
        "weight": 0.1,
        "schedule": "constant",
        "initial": 0.0,
        "start": 0.0,
        "end": 1.0,
    }
    assert resolved("losses", short) == short


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ([], "a sum without terms; needed: at least one"),
        (["dice", "bondary"], r"terms\.1 \(bondary\): no loss is called 'bondary'\. Did you mean 'boundary'\?"),
        (
            [{"loss": {"name": "focal", "options": {"gama": 1}}}],
            r"terms\.0 \(focal\): focal\.options\.gama: unknown setting\. Did you mean",
        ),
        ([{"loss": "dice", "wieght": 1}], r"options\.terms\.0\.wieght: unknown setting\. Did you mean 'weight'\?"),
        ([{"loss": "dice", "weight": -1}], r"options\.terms\.0\.weight: .* greater than or equal to 0"),
        ([{"loss": "dice", "weight": math.inf}], r"options\.terms\.0\.weight: .* finite"),
        ([{"loss": "dice", "end": 0.5}], "are of a ramp; needed: `schedule: linear`"),
        ([{"loss": "dice", "schedule": "linear", "start": 0.5, "end": 0.4}], r"start 0\.5 is after end 0\.4"),
        ([{"loss": "dice", "schedule": "linear", "start": 0.3}], r"all weights are 0 from 0 to 0\.3 of training"),
        ([{"loss": "dice", "weight": 0}], "all weights are 0 from 0 to 1 of training"),
    ],
)
def test_wrong_terms_are_config_errors_that_name_the_term(terms, message):
    with pytest.raises(ConfigError, match=message):
        resolved("losses", Plugin(name="weighted_sum", options={"terms": terms}))


def test_what_a_term_finds_wrong_with_the_data_names_the_term():
    with pytest.raises(InputError, match=r"terms\.1 \(weighted_cross_entropy\): the training data has no labelled pixel"):
        built("dice", "weighted_cross_entropy", pixels=(0, 0, 0, 0))
    fixed = {"name": "weighted_cross_entropy", "options": {"weights": "fixed", "fixed": {"c9": 1}}}
    with pytest.raises(ConfigError, match=r"terms\.1 \(weighted_cross_entropy\): .*no class is called 'c9'"):
        built("dice", {"loss": fixed})


@pytest.mark.parametrize("terms", [REBALANCE, [{"loss": "hausdorff", "weight": 0.1}, "dice"]])
def test_the_contract_holds_for_other_terms(terms):
    check_loss(weighted_sum, {"terms": terms})


class Stopped(Exception):
    pass


def test_a_ramp_goes_on_where_a_stopped_run_was(tmp_path):
    """And is no constant: with the last weights from the start on, training ends elsewhere."""

    def stop(event):
        if event["event"] == "epoch" and event["epoch"] == 2:
            raise Stopped

    snapshot = shapes(open_store(str(tmp_path / "data")))
    ramp = {"loss": {"name": "weighted_sum", "options": {"terms": REBALANCE}}, "epochs": 3}
    whole = train(snapshot, open_store(str(tmp_path / "whole")), **ramp)
    cut = open_store(str(tmp_path / "cut"))
    with pytest.raises(Stopped):
        train(snapshot, cut, report=stop, **ramp)
    events = []
    resumed = train(snapshot, cut, report=events.append, **ramp)
    assert events[0]["epochs_done"] == 1
    assert resumed["digest"] == whole["digest"]
    assert [entry["loss"] for entry in resumed["history"]] == [entry["loss"] for entry in whole["history"]]
    constant = [{"loss": "cross_entropy", "weight": 0.01}, {"loss": "boundary", "weight": 0.99}]
    flat = {"loss": {"name": "weighted_sum", "options": {"terms": constant}}, "epochs": 3}
    assert train(snapshot, open_store(str(tmp_path / "flat")), **flat)["digest"] != whole["digest"]
