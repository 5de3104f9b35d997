"""SGLang instances of one stage: what a scenario says of them, and what each of their rules does."""

from __future__ import annotations

import pytest
from serving import Deployment, OpenLoop, linear_prices, times

from hardware.catalogue import load_chip
from hardware.errors import ScenarioError
from perfdb.layout import Layout
from simulator.network import KvTransfer
from simulator.run import run_scenario
from simulator.scenario import load_scenario
from simulator.sglang_options import SglangOptions

SCENARIO = """
name = "split"
[model]
name = "Qwen/Qwen3-32B"
[workload.synthetic]
requests = 30
arrivals = { kind = "poisson", rate_per_s = 4.0 }
prompt_tokens = { kind = "fixed", value = 20000 }
output_tokens = { kind = "uniform", low = 20, high = 40 }
[[pool]]
name = "prefill"
stages = ["prefill"]
chip = "h200_sxm"
tensor_parallel = 4
engine = "sglang"
[[pool]]
name = "decode"
stages = ["decode"]
chip = "h200_sxm"
tensor_parallel = 4
engine = "sglang"
"""


def scenario(tmp_path, *changes, more=""):
    text = SCENARIO + more
    for old, new in changes:
        text = text.replace(old, new)
    path = tmp_path / "split.toml"
    path.write_text(text)
    return load_scenario(path)


def transfers(found):
    result = run_scenario(found)
    assert result.summary["completed"] == 30
    return result.summary["transfers"]


def test_chunks_leave_once_they_are_computed(tmp_path):
    chunked = scenario(tmp_path)
    assert chunked.links.kv_transfer.mode == "chunked"
    assert chunked.links.kv_transfer.early
    blocking = scenario(tmp_path, more='[network]\nkv_transfer = { mode = "blocking", direction = "push" }\n')
    sent, late = transfers(chunked), transfers(blocking)
    assert sent["bytes"] == late["bytes"]
    # The first of its chunks is on its way while the others are computed.
    assert sent["p50_ms"] > 10 * late["p50_ms"]
    waits = [run_scenario(one).requests["transfer_ms"].median() for one in (chunked, blocking)]
    assert waits[0] < waits[1]


def test_kv_is_pulled_whole(tmp_path):
    pulled = scenario(tmp_path, more='[network]\nkv_transfer = { direction = "pull" }\n')
    assert pulled.links.kv_transfer.mode == "blocking"
    assert transfers(pulled)["count"] == 30


@pytest.mark.parametrize(
    ("changes", "more", "sentence"),
    [
        ([], '[network]\nkv_transfer = { mode = "layerwise" }\n', "which engine 'sglang' does not have"),
        ([], '[network]\nkv_transfer = { timeout_s = 1, on_timeout = "recompute" }\n', "computes no prompts"),
        ([('engine = "sglang"\n[[pool]]', 'engine = "vllm"\n[[pool]]')], "", "to its like alone"),
        ([('["decode"]', '["prefill", "decode"]')], "", "takes no KV"),
        ([], '[pool.engine_options]\ndisaggregation_mode = "decode"\n', "follows from the stages"),
        ([], "[pool.engine_options]\nnum_reserved_decode_tokens = 0\n", "num_reserved_decode_tokens"),
    ],
)
def test_what_such_instances_cannot_do_is_refused(tmp_path, changes, more, sentence):
    with pytest.raises(ScenarioError, match=sentence):
        scenario(tmp_path, *changes, more=more)


def test_memory_follows_the_stage():
    chip, layout = load_chip("h100_sxm"), Layout(8, 1)

    def reserve(more=None, **stages):
        options = SglangOptions(**(more or {})).of_stages(**stages).filled(chip, 40_960, layout)
        return options.reserve_mib(layout, 0)

    both = reserve(prefills=True, decodes=True)
    # A decode graph of 512 sequences; graphs of 58 prompts, and a chunk of 8192 tokens instead of 2048.
    assert both - reserve(prefills=True, decodes=False) == 2 * 512
    assert both - reserve(prefills=False, decodes=True) == 58 * 8 + 1.5 * (8192 - 2048)
    many = {"max_running_requests": 4096}
    assert reserve(many, prefills=False, decodes=True) == reserve(prefills=False, decodes=True) + 1.5 * 2048
    assert not SglangOptions().of_stages(prefills=False, decodes=True).caches_prefixes


