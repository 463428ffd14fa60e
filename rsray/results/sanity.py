"""Signs that a network learnt nothing, or a search found nothing: said once, in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

# A noisy accuracy of 1.2 / K or less is no better than guessing
CHANCE_FACTOR = 1.2
# Of the predictions
ONE_CLASS_SHARE = 0.95
# Fewer predictions can be alike by chance
LEAST_PREDICTIONS = 8
WHAT_TO_TRY = "more epochs, a smaller sigma, or for macer --set deferred=true --set trade_off=1"


def has_learnt(right_K: Sequence[int], images_K: Sequence[int]) -> bool:
    """Tell whether a network is better than guessing, from each class's images and right ones.

    The mean over the classes of their accuracy is what counts: a network that always names one
    class has 1 / K, however many of the images are of that class.
    """
    images = np.asarray(images_K)
    present = images > 0
    recall = np.asarray(right_K)[present] / images[present]
    return bool(recall.mean() > CHANCE_FACTOR / present.sum()) or present.sum() == 1


def training_warning(
    noisy_accuracy: float, num_classes: int, classes_dropped: int = 0
) -> str | None:
    """Return what to say of a training that ends at the accuracy of guessing; None otherwise.

    Of one, too, that has dropped all images of some classes: its accuracy is over the others.
    """
    if classes_dropped:
        return (
            f"the objective has dropped all images of {classes_dropped} of {num_classes} classes: "
            "the network knew too little of them; try more warm_up_epochs or a lower threshold"
        )
    if noisy_accuracy > CHANCE_FACTOR / num_classes:
        return None
    return (
        f"the network has learnt next to nothing: {noisy_accuracy:.1%} of the noisy training "
        f"images are right, and guessing among {num_classes} classes gives {1 / num_classes:.1%}; "
        f"try {WHAT_TO_TRY}"
    )


def certificates_warning(
    prediction_N: np.ndarray, label_N: np.ndarray, acr: float, names: Sequence[str] = ()
) -> str | None:
    """Return what to say of certificates (-1 = abstain) of a constant predictor."""
    if len(prediction_N) and acr == 0:
        return f"the ACR is 0: no image is certified and correct; try {WHAT_TO_TRY}"
    return predictions_warning(prediction_N, label_N, names)


def predictions_warning(
    prediction_N: np.ndarray, label_N: np.ndarray, names: Sequence[str] | Mapping[int, str] = ()
) -> str | None:
    """Return what to say of predictions (-1 = abstain) that are nearly all of one class.

    Of few images only where less than half of these predictions are right.
    """
    classes, counts = np.unique(prediction_N[prediction_N >= 0], return_counts=True)
    if not len(classes) or counts.max() < ONE_CLASS_SHARE * counts.sum():
        return None
    top = int(classes[counts.argmax()])
    is_few = len(prediction_N) < 2 / (1 - ONE_CLASS_SHARE)
    are_right = np.mean(label_N[prediction_N == top] == top) >= 0.5
    if is_few and (counts.sum() < LEAST_PREDICTIONS or are_right):
        return None
    name = f" ({names[top]})" if names and names[top] != str(top) else ""
    return (
        f"{counts.max() / counts.sum():.0%} of the predictions are class {top}{name}: the network "
        f"may be constant (or these images of one class); try {WHAT_TO_TRY}"
    )


def search_warning(projected_acrs: Sequence[float]) -> str | None:
    """Return what to say of a search whose complete trials are all alike; None otherwise.

    A trial that learnt nothing has a projected ACR of 0.
    """
    if projected_acrs and not any(projected_acrs):
        return f"no complete trial is better than guessing; try {WHAT_TO_TRY}"
    if len(projected_acrs) < 2 or np.ptp(projected_acrs) > 1e-3:
        return None
    return (
        f"all {len(projected_acrs)} complete trials tie at a projected ACR of "
        f"{projected_acrs[0]:.3f}: they may have learnt nothing; try {WHAT_TO_TRY}"
    )
