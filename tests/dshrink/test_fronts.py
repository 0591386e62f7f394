"""Fronts of accuracy against throughput: dominance, hypervolume, and points out of results."""

from __future__ import annotations

import csv
import json
import math
import random
import statistics
from dataclasses import replace

import onnx
import pytest
from onnx import TensorProto, helper

from dshrink.cli import grids
from dshrink.cli.bench import print_results
from dshrink.cli.console import out
from dshrink.front_results import front_rows, load_fronts, save_fronts
from dshrink.fronts import (
    Front,
    FrontError,
    FrontPoint,
    MeanWithInterval,
    accuracy_interval,
    dominates,
    half_width,
    hypervolume,
    mean_interval,
    pareto_front,
    wilson_interval,
)
from dshrink.merge.export import METADATA_KEY
from dshrink.operations.bench_networks import BenchmarkError, network_of_file
from dshrink.operations.bench_rows import Standing, benchmark_result
from dshrink.results import ResultsError, load_results, save_results
from latency_tables.schema import Conditions
from profiler.levels import levelled
from profiler.measurement import Measurement
from profiler.replies import Reply, Samples

# Dominance


def around(mean, half):
    return MeanWithInterval(mean=mean, low=mean - half, high=mean + half)


def point(fps, percent, *, fps_noise=0.0, noise=0.0, method="searched", **more):
    return FrontPoint(
        **{
            **{"method": method, "network": f"{fps}", "model": "toy", "kept_blocks": None},
            **{"seeds": (0,), "of_seeds": ((fps, percent),), "validation_images": 1000},
            **more,
        },
        throughput_fps=around(fps, fps_noise),
        accuracy_percent=around(percent, noise),
    )


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        # Without noise it is dominance as everybody knows it.
        (point(20, 90), point(10, 80), True),
        (point(20, 90), point(20, 80), True),
        (point(20, 90), point(10, 90), True),
        (point(20, 90), point(20, 90), False),
        (point(20, 80), point(10, 90), False),
        # As fast within the noise, and clearly more accurate: it need not have the faster mean.
        (point(20, 90, fps_noise=0.1), point(20.1, 80), True),
        (point(20, 90, fps_noise=0.1), point(20.2, 80), False),
        # Clearly faster, but its mean is less accurate, be it within the noise.
        (point(20, 89.9, noise=1), point(10, 90, noise=1), False),
        (point(20, 90, noise=1), point(10, 90, noise=1), True),
        # Better in both, in neither clearly.
        (point(20, 91, fps_noise=1, noise=1), point(19, 90, fps_noise=1, noise=1), False),
        # Intervals that only touch do meet.
        (point(20, 91, noise=0.5), point(20, 90, noise=0.5), False),
        (point(20, 91, noise=0.49), point(20, 90, noise=0.5), True),
        (point(20, 91, fps_noise=0.5), point(19, 91, fps_noise=0.5), False),
        (point(20, 91, fps_noise=0.5), point(19, 91, fps_noise=0.49), True),
    ],
)
def test_a_point_dominates_what_it_beats_by_more_than_the_noise_of_both(a, b, expected):
    assert dominates(a, b) is expected
    assert not (expected and dominates(b, a))


def test_where_nothing_tells_the_noise_of_an_accuracy_it_alone_beats_nothing():
    known, unknown = point(20, 90.01), point(20, 90.01, validation_images=None)
    worse, unknown_worse = point(20, 50), point(20, 50, validation_images=None)
    assert dominates(known, worse)
    assert not dominates(unknown, worse) and not dominates(known, unknown_worse)
    # Two seeds tell it; and clearly faster at no lower mean is better whatever the noise.
    seeds = {"seeds": (0, 1), "of_seeds": ((20, 90), (20, 90)), "validation_images": None}
    assert dominates(point(20, 90, **seeds), worse)
    assert dominates(point(30, 50, validation_images=None), unknown_worse)


def test_a_row_of_points_within_the_noise_of_each_other_stays():
    row = [point(10 * n, 100 - 0.5 * n, noise=1.0) for n in range(1, 7)]
    assert pareto_front(row) == (True,) * 6
    assert row[0].accuracy_percent.clearly_above(row[-1].accuracy_percent)


