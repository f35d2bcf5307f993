import pytest

from isogon.errors import UsageError
from isogon.runtimes import BatchProfile


def test_a_profile_is_read_as_it_is_written() -> None:
    profile = BatchProfile.parse("1:16:64")
    assert profile == BatchProfile(minimum=1, optimum=16, maximum=64)
    assert BatchProfile.parse(str(profile)) == profile
    assert str(BatchProfile()) == "1:8:32"


@pytest.mark.parametrize(
    "text", ["", "8", "1:8", "1:8:x", "1:8:32:64", "-1:8:32", "1.5:8:32"]
)
def test_what_is_not_a_profile_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="such as 1:8:32"):
        BatchProfile.parse(text)


@pytest.mark.parametrize("text", ["0:8:32", "8:1:32", "1:32:8", "9:8:7"])
def test_a_profile_out_of_order_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="out of order"):
        BatchProfile.parse(text)