def test_ranks_that_compute_prompts_get_them_by_chance():
    chip, layout = load_chip("h100_sxm"), Layout(1, 1, 4)

    def balancer(*, prefills, decodes, **options):
        found = SglangOptions(**options).of_stages(prefills=prefills, decodes=decodes).filled(chip, 40_960, layout)
        return found.fitted(400_000, 40_960).plan(prefills=prefills).balancer

    assert balancer(prefills=True, decodes=False) == "follow_bootstrap_room"
    assert balancer(prefills=False, decodes=True) == balancer(prefills=True, decodes=True) == "round_robin"
    assert balancer(prefills=True, decodes=False, load_balance_method="total_requests") == "total_requests"


def test_few_rows_take_twice_as_many_requests_besides():
    chip = load_chip("h100_sxm")

    def slots(layout, **options):
        return SglangOptions(**options).filled(chip, 40_960, layout).disaggregation_decode_extra_slots

    assert slots(Layout(), max_running_requests=32) == 64
    assert slots(Layout(), max_running_requests=33) == 0
    assert slots(Layout(1, 1, 4), max_running_requests=128) == 64
    assert slots(Layout(), max_running_requests=32, disaggregation_decode_extra_slots=5) == 5
    assert slots(Layout()) == 0


# --- rules, one by one -------------------------------------------------------------------------------------


def split(*, overlap=False, push=True, rules=None, **more):
    """Return a prefill and a decode instance whose steps take a millisecond, and transfers a microsecond a token."""
    prices = linear_prices(step_ns=1_000_000, token_ns=0, context_ns=0.0, pair_ns=0.0)
    return Deployment(
        **{"blocks": 20_000, "block_tokens": 1, "caching": True, "decode_replicas": 1}
        | {"policy": "sglang", "prices": prices, "plans_ahead": overlap}
        | {"rules": {"overlap": overlap, "reserved_tokens": 50} | (rules or {})}
        | {"terms": KvTransfer(direction="push") if push else KvTransfer()}
        | more
    )


def ready_ms(cluster):
    return [round(time / 1e6) for time in times(cluster)["kv_ready_ns"]]


def first_ms(cluster):
    return [round(time / 1e6) for time in times(cluster)["first_token_ns"]]


def test_a_prompt_waits_until_there_are_pages_for_its_kv():
    # 400 pages: 100 and 50 reserved for the one that runs, and as many for the one that comes, but not for two.
    cluster = split(decode_blocks=400).serve(OpenLoop([0, 0, 0]), [100, 100, 100], [40, 40, 40])
    assert first_ms(cluster)[:2] == [1, 1]
    # The first two decode until about 41 ms.
    assert first_ms(cluster)[2] >= 41
    assert first_ms(split(decode_blocks=700).serve(OpenLoop([0, 0, 0]), [100, 100, 100], [40, 40, 40])) == [1, 1, 1]


def test_tokens_are_reserved_for_every_request():
    rows = OpenLoop([0, 0, 0]), [100, 100, 100], [40, 40, 40]
    assert first_ms(split(decode_blocks=400, rules={"reserved_tokens": 20}).serve(*rows)) == [1, 1, 1]


def test_whoever_may_become_the_longest_must_have_room_in_the_end():
    """What the second may produce must fit when all others are retracted."""
    rows = OpenLoop([0, 5_000_000]), [100, 100], [40, 40]
    apart = split(decode_blocks=500, declared_tokens=390).serve(*rows)
    # 100 + 390 tokens fit 500 pages, but not beside what the first has, 105 tokens and more, and may yet get.
    near = split(decode_blocks=1200, declared_tokens=390).serve(*rows)
    assert first_ms(near)[1] == 6
    assert first_ms(apart)[1] > 6