def test_an_unproven_lead_of_speed_does_not_save_the_less_accurate():
    best, beaten = point(100, 97, fps_noise=1), point(100.5, 92, fps_noise=1)
    assert pareto_front([beaten, best]) == (False, True)


def test_what_only_a_point_off_the_front_dominates_stays():
    a = point(100, 95, fps_noise=1)
    b = point(103, 90, fps_noise=6)
    c = point(106, 85, fps_noise=1)
    assert dominates(a, b) and dominates(b, c) and not dominates(a, c)
    assert pareto_front([a, b, c]) == (True, False, True)
    assert pareto_front([b, c]) == (True, False)


def noisy_points(seed):
    rng = random.Random(seed)
    return [
        point(
            rng.randint(1, 12),
            rng.randint(1, 12),
            fps_noise=rng.choice((0, 0.5, 1, 4)),
            noise=rng.choice((0, 0.5, 1, 4)),
        )
        for _ in range(9)
    ]


@pytest.mark.parametrize("seed", range(40))
def test_the_front_is_the_one_set_that_dominates_the_rest_and_not_itself(seed):
    points = noisy_points(seed)
    places = range(len(points))
    beats = [[dominates(a, b) for b in points] for a in points]

    def is_front(members):
        inside = any(beats[a][b] for a in members for b in members)
        outside = all(any(beats[a][b] for a in members) for b in places if b not in members)
        return outside and not inside

    sets = [[at for at in places if bits >> at & 1] for bits in range(1 << len(points))]
    (only,) = [members for members in sets if is_front(members)]
    assert pareto_front(points) == tuple(at in only for at in places)


def test_the_most_accurate_point_is_on_the_front_whatever_the_noise():
    for seed in range(40):
        points = noisy_points(seed)
        best = max(points, key=lambda p: (p.accuracy_percent.mean, p.throughput_fps.mean))
        assert pareto_front(points)[points.index(best)]


def test_no_points_have_no_front():
    assert pareto_front([]) == ()


def test_an_interval_holds_its_mean():
    with pytest.raises(FrontError, match="3 is not between 1 and 2"):
        MeanWithInterval(mean=3, low=1, high=2)


# Hypervolume


@pytest.mark.parametrize("seed", range(20))
def test_the_hypervolume_is_the_count_of_unit_squares_below_the_points(seed):
    rng = random.Random(seed)
    means = [(rng.randint(0, 12), rng.randint(0, 12)) for _ in range(rng.randint(1, 8))]
    reference = (rng.randint(0, 3), rng.randint(0, 3))
    squares = sum(
        any(x > left and y > floor for x, y in means)
        for left in range(reference[0], 12)
        for floor in range(reference[1], 12)
    )
    assert hypervolume(means, reference) == squares


def test_the_hypervolume_of_nothing_and_of_what_lies_below_the_reference_is_0():
    assert hypervolume([], (0, 0)) == 0
    assert hypervolume([(5, 1), (1, 5)], (2, 2)) == 0


def test_methods_are_compared_by_hypervolumes_above_one_reference():
    points = [
        point(10, 90, method="searched"),
        point(20, 80, method="searched"),
        point(15, 70, method="random"),
    ]
    front = Front(conditions=(), points=tuple(points), reference_percent=60)
    searched, random = ("searched", ""), ("random", "")
    assert front.series == (searched, random)
    assert front.hypervolume == 10 * 30 + 10 * 20
    assert front.series_hypervolume(searched) == (front.hypervolume, None)
    assert front.series_hypervolume(random) == (15 * 10, None)
    assert front.on_front == (True, True, False)


def test_a_hypervolume_over_seeds_is_the_mean_of_theirs_with_its_interval():
    two = {"seeds": (0, 1)}
    slow = point(10, 90, **two, of_seeds=((10, 89), (10, 91)))
    fast = point(20, 80, **two, of_seeds=((20, 78), (20, 82)))
    front = Front(conditions=(), points=(slow, fast), reference_percent=70)
    of_seeds = [20 * 8 + 10 * 11, 20 * 12 + 10 * 9]
    found = front.series_hypervolume(("searched", ""))
    assert found == pytest.approx((sum(of_seeds) / 2, half_width(of_seeds)))
    # The order of the seeds' points changes, so that it is not the volume of the means.
    crossed = [
        point(15, 80, **two, of_seeds=((10, 90), (20, 70))),
        point(15, 80, **two, of_seeds=((20, 80), (10, 90))),
    ]
    front = Front(conditions=(), points=tuple(crossed), reference_percent=60)
    of_seeds = [10 * 30 + 10 * 20, 10 * 30 + 10 * 10]
    found = front.series_hypervolume(("searched", ""))
    assert found == pytest.approx((sum(of_seeds) / 2, half_width(of_seeds)))
    assert found[0] != front.hypervolume == 15 * 20
    other = point(30, 75, seeds=(0, 2), of_seeds=((30, 75), (30, 75)))
    volume = 10 * 20 + 20 * 5
    front = Front(conditions=(), points=(slow, other), reference_percent=70)
    assert front.series_hypervolume(("searched", "")) == (volume, None)


