"""Libraries are silent inside, and as loud as before outside; what they raise comes through."""

from __future__ import annotations

import logging
import warnings

import pytest

from mytalk.models.quiet import quiet


def test_warnings_are_kept_back_inside_and_only_there(caplog, recwarn):
    with quiet():
        logging.getLogger("library").warning("consider pre-processing")
        warnings.warn("deprecated", stacklevel=1)
    assert caplog.records == []
    assert len(recwarn) == 0
    logging.getLogger("library").warning("heard")
    assert [record.message for record in caplog.records] == ["heard"]


def fail():
    with quiet():
        logging.getLogger("library").error("heard, too")
        raise ValueError("no such shape")


def test_an_error_comes_through_and_ends_the_silence(caplog):
    with pytest.raises(ValueError, match="no such shape"):
        fail()
    logging.getLogger("library").warning("and heard again")
    assert [record.message for record in caplog.records] == ["heard, too", "and heard again"]
