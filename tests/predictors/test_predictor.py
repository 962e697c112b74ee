import hashlib
import json
import math
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_gengap import available_predictors, load_predictor
from lightning_gengap.errors import PredictorError
from lightning_gengap.predictors.components import Memoriser
from lightning_gengap.predictors.files import dumps, loads
from lightning_gengap.predictors.observations import Observation
from lightning_gengap.predictors.parts import Feature, Interval, LossHead, Scales
from lightning_gengap.predictors.predictor import Predictor
from lightning_gengap.predictors.specification import Specification, Term
from tests.tiny_predictors import tiny_predictor

OBSERVED = (Observation(0.5, 0.7, 0.1, samples=100, kin="recipe"), Observation(0.6, 0.5, 0.1, samples=50, kin="task"))


def feature(name: str = "train_loss", coefficient: float = -0.05, **changes: Any) -> Feature:
    made = Feature(name, "log", coefficient, centre=0.0, low=-2.0, high=2.0, deviation=1.0, floor=1e-6)
    return replace(made, **changes)


SPECIFICATION = Specification(
    "tiny_v1", (Term("train_loss", "log"), Term("train_samples", "log", 0.1, "log_size_above"))
)


def predictor(**changes: Any) -> Predictor:
    made = Predictor(
        name="tiny_v1",
        measures=("fit",),
        intercept=0.1,
        features=(feature(), feature("train_samples", -0.005, scale="log_size_above")),
        interval=Interval(0.9, 0.05, -0.5, 0.8),
        prior_gap=0.2,
        specification=SPECIFICATION,
        provenance={"runs": 1, "tasks": 1},
        scores={},
    )
    return replace(made, **changes)


NEIGHBOUR = "difficulty/neighbour_1_accuracy"
VALUES = {"train_accuracy": 0.9, "classes": 10.0, "train_loss": 0.5, "train_samples": 3.0}


def bounded(kept: float) -> Specification:
    return replace(SPECIFICATION, components=(Memoriser(NEIGHBOUR, kept),))


def test_the_gap_is_linear_in_transformed_values():
    expected = 0.1 - 0.05 * math.log(0.5) - 0.005 * math.log(3.0)
    assert predictor().predict(VALUES).gap == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("loss", [1.0, 0.5, 0.2, 5.0])
def test_contributions_add_up_to_the_gap(loss: float):
    prediction = predictor().predict(VALUES | {"train_loss": loss})
    assert {"intercept", "limits", "train_loss", "train_samples"} == set(prediction.contributions)
    assert math.fsum(prediction.contributions.values()) == pytest.approx(prediction.gap, abs=1e-15)
    assert prediction.contributions["limits"] == 0


def test_columns_and_rows_are_one_formula():
    head = LossHead(-1.0, (feature("predicted_gap", 0.5), feature("train_loss", -0.1)), -1.0, 1.0)
    of = predictor(specification=bounded(0.1), observed=OBSERVED, loss_head=head)
    rng = np.random.default_rng(0)
    columns = {
        "train_accuracy": rng.uniform(0.2, 1, 60),
        "classes": np.full(60, 10.0),
        "train_loss": np.exp(rng.normal(0, 2, 60)),
        "train_samples": np.exp(rng.normal(0, 3, 60)),
        NEIGHBOUR: rng.uniform(0, 1, 60),
    }
    columns["train_loss"][:6] = [math.nan, math.inf, -math.inf, 0.0, 1e-9, 1e9]
    columns[NEIGHBOUR][6:9] = math.nan
    every = of.predict_columns(columns)
    for row in range(60):
        values = {name: float(column[row]) for name, column in columns.items()}
        one = of.predict({name: value for name, value in values.items() if math.isfinite(value)})
        found = (every.gap[row], every.lower[row], every.upper[row], every.abstained[row])
        assert found == (one.gap, one.lower, one.upper, one.abstained)
        assert every.loss_gap is not None
        assert one.loss_gap == tuple(end[row] for end in every.loss_gap)
        assert one.contributions.items() <= {name: part[row] for name, part in every.contributions.items()}.items()
    assert 0.2 < every.abstained.mean() < 0.9