def test_recipes_of_one_method_have_hypervolumes_of_their_own():
    points = [point(10, 90, recipe="short"), point(10, 95, recipe="long")]
    front = Front(conditions=(), points=tuple(points), reference_percent=60)
    assert front.series == (("searched", "short"), ("searched", "long"))
    assert [front.series_hypervolume(one)[0] for one in front.series] == [300, 350]


def students_share(t, freedom):
    """Of Student's distribution between -t and t, by Simpson's rule."""
    scale = math.gamma((freedom + 1) / 2) / math.gamma(freedom / 2)
    scale /= math.sqrt(freedom * math.pi)
    step = t / 2000
    weights = [1, *(4 if n % 2 else 2 for n in range(1, 2000)), 1]
    density = (scale * (1 + (n * step) ** 2 / freedom) ** (-(freedom + 1) / 2) for n in range(2001))
    return 2 * step / 3 * sum(w * d for w, d in zip(weights, density, strict=True))


@pytest.mark.parametrize("count", [*range(2, 32), 101])
def test_the_interval_over_seeds_is_students(count):
    rng = random.Random(count)
    values = [rng.gauss(90, 0.1) for _ in range(count)]
    found = mean_interval(values)
    assert found.mean == pytest.approx(sum(values) / count)
    t = (found.high - found.mean) / (statistics.stdev(values) / math.sqrt(count))
    assert students_share(t, count - 1) == pytest.approx(0.95, abs=1e-4)
    assert found.high - found.mean == pytest.approx(found.mean - found.low)


def test_intervals_end_where_the_quantity_does():
    found = mean_interval([99.0, 100.0, 98.0], highest=100)
    assert (found.mean, found.high) == (99, 100)
    assert mean_interval([0.0, 1.0]).low == 0
    assert mean_interval([0.1] * 3).low == mean_interval([0.1] * 3).high


@pytest.mark.parametrize(("right", "images"), [(0, 50), (7, 50), (719, 719), (600, 719)])
def test_wilsons_ends_are_the_shares_that_the_found_one_is_just_compatible_with(right, images):
    share = right / images
    for end in wilson_interval(share, images):
        apart = abs(share - end)
        z = apart / math.sqrt(end * (1 - end) / images) if 0 < end < 1 else None
        assert apart == pytest.approx(0, abs=1e-12) if z is None else z == pytest.approx(1.959964)


@pytest.mark.parametrize("percent", [0.0, 90.0, 100.0])
def test_seeds_of_equal_accuracy_know_it_no_better_than_the_images_tell(percent):
    found = accuracy_interval([percent] * 3, 719)
    low, high = wilson_interval(percent / 100, 719)
    assert (found.mean, found.low, found.high) == pytest.approx((percent, 100 * low, 100 * high))
    assert found.high - found.low > 0.5
    assert accuracy_interval([percent], 719) == found
    assert accuracy_interval([percent] * 3, None).low == percent


def test_seeds_that_differ_more_than_the_images_tell_give_the_interval():
    values = [80.0, 90.0, 85.0]
    assert accuracy_interval(values, 10**6) == mean_interval(values, highest=100.0)


# Points out of results

COLUMNS = [
    *("network", "model", "kept_blocks", "device", "runtime", "precision", "batch", "threads"),
    *("throughput_fps", "throughput_low_fps", "throughput_high_fps"),
    *("accuracy_percent", "method", "seed"),
]
NEWER = [*COLUMNS, "data", "recipe", "resolution", "validation_images"]


