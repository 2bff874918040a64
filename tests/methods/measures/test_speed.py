"""Speed is tokens by the second, between its slowest and quickest pass."""


def test_rates_lie_between_their_bounds(workshop):
    found = workshop.findings("speed", workshop.model(), prompts=2, prompt_tokens=16, new_tokens=4).metrics
    for metric in (found["read"], found["write"]):
        assert 0 < metric.low <= metric.value <= metric.high
        assert (metric.unit, metric.n) == ("tokens/s", 3)
    assert found["read"].value > found["write"].value