def test_gap_is_limited_to_the_train_accuracy_and_limits_say_by_how_much():
    steep = predictor(features=(feature(coefficient=-3.0),))
    high, low = (steep.predict(VALUES | {"train_loss": loss}) for loss in (0.2, 5.0))
    assert (high.gap, low.gap) == (0.9, 0.0)
    assert high.contributions["limits"] < -1
    assert low.contributions["limits"] > 1


def test_interval_scales_with_gap_plus_offset_and_contains_the_gap():
    prediction = predictor().predict(VALUES)
    assert prediction.lower == pytest.approx(prediction.gap - 0.5 * (prediction.gap + 0.05))
    assert prediction.upper == pytest.approx(prediction.gap + 0.8 * (prediction.gap + 0.05))
    assert prediction.in_support
    assert not prediction.abstained


def test_near_the_support_the_interval_widens_with_distance():
    inside = predictor().predict(VALUES | {"train_loss": math.exp(-2.0)})
    near = predictor().predict(VALUES | {"train_loss": math.exp(-2.5)})
    assert not near.in_support
    assert not near.abstained
    assert near.outside == ("train_loss",)
    assert (near.upper - near.lower) / (near.gap + 0.05) == pytest.approx(
        1.5 * (inside.upper - inside.lower) / (inside.gap + 0.05)
    )


def test_flags_widen_and_are_listed():
    plain, doubtful = predictor().predict(VALUES), predictor().predict(VALUES, ["augmented_probe"])
    assert doubtful.outside == ("augmented_probe",)
    assert not doubtful.in_support
    assert doubtful.upper - doubtful.lower == pytest.approx(2 * (plain.upper - plain.lower))


@pytest.mark.parametrize(
    ("change", "outside"),
    [
        ({"train_loss": math.exp(3.5)}, ("train_loss",)),
        ({"train_loss": math.nan}, ("train_loss",)),
        ({"train_accuracy": 0.3}, ()),
    ],
)
def test_beyond_near_missing_or_untrained_abstains(change: dict[str, float], outside: tuple[str, ...]):
    prediction = predictor().predict(VALUES | change)
    assert prediction.abstained
    assert prediction.outside == outside
    assert (prediction.lower, prediction.upper) == (0.0, (VALUES | change)["train_accuracy"])
    assert prediction.gap == min(0.2, (VALUES | change)["train_accuracy"])
    assert math.fsum(prediction.contributions.values()) == pytest.approx(prediction.gap)


def test_train_size_is_near_up_to_twenty_times_the_largest():
    largest = math.exp(2.0)
    assert not predictor().predict(VALUES | {"train_samples": 19.9 * largest}).abstained
    assert predictor().predict(VALUES | {"train_samples": 20.1 * largest}).abstained


def test_what_is_a_multiple_of_log_train_size_reaches_as_far_as_train_size_does():
    bounds = {"coefficient": 0.1, "centre": 0.0, "low": -0.2, "high": 0.3, "deviation": 0.1, "floor": 0.0}
    values = np.array([0.3, 0.3 + math.log(20), -0.2 - math.log(20), math.nan])
    for scale, expected in (
        ("log_size", [0, 1, 1, math.inf]),
        ("log_size_above", [0, 1, 10 * math.log(20), math.inf]),
        ("deviation", [0, 10 * math.log(20), 10 * math.log(20), math.inf]),
    ):
        of = Feature("perturbation/excess_by_size", "identity", **bounds, scale=scale)
        assert of.distance(values) == pytest.approx(expected)


@pytest.mark.parametrize("scale", ["deviation", "log_size_above"])
@pytest.mark.parametrize("transform", ["identity", "log"])
def test_the_nearest_accepted_values_are_one_deviation_outside_or_any_larger_train_size(transform: str, scale: str):
    of = feature(low=0.1, high=0.3, deviation=0.5, transform=transform, scale=scale)
    moved = of.transformed(
        of.nearest(np.exp([-9.0, -0.2, 0.2, 0.7, 0.9]) if transform == "log" else np.array([-9.0, -0.2, 0.2, 0.7, 0.9]))
    )
    assert moved == pytest.approx([-0.4, -0.2, 0.2, 0.7, 0.9 if scale == "log_size_above" else 0.8])