def line(**changes):
    return {
        **dict.fromkeys(COLUMNS, ""),
        **{"network": "net.onnx", "model": "toy", "kept_blocks": 3, "device": "shed"},
        **{"runtime": "onnxruntime", "precision": "fp32", "batch": 1, "threads": 1},
        **{"throughput_fps": 100.0, "accuracy_percent": 90.0, "method": "searched", "seed": 0},
        **changes,
    }


def write(path, lines, columns=COLUMNS):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(lines)
    return path


def read(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def fronts_of(tmp_path, lines, columns=COLUMNS, **options):
    return load_fronts([write(tmp_path / "r.csv", lines, columns)], **options)


def points_of(tmp_path, lines, columns=COLUMNS):
    (front,) = fronts_of(tmp_path, lines, columns).fronts
    return front.points


def test_seeds_of_one_network_are_one_point_with_their_mean_and_interval(tmp_path):
    lines = [
        line(seed=2, accuracy_percent=94, throughput_fps=102),
        line(seed=0, accuracy_percent=90, throughput_fps=98),
        line(seed=1, accuracy_percent=92, throughput_fps=100),
    ]
    (found,) = points_of(tmp_path, lines)
    assert found.seeds == (0, 1, 2)
    assert found.of_seeds == ((98, 90), (100, 92), (102, 94))
    half = 4.3026527 * 2 / 3**0.5
    assert found.accuracy_percent.mean == 92
    assert found.accuracy_percent.low == pytest.approx(92 - half)
    assert found.throughput_fps.high == pytest.approx(100 + half)


def test_equal_speeds_are_known_no_better_than_each_was_measured(tmp_path):
    ends = {"throughput_low_fps": 97, "throughput_high_fps": 105}
    (found,) = points_of(tmp_path, [line(seed=0, **ends), line(seed=1, **ends)])
    assert found.throughput_fps == MeanWithInterval(mean=100, low=97, high=105)


@pytest.mark.parametrize(
    "change",
    [
        {"method": "random"},
        {"model": "other"},
        {"kept_blocks": 4},
        {"kept_blocks": "", "network": "other.onnx"},
    ],
)
def test_what_differs_by_more_than_the_seed_stays_apart(change, tmp_path):
    assert len(points_of(tmp_path, [line(), line(seed=1, **change)])) == 2


@pytest.mark.parametrize("change", [{"recipe": "kd360"}, {"resolution": "64x64"}])
def test_recipes_and_resolutions_are_never_averaged(change, tmp_path):
    lines = [line(recipe="kd180", resolution="32x32"), line(recipe="kd180", resolution="32x32")]
    lines[1] |= {"seed": 1, **change}
    first, second = points_of(tmp_path, lines, NEWER)
    assert (first.recipe, first.resolution) == ("kd180", "32x32")
    assert {"recipe": second.recipe, "resolution": second.resolution}.items() >= change.items()


def test_two_studies_of_one_row_are_two_series(tmp_path):
    paths = []
    for recipe, percent in (("kd180", 70.0), ("kd360", 71.0)):
        lines = [line(recipe=recipe, seed=n, accuracy_percent=percent + n) for n in (0, 1)]
        paths.append(write(tmp_path / f"{recipe}.csv", lines, NEWER))
    (front,) = load_fronts(paths).fronts
    assert front.series == (("searched", "kd180"), ("searched", "kd360"))
    assert [point.accuracy_percent.mean for point in front.points] == [70.5, 71.5]
    assert [point.seeds for point in front.points] == [(0, 1), (0, 1)]


def test_accuracies_of_other_images_or_of_images_nobody_names_never_meet(tmp_path):
    lines = [line(data="aa"), line(data="bb", seed=1), line(data="", seed=2)]
    fronts = fronts_of(tmp_path, lines, NEWER).fronts
    assert [front.conditions[-1] for front in fronts] == ["aa", "bb", ""]
    assert [front.points[0].seeds for front in fronts] == [(0,), (1,), (2,)]
    old = write(tmp_path / "old.csv", [line(seed=3)])
    new = write(tmp_path / "new.csv", lines[2:], NEWER)
    (front,) = load_fronts([old, new]).fronts
    assert front.points[0].seeds == (2, 3)


def test_the_number_of_images_bounds_how_well_one_seed_knows_the_accuracy(tmp_path):
    lines = [
        line(accuracy_percent=90.01, validation_images=719),
        line(accuracy_percent=90.0, validation_images=719, method="random"),
        line(accuracy_percent=80.0, validation_images=719, method="width"),
        line(accuracy_percent=10.0, method="scratch"),
    ]
    (front,) = fronts_of(tmp_path, lines, NEWER).fronts
    assert front.on_front == (True, True, False, True)
    assert [point.validation_images for point in front.points] == [719, 719, 719, None]
    rows = front_rows(front)
    ends = [100 * end for end in wilson_interval(0.9, 719)]
    assert [rows[1]["accuracy_low_percent"], rows[1]["accuracy_high_percent"]] == ends
    assert rows[3]["accuracy_low_percent"] is rows[3]["accuracy_high_percent"] is None


def test_results_without_a_seed_stay_apart(tmp_path):
    assert len(points_of(tmp_path, [line(seed=""), line(seed="")])) == 2


@pytest.mark.parametrize(
    ("one", "other", "name"),
    [
        ("width_0.5_seed0.onnx", "width_0.5_seed1.onnx", "width_0.5.onnx"),
        ("width-0.5-s00.onnx", "width-0.5-s01.onnx", "width-0.5.onnx"),
        ("seed=0 wide.onnx", "seed=1 wide.onnx", "wide.onnx"),
    ],
)
def test_names_are_compared_without_the_seed(one, other, name, tmp_path):
    lines = [line(network=one, kept_blocks=""), line(network=other, kept_blocks="", seed=1)]
    (found,) = points_of(tmp_path, lines)
    assert found.network == name


def test_names_without_their_seed_group_what_keeps_different_numbers_of_blocks(tmp_path):
    names = [f"searched_6.5ms_seed{seed}.onnx" for seed in (0, 1)]
    lines = [line(network=names[0]), line(network=names[1], seed=1, kept_blocks=4)]
    (found,) = points_of(tmp_path, lines)
    assert (found.seeds, found.kept_blocks) == ((0, 1), None)


@pytest.mark.parametrize("name", ["a_seed10.onnx", "plans1.onnx", "k9_1.onnx"])
def test_what_is_no_seed_stays_in_a_name(name, tmp_path):
    lines = [line(network=name, seed=1), line(network="b.onnx", seed=2)]
    (found,) = points_of(tmp_path, lines)  # by their count of kept blocks
    assert found.network == name


def test_two_plans_of_one_keep_count_stay_apart_by_name(tmp_path):
    lines = [line(network=name, seed=seed) for name in ("fast", "slow") for seed in (0, 1)]
    assert [p.seeds for p in points_of(tmp_path, lines)] == [(0, 1), (0, 1)]


def test_the_same_seed_of_the_same_network_twice_is_one_line_with_both_places(tmp_path):
    with pytest.raises(FrontError, match=r"line 3 \(net.onnx\): searched with seed 0 is giv"):
        fronts_of(tmp_path, [line(), line()])
    path = write(tmp_path / "a.csv", [line()])
    with pytest.raises(FrontError, match=r"given already by .*a\.csv: line 2 \(net.onnx\), unde"):
        load_fronts([path, path])


@pytest.mark.parametrize(
    "change",
    [
        *({"device": "barn"}, {"runtime": "tensorrt"}, {"precision": "fp16"}, {"batch": 8}),
        *({"threads": 2}, {"clock": "wall"}, {"statistic": "median"}, {"launch": "cuda_graph"}),
        {"cache_mode": "cold"},
    ],
)
def test_results_of_different_conditions_never_meet(change, tmp_path):
    columns = [*COLUMNS, "clock", "statistic", "launch", "cache_mode"]
    lines = [line(), line(seed=1, **change), line(seed=1)]
    first, second = fronts_of(tmp_path, lines, columns).fronts
    assert [len(front.points) for front in (first, second)] == [1, 1]
    assert (first.points[0].seeds, second.points[0].seeds) == ((0, 1), (1,))
    assert str(next(iter(change.values()))) in second.conditions


def test_a_file_without_the_newer_columns_means_what_it_meant(tmp_path):
    old = write(tmp_path / "old.csv", [line()])
    named = [line(seed=1, launch="plain", cache_mode="hot")]
    new = write(tmp_path / "new.csv", named, [*COLUMNS, "launch", "cache_mode"])
    (front,) = load_fronts([old, new]).fronts
    assert front.points[0].seeds == (0, 1)


def test_lines_without_accuracy_or_throughput_are_counted_and_left_out(tmp_path):
    lines = [line(), line(accuracy_percent=""), line(throughput_fps="")]
    loaded = fronts_of(tmp_path, lines)
    assert (len(loaded.fronts[0].points), loaded.left_out) == (1, 2)


def test_a_model_leaves_all_others_out(tmp_path):
    lines = [line(), line(model="other", accuracy_percent="")]
    loaded = fronts_of(tmp_path, lines, model="toy")
    assert (len(loaded.fronts), loaded.left_out) == (1, 0)
    with pytest.raises(FrontError, match=r"no results of vgg, only of other, toy"):
        fronts_of(tmp_path, lines, model="vgg")


def test_hypervolumes_start_at_the_lowest_accuracy_unless_told_otherwise(tmp_path):
    lines = [line(), line(method="random", accuracy_percent=80)]
    (front,) = fronts_of(tmp_path, lines).fronts
    assert (front.reference_percent, front.hypervolume) == (80, 1000)
    (front,) = fronts_of(tmp_path, lines, reference_percent=10).fronts
    assert front.hypervolume == 8000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accuracy_percent": 101}, "accuracy_percent must be between 0 and 100, got 101"),
        ({"accuracy_percent": "good"}, "accuracy_percent must be a finite number, got good"),
        ({"throughput_fps": 0}, "throughput_fps must be a finite number above 0, got 0"),
        ({"throughput_low_fps": 101}, "throughput_fps must be between throughput_low_fps and"),
        ({"seed": -1}, "seed must be a whole number, 0 or more, got -1"),
        ({"kept_blocks": "all"}, "kept_blocks must be a whole number"),
        ({"validation_images": "0"}, "validation_images must be 1 or more, got 0"),
        ({"validation_images": "719.5"}, "validation_images must be a whole number"),
    ],
)
def test_a_bad_value_is_named_with_its_line(change, message, tmp_path):
    with pytest.raises(ResultsError, match=rf"r\.csv: line 2 \(net.onnx\): {message}"):
        fronts_of(tmp_path, [line(**change)], NEWER)


