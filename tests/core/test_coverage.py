"""Each bound and mode fails with a probability of at most alpha: simulation with known classes.

A failure is a radius beyond the true one. Allowed: alpha of the trials and four binomial standard
deviations. Probabilities are chosen where the bounds are tight, between 1/2 and 1.
"""

import numpy as np
import pytest
from scipy import stats

from rsray.certification.sampling_plan import SamplingPlan
from rsray.core.bounds import BOUNDS, clopper_pearson_lower, clopper_pearson_upper
from rsray.core.bounds.confidence_sequence import ConfidenceSequence, answers, log_evidence
from rsray.core.evidence import Evidence
from rsray.core.pilot import blocks_worth

ALPHA, N0, N = 0.05, 60, 800
CLASSES = [2, 10, 1000]


def soft_evidence(selection_NK, sums_NK, squares_NK, n):
    """Evidence of soft sums by class; what a soft bound does not look at is left out."""
    top = selection_NK.argmax(axis=1)
    pilot, sums, squares = (
        each[np.arange(len(top)), top] for each in (selection_NK, sums_NK, squares_NK)
    )
    nothing = np.zeros(len(top), dtype=np.int64)
    return Evidence(top, nothing, pilot, nothing, n, nothing, nothing, sums, squares)


def allowed(trials):
    return ALPHA * trials + 4 * np.sqrt(trials * ALPHA * (1 - ALPHA))


def truth(num_classes, shape):
    """Probabilities [K] of class 0 and of the others: alike, one runner-up, or a few."""
    p_a, others = 0.62, num_classes - 1
    weights = {
        "alike": np.ones(others),
        "one": np.r_[1.0, np.full(others - 1, 1e-6)],
        "few": 0.5 ** np.arange(others).clip(max=40),
    }[shape]
    return np.r_[p_a, (1 - p_a) * weights / weights.sum()]


def true_radius(p_K):
    return 0.5 * (stats.norm.ppf(p_K[0]) - stats.norm.ppf(p_K[1:].max()))


def failures(decision, p_K, bound):
    """Bounds beyond the truth, or a wrong class.

    Clopper-Pearson says nothing of the runner-up: what it claims is the first class's probability.
    With more than two classes its radius falls short of the true one however p_A is overstated.
    """
    is_beyond = decision.radius > true_radius(p_K)
    if bound == "clopper-pearson":
        is_beyond = (decision.prediction == 0) & (decision.p_a_lower > p_K[0])
    return int(np.sum(is_beyond | (decision.prediction > 0)))


def is_caught(decision, p_K):
    """Tell whether shares without a bound, as if they were certain, would fail too often."""
    return (decision.count_a / decision.n > p_K[0]).sum() > allowed(len(decision.n))


@pytest.mark.parametrize("num_classes", CLASSES)
@pytest.mark.parametrize("shape", ["alike", "one", "few"])
@pytest.mark.parametrize("bound", ["clopper-pearson", "tcertify"])
def test_hard_bounds(num_classes, shape, bound):
    trials = 3000 if num_classes < 1000 else 1500
    rng = np.random.default_rng(num_classes)
    p_K = truth(num_classes, shape)
    evidence = Evidence.of_counts(*(rng.multinomial(n, p_K, trials) for n in (N0, N)))
    decision = BOUNDS[bound].decide(evidence, sigma=1.0, alpha=ALPHA)
    assert failures(decision, p_K, bound) <= allowed(trials)
    assert (decision.prediction == 0).mean() > 0.5 and is_caught(decision, p_K)


@pytest.mark.parametrize(("num_classes", "shape"), [(10, "few"), (10, "alike"), (1000, "few")])
def test_what_tcertify_says_of_both_classes(num_classes, shape):
    """p_A or p_B beyond its bound counts, whatever the radius: at a wrong level that shows."""
    trials = 4000 if num_classes < 1000 else 1500
    rng = np.random.default_rng(num_classes)
    p_K = truth(num_classes, shape)
    evidence = Evidence.of_counts(*(rng.multinomial(n, p_K, trials) for n in (N0, N)))

    def wrong(alpha):
        decision = BOUNDS["tcertify"].decide(evidence, sigma=1.0, alpha=alpha)
        assert (decision.p_b_upper < 1 - decision.p_a_lower).mean() > 0.5  # both are bounded
        is_right_class = evidence.selected_class == 0
        is_beyond = (decision.p_a_lower > p_K[0]) | (decision.p_b_upper < p_K[1:].max())
        return int((is_right_class & is_beyond).sum())

    assert 0 < wrong(ALPHA) <= allowed(trials)
    assert wrong(4 * ALPHA) > allowed(trials)