@pytest.mark.parametrize(("neighbour", "bound"), [(0.85, 0.85), (0.99, 0.9), (0.3, None)])
def test_test_accuracy_hardly_falls_below_the_memorisers_or_the_train_accuracy(neighbour: float, bound: float | None):
    plain, values = predictor(), VALUES | {NEIGHBOUR: neighbour}
    before = plain.predict(VALUES).gap
    prediction = replace(plain, specification=bounded(0.2)).predict(values)
    expected = before if bound is None else 0.9 - (bound - 0.2 * (bound - (0.9 - before)))
    assert prediction.gap == pytest.approx(expected, abs=1e-12)
    assert prediction.contributions["memoriser"] == pytest.approx(expected - before, abs=1e-12)
    assert math.fsum(prediction.contributions.values()) == pytest.approx(prediction.gap, abs=1e-15)


def test_a_memoriser_is_needed_and_without_its_value_the_predictor_abstains():
    bound = predictor(specification=bounded(0.1))
    assert NEIGHBOUR in bound.needs
    assert bound.predict(VALUES).abstained
    assert bound.predict(VALUES).outside == (NEIGHBOUR,)


def test_models_below_the_memoriser_keep_their_order():
    bound = predictor(specification=bounded(0.1))
    gaps = [bound.predict(VALUES | {"train_loss": loss, NEIGHBOUR: 0.85}).gap for loss in (0.8, 0.5, 0.3)]
    assert gaps == sorted(set(gaps))


def test_train_accuracy_and_classes_are_always_needed():
    with pytest.raises(PredictorError, match="got values without a finite 'classes'"):
        predictor().predict({"train_accuracy": 0.9})


def test_round_trip_keeps_every_digit_and_the_specification():
    fitted = replace(
        SPECIFICATION,
        bounds=(Term("train_accuracy"),),
        components=(Memoriser(NEIGHBOUR, 0.1),),
        grid="mine",
        offset=0.3,
    )
    for made in (predictor(), predictor(specification=fitted)):
        assert loads(dumps(made), "here") == made


def damaged(**changes: object) -> str:
    """A file whose hash matches its changed content."""
    content = json.loads(dumps(predictor()))
    content.pop("sha256")
    for key, value in changes.items():
        if value is None:
            content.pop(key)
        else:
            content[key] = value
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return json.dumps(content | {"sha256": hashlib.sha256(canonical.encode()).hexdigest()})


def specified(**changes: object) -> str:
    """A file whose specification is changed."""
    return damaged(specification=json.loads(json.dumps(asdict(SPECIFICATION))) | changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "text that is not JSON"),
        ("[]", "format 'list'"),
        (dumps(predictor()).replace('"intercept": 0.1', '"intercept": 0.2'), "SHA-256 that does not match"),
        (damaged(format=1), "format 1, expected 2"),
        (damaged(surprise=1), "surprise"),
        (damaged(interval=None), "interval"),
        (damaged(form="additive"), "form"),
        (damaged(measures=["horoscope"]), "horoscope"),
        (damaged(specification=None), "specification"),
        (specified(form="additive"), "for a Specification"),
        (specified(features=[["train_loss", "log"]]), "fields list for a Term"),
        (specified(features=[asdict(Term("margin/h9/median"))]), "which this version does not measure"),
        (specified(bounds=[asdict(Term("train_loss", "logit"))]), "transform 'logit'"),
        (specified(offset="wide"), "offset 'wide', which is not a number"),
        (specified(loss_head="always"), "loss head 'always'"),
        (specified(test_accuracy=True), "whose first feature is not train_accuracy"),
        (specified(components=[{"kind": "oracle"}]), "oracle"),
        (damaged(features=[{**feature().__dict__, "name": "margin/h9/median"}]), "which this version does not measure"),
        (damaged(features=[{**feature().__dict__, "transform": "sqrt"}]), "transform 'sqrt'"),
        (damaged(features=[{**feature().__dict__, "scale": "miles"}]), "scale 'miles'"),
        (damaged(prior_gap="much"), "prior gap 'much', which is not a number"),
        (specified(components=[asdict(Memoriser("horoscope", 0.1))]), "memoriser {'horoscope'}, which this version"),
        (specified(components=[asdict(Memoriser(NEIGHBOUR, 0.1)) | {"kept": 1.1}]), "a memoriser that keeps 1.1"),
        (specified(components=[{"kind": "memoriser"}]), "fields ['kind'] for a Memoriser"),
    ],
)
def test_damaged_and_foreign_files_are_refused(text: str, message: str):
    with pytest.raises(PredictorError, match="expected a predictor written by this version") as caught:
        loads(text, "file.json")
    assert message in str(caught.value)