def test_without_any_accuracy_the_message_says_how_to_get_it(tmp_path):
    columns = [name for name in COLUMNS if name != "accuracy_percent"]
    for lines, names in (([line(accuracy_percent="")], COLUMNS), ([line()], columns)):
        with pytest.raises(FrontError, match=r"in any row: `dshrink merge .* --data DIR` writes"):
            fronts_of(tmp_path, lines, names)
    with pytest.raises(FrontError, match="no network has both accuracy_percent and throughput_fps"):
        fronts_of(tmp_path, [line(throughput_fps="")])
    with pytest.raises(
        ResultsError, match=r"no rows below the header: write it with `dshrink bench"
    ):
        fronts_of(tmp_path, [])


def test_the_csv_of_a_front_has_a_line_a_point(tmp_path):
    lines = [
        *(line(seed=seed, accuracy_percent=90 + seed) for seed in (0, 1)),
        line(method="random", throughput_fps=50, accuracy_percent=70),
        line(device="barn", method=""),
    ]
    loaded = fronts_of(tmp_path, lines)
    save_fronts(loaded.fronts, tmp_path / "new" / "front.csv")
    first, beaten, other = read(tmp_path / "new" / "front.csv")
    assert (first["method"], first["seeds"], first["on_front"]) == ("searched", "0 1", "1")
    assert (first["accuracy_percent"], first["reference_percent"]) == ("90.5", "70.0")
    assert float(first["method_hypervolume"]) == float(first["hypervolume"]) == 100 * 20.5
    assert float(first["accuracy_high_percent"]) == pytest.approx(90.5 + 12.7062047 / 2)
    assert (beaten["accuracy_low_percent"], beaten["accuracy_high_percent"]) == ("", "")
    assert float(first["method_half_width"]) == pytest.approx(half_width([2000, 2100]))
    assert (beaten["on_front"], beaten["method_hypervolume"]) == ("0", "0.0")
    assert beaten["method_half_width"] == ""
    assert (other["device"], other["on_front"]) == ("barn", "1")


