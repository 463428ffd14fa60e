"""Each bound and mode fails with a probability of at most alpha: simulation with known classes.

A failure is a radius beyond the true one. Allowed: alpha of the trials and four binomial standard
deviations. Probabilities are chosen where the bounds are tight, between 1/2 and 1.
"""

import numpy as np
import pytest
from scipy import stats

from rsray.certification.plan import wants_estimation
from rsray.core.bounds import clopper_pearson_lower, smallest_useful_n
from rsray.core.bounds.confidence_sequence import answers
from rsray.core.bounds.tcertify import certify_tcertify, others_upper
from rsray.core.counts import ClassCounts
from rsray.core.decide import Moments, certify_at_radii, certify_hard, certify_soft
from rsray.core.pilot import blocks_worth

ALPHA, N0, N = 0.05, 60, 800
CLASSES = [2, 10, 1000]


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
    draws = [ClassCounts.dense(rng.multinomial(n, p_K, trials)) for n in (N0, N)]
    values = {"sigma": 1.0, "alpha": ALPHA}
    if bound == "tcertify":
        decision = certify_tcertify(*draws, **values, num_classes=num_classes)
    else:
        decision = certify_hard(*draws, **values)
    assert failures(decision, p_K, bound) <= allowed(trials)
    assert (decision.prediction == 0).mean() > 0.5 and is_caught(decision, p_K)


def test_runner_up_bound_alone_is_tight_and_sound():
    """Two classes: p_B at level alpha is Clopper-Pearson's, and fails about alpha of the time."""
    rng, trials = np.random.default_rng(1), 20_000
    for num_others, floor in ((1, 0.5), (9, 0.0)):
        p = np.full(num_others, 0.38 / num_others)
        counts = rng.multinomial(N, [*p, 0.62], trials)[:, :-1]
        upper = others_upper(ClassCounts.dense(counts), N, ALPHA, num_others)
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
        return ClassCounts.dense(values), ClassCounts.dense(squares)

    (selection, _), (estimation, squares) = sums(N0), sums(n)
    moments = Moments(selection, estimation, squares, estimation, np.full(trials, n))
    decision = certify_soft(moments, sigma=1.0, alpha=ALPHA, bound=bound)
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
    selection = ClassCounts.dense(rng.multinomial(N0, p_K, trials))
    top = selection.of(selection.top())
    blocks = np.array(
        [
            blocks_worth(int(hits), N0, n=N, block_size=block, alpha=ALPHA, tolerance=0.05)
            for hits in top
        ]
    )
    assert len(np.unique(blocks)) > 3 and blocks.min() * block >= smallest_useful_n(ALPHA)
    estimation = ClassCounts.dense(rng.multinomial(blocks * block, np.tile(p_K, (trials, 1))))
    values = {"sigma": 1.0, "alpha": ALPHA}
    if bound == "tcertify":
        decision = certify_tcertify(selection, estimation, **values, num_classes=num_classes)
    else:
        decision = certify_hard(selection, estimation, **values)
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
        return ClassCounts.dense(np.column_stack([first_N, n_N - first_N, rest]))

    pilot_N, fresh = values(N0).sum(1), values(N)
    selection = both(pilot_N, N0)
    top_N = selection.top()
    asked = {"n": N, "block_size": block, "alpha": ALPHA, "bound": bound, "tolerance": 0.1}
    blocks = np.array([blocks_worth(s, N0, **asked) for s in selection.of(top_N)])
    assert len(np.unique(blocks)) > 3
    n_N = np.minimum(N, blocks * block)
    taken = np.where(np.arange(N) < n_N[:, None], fresh, 0.0)
    taken_others = np.where(np.arange(N) < n_N[:, None], 1.0 - fresh, 0.0)
    squares = ClassCounts.dense(np.column_stack([(taken**2).sum(1), (taken_others**2).sum(1)]))
    sums = both(taken.sum(1), n_N)
    moments = Moments(selection, sums, squares, sums, n_N)
    decision = certify_soft(moments, sigma=1.0, alpha=ALPHA, bound=bound)
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
    selection = ClassCounts.dense(rng.multinomial(12, p_K, trials))  # few: it often errs
    counts = rng.multinomial(N, p_K, trials)
    label_N = rng.integers(0, 2, trials)
    is_drawn = np.array(
        [
            wants_estimation(int(top), int(label), "skip")
            for top, label in zip(selection.top(), label_N, strict=True)
        ]
    )
    assert 0.2 < is_drawn.mean() < 0.8

    def certified(drawn):
        values = (selection, ClassCounts.dense(counts * drawn[:, None]))
        if bound == "tcertify":
            return certify_tcertify(*values, sigma=1.0, alpha=ALPHA, num_classes=num_classes)
        return certify_hard(*values, sigma=1.0, alpha=ALPHA)

    skip, fixed = certified(is_drawn), certified(np.ones(trials, dtype=bool))
    assert failures(skip, p_K, bound) <= allowed(trials) and is_caught(fixed, p_K)
    proven = [each.radius * (each.prediction == label_N) for each in (skip, fixed)]
    assert np.array_equal(*proven) and proven[0].any()


@pytest.mark.parametrize("p", [0.55, 0.7, 0.95])
def test_a_confidence_sequence_under_a_rule_that_cheats(p):
    """Stop at the first draw at which the sequence would say too much; a fixed-n bound is caught."""
    trials, longest = 2000, 1500
    rng = np.random.default_rng(3)
    hits = np.cumsum(rng.random((trials, longest)) < p, axis=1)
    draws = np.arange(1, longest + 1)
    said = np.stack([answers(h, draws, [p - 1e-12], ALPHA)[:, 0] > 0 for h in hits])
    caught = said.any(axis=1).sum()
    assert 0 < caught <= allowed(trials)
    looks = draws[9::10]
    naive = (clopper_pearson_lower(hits[:, 9::10], looks, ALPHA) > p).any(axis=1).sum()
    assert naive > allowed(trials)  # the rule does cheat


@pytest.mark.parametrize("num_classes", CLASSES)
def test_at_radius_end_to_end(num_classes):
    """Block by block until the radius is answered, asked exactly at the true radius of p_A."""
    trials, block = 2000 if num_classes < 1000 else 500, 25
    rng = np.random.default_rng(11)
    p_K = truth(num_classes, "one")
    selection = ClassCounts.dense(rng.multinomial(N0, p_K, trials))
    at = (float(stats.norm.ppf(p_K[0])) + 1e-9,)
    counts, open_N = np.zeros((trials, num_classes), dtype=np.int64), np.ones(trials, bool)
    for _ in range(N // block):
        counts[open_N] += rng.multinomial(block, p_K, int(open_N.sum()))
        open_N &= answers(counts[:, 0], counts.sum(1), [p_K[0] + 1e-10], ALPHA)[:, 0] == 0
    decision = certify_at_radii(
        selection, ClassCounts.dense(counts), sigma=1.0, alpha=ALPHA, at_radius=at
    )
    wrong = (decision.prediction == 0) & (decision.radius >= at[0])
    assert wrong.sum() <= allowed(trials)