def test_unknown_name_lists_the_bundled_ones(tmp_path: Path):
    with pytest.raises(PredictorError, match=r"one of default, .*default_v3"):
        load_predictor("imagenet_v9")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PredictorError, match="not UTF-8"):
        load_predictor(tmp_path / "binary.json")


@pytest.mark.parametrize("name", available_predictors())
def test_bundled_predictors_load_and_have_scores_and_a_card(name: str):
    loaded = load_predictor(name)
    assert loaded.scores.get("splits") or loaded.scores["by run"]  # a group's tasks are too few to hold out
    card = Path(__file__).parents[2] / "pretrained_predictors" / f"{loaded.name}.md"
    assert loaded.name in card.read_text()


def test_default_is_the_newest_default():
    assert available_predictors()[0] == "default"
    assert load_predictor("default").name.startswith("default_v")


def test_default_prefers_the_image_predictor_where_its_features_are_measured():
    default = load_predictor("default")
    preferred = default.preferred
    assert preferred is not None
    assert preferred.name.startswith("images_v")
    assert {"agreement", "copies", "reference"} <= set(default.measures)
    features = {feature.name: feature for feature in (*default.features, *preferred.features)}
    values = {
        name: math.exp(feature.centre) if feature.transform == "log" else feature.centre
        for name, feature in features.items()
    }
    values |= {"classes": 10.0, "train_accuracy": 0.9}
    for head in (default.loss_head, preferred.loss_head):
        values |= {} if head is None else {f.name: values.get(f.name, 0.5) for f in head.features}
    on_images = default.predict(values)
    assert on_images == preferred.predict(values)
    del values["copies/moved_accuracy"]
    elsewhere = default.predict(values)
    assert elsewhere == replace(default, preferred=None).predict(values)
    assert elsewhere != on_images
    assert not elsewhere.abstained


def test_a_file_holds_one_predictor():
    default = load_predictor("default")
    assert loads(dumps(default), "here") == replace(default, preferred=None)


def test_the_formula_needs_no_torch():
    package = Path(__file__).parents[2] / "lightning_gengap"
    bare = "import sys, types; package = types.ModuleType('lightning_gengap'); "
    bare += f"package.__path__ = [{str(package)!r}]; sys.modules['lightning_gengap'] = package; "
    bare += "import lightning_gengap.predictors.given, lightning_gengap.predictors.specification; "
    subprocess.run([sys.executable, "-c", bare + "assert 'torch' not in sys.modules"], check=True)


def test_the_scale_is_that_of_the_kind_where_the_fit_has_seen_it():
    seen = replace(tiny_predictor(), scales=Scales(1.1, 1.4, 1.7), provenance={"lacking": ["texts", "mixed labels"]})
    assert [seen.scale(kind) for kind in ("images", "tables", "texts", None)] == [1.4, 1.4, 1.7, 1.7]
    assert replace(seen, provenance={}).scale("images") == 1.7
    own = replace(seen, provenance={**seen.provenance, "sources": ["cifar10", "digits"]})
    assert (own.scale("images", "digits"), own.scale("images", "mnist"), own.scale("texts", None)) == (1.1, 1.4, 1.7)
    assert replace(seen, provenance={"sources": ["wine"]}, preferred=own).sources == ("cifar10", "digits", "wine")