# What ONNX files say of themselves


def write_onnx(path, **known):
    """An ONNX file of one Identity, with this metadata."""
    shape = [1, 3, 8, 8]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", ends[:1], ends[1:])
    model = helper.make_model(graph)
    helper.set_model_props(model, {METADATA_KEY: json.dumps(known)})
    onnx.save(model, path)
    return path


CONDITIONS = Conditions(device="shed", runtime="onnxruntime", runtime_version="1.31.1")


def result_of(candidate):
    samples = Samples(wall_ns=(10_000_000,) * 40)
    reply = Reply(job_id=candidate.job.id, round=0, attempt=0, board="shed", outcome=samples)
    measurement = Measurement(job_id=candidate.job.id, replies=(reply,), clock="wall")
    latency = levelled([measurement], CONDITIONS)[candidate.job.id]
    return benchmark_result(candidate, measurement, latency, {}, CONDITIONS, None, Standing())


def test_bench_writes_what_the_file_says_of_itself_and_the_front_reads_it(tmp_path):
    files = [
        write_onnx(
            tmp_path / f"k9_seed{seed}.onnx",
            **{"model": "toy", "keep_mask": "101", "method": "searched"},
            **{"seed": seed, "accuracy_percent": 90.5 + seed, "validation_images": 719},
            **{"data": "0123abcd", "recipe": "digits"},
        )
        for seed in (0, 1)
    ]
    files.append(write_onnx(tmp_path / "foreign.onnx"))
    results = [result_of(network_of_file(file, 1)) for file in files]
    said = [(r.method, r.seed, r.accuracy_percent) for r in results]
    assert said == [("searched", 0, 90.5), ("searched", 1, 91.5), ("", None, None)]
    of_images = [(r.data, r.validation_images, r.recipe, r.resolution) for r in results[1:]]
    assert of_images == [("0123abcd", 719, "digits", "8x8"), ("", None, "", "8x8")]
    save_results(results, tmp_path / "r.csv")
    *_, last = read(tmp_path / "r.csv")
    assert (last["method"], last["seed"], last["accuracy_percent"]) == ("", "", "")
    assert (last["data"], last["validation_images"], last["recipe"]) == ("", "", "")
    loaded = load_fronts([tmp_path / "r.csv"])
    (found,) = loaded.fronts[0].points
    assert (found.seeds, found.kept_blocks, loaded.left_out) == ((0, 1), 2, 1)
    assert found.accuracy_percent.mean == 91
    assert found.throughput_fps.mean == pytest.approx(100)
    assert (found.recipe, found.resolution, found.validation_images) == ("digits", "8x8", 719)
    assert loaded.fronts[0].conditions[-1] == "0123abcd"
    assert load_results(tmp_path / "r.csv").results == tuple(results)


