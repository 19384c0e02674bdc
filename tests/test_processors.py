"""A few numeric tests with fewer vector instructions and on two threads; `make soak` runs all of them in more ways."""

from __future__ import annotations

import pytest

from tests.processors import list_vector_sets, run_tests

# At least one for each kind of arithmetic: sums, matrix products, convolutions, interpolation, decompositions.
SENSITIVE = (
    "tests/training/test_trainer.py::test_the_loop_computes_bit_for_bit_what_a_plain_loop_computes",
    "tests/training/test_trainer.py::test_accumulated_batches_train_like_one_large_batch_also_at_the_end_of_an_epoch",
    "tests/training/tasks/test_digits.py::test_the_same_seed_gives_the_same_model_and_another_seed_another",
    "tests/training/tasks/test_gpt.py::test_no_byte_sees_a_later_one",
    "tests/training/tasks/test_resnet.py::test_a_block_starts_as_the_identity",
    "tests/training/tasks/test_augmentation.py::test_the_centre_crop_is_the_middle_square",
    "tests/training/state/test_complete_state.py::test_parametrized_weights_go_on_exactly",
)


@pytest.mark.processes
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("vectors", "threads"), [("DEFAULT", 2), ("AVX2", 1)])
def test_numeric_tests_hold_with_fewer_vector_instructions_and_on_two_threads(vectors: str, threads: int) -> None:
    if vectors not in list_vector_sets()[:-1]:
        pytest.skip(f"this processor has no more than {vectors}, or does not have it")
    done = run_tests(vectors, threads=threads, arguments=["-p", "no:cacheprovider", *SENSITIVE])
    assert done.returncode == 0, done.stdout
    assert f"{len(SENSITIVE) + 3} passed" in done.stdout