def test_runner_up_bound_alone_is_tight_and_sound():
    """Two classes: p_B at level alpha is Clopper-Pearson's, and fails about alpha of the time."""
    rng, trials = np.random.default_rng(1), 20_000
    for num_others, floor in ((1, 0.5), (9, 0.0)):
        p = np.full(num_others, 0.38 / num_others)
        counts = rng.multinomial(N, [*p, 0.62], trials)[:, :-1]
        upper = clopper_pearson_upper(counts.max(axis=1), N, ALPHA)
        missed = int(np.sum(upper < p.max()))
        assert floor * ALPHA * trials <= missed <= allowed(trials)


@pytest.mark.parametrize("num_classes", CLASSES)
@pytest.mark.parametrize("bound", ["hoeffding", "bernstein"])
def test_soft_bounds(num_classes, bound):
    """Soft probabilities that are 0 or 1 half of the time: as variable as they can be."""
    trials, n = 400, 300
    rng = np.random.default_rng(num_classes)
    p_K = truth(num_classes, "few")
    seen = 10  # the other classes hold nothing to speak of; K counts for the rows' width only

    def sums(draws):
        hard = rng.random((trials, draws)) < 0.7
        pick = rng.choice(num_classes, (trials, draws), p=p_K)
        first = np.where(hard, pick == 0, p_K[0])
        rest = np.zeros((trials, num_classes))
        for cls in range(1, min(seen, num_classes)):
            rest[:, cls] = np.where(hard, pick == cls, p_K[cls]).sum(1)
        values = rest.copy()
        values[:, 0] = first.sum(1)
        squares = np.zeros_like(values)
        squares[:, 0] = (first**2).sum(1)
        return values, squares

    (selection, _), (estimation, squares) = sums(N0), sums(n)
    evidence = soft_evidence(selection, estimation, squares, np.full(trials, n))
    decision = BOUNDS[bound].decide(evidence, sigma=1.0, alpha=ALPHA)
    beyond = (decision.prediction == 0) & (decision.p_a_lower > p_K[0])
    assert beyond.sum() <= allowed(trials)
    assert (decision.prediction == 0).any()


@pytest.mark.parametrize("num_classes", CLASSES)
@pytest.mark.parametrize("bound", ["clopper-pearson", "tcertify"])
def test_adaptive_end_to_end(num_classes, bound):
    """n from the selection draws, then fresh draws: as sound as with a fixed n."""
    trials, block = 2000 if num_classes < 1000 else 1000, 50
    rng = np.random.default_rng(7)
    p_K = truth(num_classes, "few")
    selection = rng.multinomial(N0, p_K, trials)
    blocks = np.array(
        [
            blocks_worth(int(hits), N0, n=N, block_size=block, alpha=ALPHA, tolerance=0.05)
            for hits in selection.max(axis=1)
        ]
    )
    assert len(np.unique(blocks)) > 3 and blocks.min() * block >= BOUNDS[
        "clopper-pearson"
    ].smallest_useful_n(ALPHA)
    estimation = rng.multinomial(blocks * block, np.tile(p_K, (trials, 1)))
    evidence = Evidence.of_counts(selection, estimation)
    decision = BOUNDS[bound].decide(evidence, sigma=1.0, alpha=ALPHA)
    assert failures(decision, p_K, bound) <= allowed(trials) and is_caught(decision, p_K)


@pytest.mark.parametrize("num_classes", CLASSES)
@pytest.mark.parametrize("bound", ["hoeffding", "bernstein"])
def test_soft_adaptive_end_to_end(num_classes, bound):
    """n from the soft sums of the selection draws, then fresh draws, half of them 0 or 1."""
    trials, block = 500, 50
    rng = np.random.default_rng(13)
    p_K = truth(num_classes, "few")

    def values(draws):
        """Soft probabilities [trials, draws] of class 0; the others' share goes to class 1."""
        hard = rng.random((trials, draws)) < 0.7
        return np.where(hard, rng.random((trials, draws)) < p_K[0], p_K[0])

    def both(first_N, n_N):
        rest = np.zeros((trials, num_classes - 2))
        return np.column_stack([first_N, n_N - first_N, rest])

    pilot_N, fresh = values(N0).sum(1), values(N)
    selection = both(pilot_N, N0)
    asked = {"n": N, "block_size": block, "alpha": ALPHA, "bound": bound, "tolerance": 0.1}
    blocks = np.array([blocks_worth(s, N0, **asked) for s in selection.max(axis=1)])
    assert len(np.unique(blocks)) > 3
    n_N = np.minimum(N, blocks * block)
    taken = np.where(np.arange(N) < n_N[:, None], fresh, 0.0)
    taken_others = np.where(np.arange(N) < n_N[:, None], 1.0 - fresh, 0.0)
    squares = np.column_stack([(taken**2).sum(1), (taken_others**2).sum(1)])
    sums = both(taken.sum(1), n_N)
    evidence = soft_evidence(selection, sums, np.pad(squares, ((0, 0), (0, num_classes - 2))), n_N)
    decision = BOUNDS[bound].decide(evidence, sigma=1.0, alpha=ALPHA)
    beyond = (decision.prediction == 0) & (decision.p_a_lower > p_K[0])
    assert (beyond | (decision.prediction > 0)).sum() <= allowed(trials)
    assert (decision.prediction == 0).mean() > 0.2  # the test is not empty


