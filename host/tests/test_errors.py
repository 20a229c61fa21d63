import inspect
import pickle

import pytest

from balance_hil import errors
from balance_hil.errors import HarnessError, MissingExtraError, require

FAMILY = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, HarnessError)]


@pytest.mark.parametrize("kind", FAMILY, ids=lambda kind: kind.__name__)
def test_every_error_carries_message_and_hint_and_prints_the_message(kind):
    error = kind("the fact", "the remedy")
    assert (error.message, error.hint, str(error)) == ("the fact", "the remedy", "the fact")
    assert kind.__doc__


def test_the_family_is_large_enough_to_tell_causes_apart():
    assert len(FAMILY) > 30


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.PortNotFoundError, FileNotFoundError),
        (errors.PortPermissionError, PermissionError),
        (errors.SilentBoardError, TimeoutError),
        (errors.UnknownBoardError, KeyError),
        (errors.BundleError, ValueError),
        (errors.MissingExtraError, ImportError),
    ],
)
def test_generic_code_catches_the_matching_builtin(kind, builtin):
    assert issubclass(kind, builtin)


def test_require_passes_what_is_installed_and_names_the_extra_otherwise():
    require("numpy", "int8")
    with pytest.raises(MissingExtraError, match="no_such_package") as caught:
        require("no_such_package", "export")
    assert caught.value.hint == "install it: make setup"


@pytest.mark.parametrize("kind", FAMILY, ids=lambda kind: kind.__name__)
def test_an_error_crosses_a_process_boundary_whole(kind):
    error = pickle.loads(pickle.dumps(kind("the fact", "the remedy")))  # our own bytes
    assert (type(error), error.message, error.hint, str(error)) == (kind, "the fact", "the remedy", "the fact")