def test_a_full_batch_takes_nobody_but_kv_comes_all_the_same():
    few = split(max_sequences=1, rules={"extra_rows": 1}).serve(OpenLoop([0, 0, 0]), [100, 100, 100], [40, 40, 40])
    assert first_ms(few)[:2] == [1, 2]
    finish = [round(time / 1e6) for time in times(few)["finish_ns"]]
    # One after the other; a row is free one step after its request has ended, unless none is left.
    assert finish[1] - finish[0] >= 39
    # There is a row for the third once the first has ended.
    assert first_ms(few)[2] > 39
    none = split(max_sequences=1).serve(OpenLoop([0, 0]), [100, 100], [40, 40])
    assert first_ms(none)[1] > 39


@pytest.mark.parametrize("overlap", [False, True])
def test_retracted_requests_are_brought_back_and_computed_only_once(overlap):
    deployment = split(overlap=overlap, decode_blocks=400, rules={"reserved_tokens": 20})
    cluster = deployment.serve(OpenLoop([0, 0, 0]), [100, 100, 100], [90, 90, 90])
    assert sum(times(cluster)["preemptions"]) > 0
    assert not cluster.instances[1].state.recomputed
    assert not cluster.logs[1].table()["tokens"].any()


def test_nobody_is_let_in_before_those_that_were_retracted():
    rules = {"reserved_tokens": 20}
    arrivals = OpenLoop([0, 0, 0, 60_000_000])
    cluster = split(decode_blocks=400, rules=rules).serve(arrivals, [100, 100, 100, 10], [90, 90, 90, 5])
    retracted = times(cluster)["preemptions"].index(1)
    assert times(cluster)["first_token_ns"][3] > min(times(cluster)["finish_ns"][:3])
    assert retracted in {0, 1, 2}
    alone = split(decode_blocks=800, rules=rules).serve(arrivals, [100, 100, 100, 10], [90, 90, 90, 5])
    assert first_ms(alone)[3] == 61


def test_rows_of_prompts_are_held_until_their_kv_has_left():
    slow = {"transfer_ns_per_token": 100_000}
    wide = split(**slow).serve(OpenLoop([0, 0, 2_000_000]), [100] * 3, [2] * 3)
    assert first_ms(wide) == [1, 1, 3]
    narrow = split(**slow, max_sequences=2, rules={"extra_rows": 4}).serve(
        OpenLoop([0, 0, 2_000_000]), [100] * 3, [2] * 3
    )
    # Ten milliseconds for the KV of the first two.
    assert first_ms(narrow) == [1, 1, 12]


class Alike:
    """Prompts whose first 100 tokens are the same."""

    def identify(self, request) -> None:
        request.prefix, request.prefix_ends, request.named = (1,), (100,), True


@pytest.mark.parametrize("overlap", [False, True])
def test_prompts_are_found_where_they_are_computed_and_sent_whole(overlap):
    # The KV of the first is still on its way when the second comes.
    deployment = split(overlap=overlap, identities=Alike(), transfer_ns_per_token=1_000_000)
    cluster = deployment.serve(OpenLoop([0, 3_000_000]), [120, 130], [30, 30])
    assert times(cluster)["cached_tokens"] == [0, 100]
    assert cluster.carrier.fetched == [120, 130]
    assert cluster.instances[1].state.cache is None


def test_what_a_request_computed_stays_in_the_tree_once_it_has_left():
    cluster = split(identities=Alike()).serve(OpenLoop([0, 90_000_000]), [120, 130], [30, 30])
    assert times(cluster)["cached_tokens"] == [0, 100]


def test_an_answer_is_one_token_where_prompts_are_computed():
    """Room is asked for a prompt and a token, however many a client allows."""
    cluster = split(blocks=230, decode_blocks=20_000, declared_tokens=4000).serve(OpenLoop([0, 0]), [100] * 2, [5] * 2)
    assert first_ms(cluster) == [1, 1]


def test_a_step_of_prompts_is_planned_when_the_one_before_begins():
    late = split(overlap=True).serve(OpenLoop([0, 300_000]), [100, 100], [5, 5])
    assert first_ms(late) == [1, 2]
    # Room was made while the first prompt was computed, so that the second is in the next step.
    chunks = late.logs[0].table()["prompts"].tolist()
    assert chunks == [1, 1]
