import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balance_hil.errors import ConfigError, HarnessError, UsageError
from balance_hil.link.fault_table import KINDS, Fault, fault_of, parse_fault, parse_faults, read_faults


@st.composite
def faults(draw):
    name = draw(st.sampled_from(sorted(KINDS)))
    kind = KINDS[name]
    values = {}
    for key, parameter in kind.parameters.items():
        numbers = st.integers if parameter.whole else st.floats
        if draw(st.booleans()):
            values[key] = draw(numbers(parameter.low, min(parameter.high, 1e9)))
    if kind.side == "link" and name != "cut" and draw(st.booleans()):
        values["direction"] = draw(st.sampled_from(["tx", "rx", "both"]))
    if kind.lasts != "always" or draw(st.booleans()):
        values |= draw(
            st.sampled_from([{"at_s": 1.5}, {"at_step": 7}, {"every_s": 2.25, "for_s": 0.5}, {"at_s": 3, "every_s": 1.0}])
        )
        if kind.lasts == "once":
            values.pop("for_s", None)
        elif "every_s" in values:
            values["for_s"] = 0.5
    return fault_of(name, values)


@given(faults())
def test_what_is_written_is_read_again(fault):
    assert parse_fault(str(fault)) == fault
    assert fault_of(fault.name, fault.values()) == fault


@given(st.text() | st.builds("{}:{}={}".format, st.sampled_from(sorted(KINDS)), st.text(), st.text()))
def test_whatever_is_typed_is_read_or_refused(text):
    with contextlib.suppress(UsageError):
        fault = parse_fault(text)
        assert parse_fault(str(fault)) == fault


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "unknown fault", "faults are drop,"),
        ("dorp", "unknown fault: dorp, did you mean 'drop'", "faults are drop,"),
        ("drop=0.01", "unknown fault: drop=0.01, did you mean 'drop'", "NAME:key=value"),
        ("drop:0.1", "cannot read '0.1'", "drop:rate=0.05"),
        ("drop:rate=0.1,rate=0.2", "cannot read 'rate=0.2'", "NAME:key=value"),
        ("drop:rte=0.1", "unknown key 'rte', did you mean 'rate'", "drop has rate, direction"),
        ("drop:rate=2", "rate cannot be 2", "probability for a frame"),
        ("drop:rate=nan", "rate cannot be nan", "0 to 1"),
        ("drop:rate=x", "rate is 'x', not a number", "NAME:key=value"),
        ("drop:direction=up", "unknown direction: up", "tx is host to board"),
        ("burst:frames=1.5", "frames must be a whole number", "frames in a row"),
        ("stall", "has no time", "stall:at_s=2"),
        ("reboot:for_s=1,at_s=1", "unknown key 'for_s'", "reboot has boot_s"),
        ("cut:at_s=1,at_step=2", "two beginnings", "at_s or at_step"),
        ("cut:at_s=-1", "at_s cannot be -1", "at least 0"),
        ("stall:every_s=1,for_s=2", "begins again before it ends", "less than every_s=1"),
        ("drop:every_s=1", "begins again before it ends", "for_s"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(text, message, hint):
    with pytest.raises(UsageError) as caught:
        parse_fault(text)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_times():
    once, repeated, lasting = (
        parse_fault(text) for text in ("cut:at_s=1", "reboot:every_s=2", "stall:at_s=1,every_s=1,for_s=0.5")
    )
    assert [once.window(t) is not None for t in (0, 0.999, 1, 50)] == [False, False, True, True]
    assert [window and window[0] for window in map(repeated.window, (0, 1.9, 2, 3.9, 4, 7))] == [None, None, 0, 0, 1, 2]
    assert [lasting.window(t) for t in (0.9, 1, 1.4, 1.5, 2.25)] == [None, (0, 1.5), (0, 1.5), None, (1, 2.5)]
    assert parse_fault("drop").window(0) is not None
    step = parse_fault("cut:at_step=10")
    assert (step.window(1e9), step.window(0.049, 0.005), step.window(0.05, 0.005)) == (None, None, (0, float("inf")))
    assert [repeated.next_s(count) for count in (0, 1)] == [2, 4]
    assert (once.next_s(0), once.next_s(1)) == (1, float("inf"))


def written(tmp_path, text):
    path = tmp_path / "faults.yaml"
    path.write_text(text)
    return path


def test_a_file_is_a_sequence(tmp_path):
    path = written(
        tmp_path, "faults:\n- {fault: stall, at_s: 2, for_s: 0.2}\n- {fault: drop, rate: 0.1, direction: rx, at_step: 40}\n"
    )
    assert read_faults(path) == [parse_fault("stall:at_s=2,for_s=0.2"), parse_fault("drop:rate=0.1,direction=rx,at_step=40")]
    assert parse_faults([str(path), "corrupt", Fault("drop", {"rate": 1.0})])[2:] == [
        parse_fault("corrupt"),
        parse_fault("drop:rate=1"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no list of faults"),
        ("faults: {}", "has no list of faults"),
        ("fault: []", "unknown key 'fault', did you mean 'faults'"),
        ("faults: [drop]", "fault 1 of .* must be a table"),
        ("faults: [{rate: 1}]", "fault 1 of .* must be a table"),
        ("faults: [{fault: drop}, {fault: dorp}]", "fault 2 of .*: unknown fault: dorp, did you mean 'drop'"),
        ("faults: [{fault: drop, rate: yes}]", "fault 1 of .*: rate is True, not a number"),
        ("faults: [{fault: stall}]", r"fault 1 of .* \(stall\) has no time"),
        ("faults: [{fault: drop, rate: [1]}]", "not a number"),
        ("- drop", "not a table of keys"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read_faults(written(tmp_path, text))
    assert caught.value.hint


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda x: st.lists(x) | st.dictionaries(st.sampled_from(["faults", "fault", "rate", "at_s", "drop"]), x),
    )
)
def test_any_yaml_is_read_or_refused(tmp_path_factory, content):
    import yaml

    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(yaml.safe_dump(content))
    with contextlib.suppress(HarnessError):
        assert read_faults(path)