@pytest.mark.parametrize("num_classes", CLASSES)
@pytest.mark.parametrize("bound", ["clopper-pearson", "tcertify"])
def test_skip_end_to_end(num_classes, bound):
    """No draws where the selection misses the label: as sound, and what counts is as with fixed."""
    trials = 2000 if num_classes < 1000 else 1000
    rng = np.random.default_rng(17)
    p_K = truth(num_classes, "one")
    selection = rng.multinomial(12, p_K, trials)  # few: it often errs
    counts = rng.multinomial(N, p_K, trials)
    label_N = rng.integers(0, 2, trials)
    is_drawn = ~SamplingPlan(12, N, N, "skip").skips(selection.argmax(axis=1), label_N)
    assert 0.2 < is_drawn.mean() < 0.8

    def certified(drawn):
        evidence = Evidence.of_counts(selection, counts * drawn[:, None])
        return BOUNDS[bound].decide(evidence, sigma=1.0, alpha=ALPHA)

    skip, fixed = certified(is_drawn), certified(np.ones(trials, dtype=bool))
    assert failures(skip, p_K, bound) <= allowed(trials) and is_caught(fixed, p_K)
    proven = [each.radius * (each.prediction == label_N) for each in (skip, fixed)]
    assert np.array_equal(*proven) and proven[0].any()


@pytest.mark.parametrize("p", [0.55, 0.7, 0.95])
def test_a_confidence_sequence_under_a_rule_that_cheats(p):
    """Stop at the first look at which the sequence would say too much; a fixed-n bound is caught."""
    trials, looks = 2000, np.arange(10, 1001, 10)
    rng = np.random.default_rng(3)
    hits = np.cumsum(rng.binomial(10, p, (trials, len(looks))), axis=1)
    most = log_evidence(hits, looks, p).max(axis=1)

    def caught(alpha):
        return (most >= np.log(1 / alpha)).sum()

    assert 0 < caught(ALPHA) <= allowed(trials)
    assert caught(10 * ALPHA) > allowed(trials)
    naive = (clopper_pearson_lower(hits, looks, ALPHA) > p).any(axis=1).sum()
    assert naive > allowed(trials)  # the rule does cheat


def test_many_radii_share_one_alpha():
    """Asked on both sides of the truth, stopped as soon as any radius beyond it is answered yes."""
    trials, looks, p = 1000, np.arange(10, 501, 10), 0.7
    rng = np.random.default_rng(5)
    beyond = np.array([p, 0.705, 0.72])
    hits = np.cumsum(rng.binomial(10, p, (trials, len(looks))), axis=1)
    most_NT = log_evidence(hits[..., None], looks[:, None], beyond).max(axis=2)
    bound = ConfidenceSequence((0.0, 0.25, *stats.norm.ppf(beyond).tolist()))

    def wrong(alpha):
        stop_N = (most_NT >= np.log(1 / alpha)).argmax(axis=1)
        counts = np.stack([hits, looks - hits], axis=2)[np.arange(trials), stop_N]
        evidence = Evidence.of_counts(np.tile([1, 0], (trials, 1)), counts)
        decision = bound.decide(evidence, sigma=1.0, alpha=alpha)
        return (decision.radius >= bound.at_radius[2]).sum()

    assert 0 < wrong(ALPHA) <= allowed(trials)
    assert wrong(10 * ALPHA) > allowed(trials)


@pytest.mark.parametrize("num_classes", CLASSES)
def test_at_radius_end_to_end(num_classes):
    """Block by block until the radius is answered, asked exactly at the true radius of p_A."""
    trials, block = 2000 if num_classes < 1000 else 500, 25
    p_K = truth(num_classes, "one")
    at = (float(stats.norm.ppf(p_K[0])) + 1e-9,)

    def wrong(alpha):
        rng = np.random.default_rng(11)
        selection = rng.multinomial(N0, p_K, trials)
        counts, open_N = np.zeros((trials, num_classes), dtype=np.int64), np.ones(trials, bool)
        for _ in range(N // block):
            counts[open_N] += rng.multinomial(block, p_K, int(open_N.sum()))
            open_N &= answers(counts[:, 0], counts.sum(1), [p_K[0] + 1e-10], alpha)[:, 0] == 0
        evidence = Evidence.of_counts(selection, counts)
        decision = ConfidenceSequence(at).decide(evidence, sigma=1.0, alpha=alpha)
        return ((decision.prediction == 0) & (decision.radius >= at[0])).sum()

    assert 0 < wrong(ALPHA) <= allowed(trials) < wrong(16 * ALPHA)