@pytest.mark.parametrize(("sides", "said"), [((), ""), ((0, 8), ""), ((8, 16), "8x16")])
def test_a_resolution_that_an_input_does_not_fix_is_left_empty(sides, said, tmp_path):
    candidate = network_of_file(write_onnx(tmp_path / "a.onnx"), 1)
    assert result_of(replace(candidate, resolution=sides)).resolution == said


@pytest.mark.parametrize(
    ("known", "message"),
    [
        (
            {"accuracy_percent": 100.5},
            "accuracy_percent must be a number from 0 to",
        ),
        ({"accuracy_percent": "90"}, 'got "90": write the file again with `dshrink merge`'),
        ({"seed": True}, "field 'seed' must be an integer or null, got true"),
        ({"validation_images": 0}, "validation_images must be a number from 1"),
    ],
)
def test_metadata_that_cannot_be_is_refused_with_the_file(known, message, tmp_path):
    with pytest.raises(BenchmarkError, match=f"a.onnx: .*{message}|{message}"):
        network_of_file(write_onnx(tmp_path / "a.onnx", **known), 1)


def test_bench_prints_accuracies_where_any_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr(grids, "screen_width", lambda: 200)
    known = result_of(network_of_file(write_onnx(tmp_path / "a.onnx", accuracy_percent=91.234), 1))
    foreign = result_of(network_of_file(write_onnx(tmp_path / "b.onnx"), 1))
    for results, expected in (([known, foreign], True), ([foreign], False)):
        with out.capture() as printed:
            print_results(results)
        assert ("accuracy" in printed.get()) == ("91.23 %" in printed.get()) == expected
