"""Bad changes to the scenario of tests, one ``--set`` each: where, found and expected are parts of the sentence."""

from __future__ import annotations

import pytest

LOOP = "{concurrency=2, requests=5, prompt_tokens={kind='fixed', value=4}, output_tokens={kind='fixed', value=4}}"


def case(change: str, where: str, found: str, expected: str) -> object:
    return pytest.param(change, (where, found, expected), id=change[:60])


UNKNOWN_KEYS = [
    case("sead=1", "s.toml", "unknown key 'sead'", "did you mean 'seed'?"),
    case("model.nam='x'", "s.toml", "unknown key 'model.nam'", "did you mean 'name'?"),
    case("workload.ratescale=2", "s.toml", "unknown key 'workload.ratescale'", "did you mean 'rate_scale'?"),
    case("workload.synthetic.request=2", "s.toml", "unknown key 'workload.synthetic.request'", "mean 'requests'?"),
    case("workload.synthetic.output_tokens.mean=2", "workload.synthetic.output_tokens", "mean", "expected one of"),
    case("slo.ttft=5", "s.toml", "unknown key 'slo.ttft'", "did you mean 'ttft_ms'?"),
    case("pool.0.replica=2", "s.toml", "unknown key 'pool.0.replica'", "did you mean 'replicas'?"),
    case("pool.left.engine_options.max_num_seq=2", "pool.0.engine_options", "max_num_seq'", "mean 'max_num_seqs'?"),
    case("pool.0.limits.kv_block=5", "s.toml", "unknown key 'pool.0.limits.kv_block'", "did you mean 'kv_blocks'?"),
    case("cost.chip_hours=3", "s.toml", "unknown key 'cost.chip_hours'", "did you mean 'chip_hour'?"),
    case("network.topologie='x'", "s.toml", "unknown key 'network.topologie'", "did you mean 'topology'?"),
]

MISSPELT_NAMES = [
    case("pool.0.chip='h100_sx'", "chip", "'h100_sx'", "did you mean 'h100_sxm'?"),
    case("pool.0.chip='tpu'", "chip", "'tpu'", "b200_sxm"),
    case("model.name='Qwen/Qwen3-8'", "model.name", "'Qwen/Qwen3-8'", "did you mean 'Qwen/Qwen3-8B'?"),
    case("model.weights='fp9'", "model.weights", "'fp9'", "did you mean 'fp8'?"),
    case("model.kv_cache='int8'", "model.kv_cache", "'int8'", "'bf16' or 'fp8'"),
    case("pool.0.engine='vlm'", "pool.0.engine", "'vlm'", "did you mean 'vllm'?"),
    case("pool.0.router='least_load'", "pool.0.router", "'least_load'", "did you mean 'least_loaded'?"),
    case("pool.0.cost_sources=['silicone']", "pool.0.cost_sources", "'silicone'", "did you mean 'silicon'?"),
    case("pool.0.cost_sources=['vidur']", "cost_sources ['vidur']", "alone", "as step_profile"),
    case("pool.0.cost_sources=['vidur', 'roofline']", "'vidur'", "prices whole steps", "expected it alone"),
    case("workload.format='mooncak'", "workload.format", "'mooncak'", "did you mean 'mooncake'?"),
    case("workload.on_error='ignore'", "workload.on_error", "'ignore'", "'raise' or 'skip'"),
    case("pool.0.stages=['prefil', 'decode']", "pool.0.stages", "'prefil'", "did you mean 'prefill'?"),
    case("workload.synthetic.arrivals.kind='poison'", "workload.synthetic.arrivals", "'poison'", "'poisson'"),
    case("network.kv_transfer.connector='mooncake'", "kv_transfer.connector", "'mooncake'", "did you mean 'mooncake_"),
    case("network.rails='both'", "network.rails", "'both'", "'own' or 'all'"),
    case("cost.chip_hour.h100=2", "cost.chip_hour.h100", "no such chip", "did you mean 'h100_sxm'?"),
]

WRONG_TYPES = [
    case("name=3", "'name'", "is 3", "expected a valid string"),
    case("model=3", "'model'", "is 3", "expected a table"),
    case("workload='x'", "'workload'", "is 'x'", "expected a table"),
    case("seed='a'", "'seed'", "is 'a'", "expected a valid integer"),
    case("seed='7'", "'seed'", "is '7'", "expected a valid integer"),
    case("seed=true", "'seed'", "is True", "expected a valid integer"),
    case("pool.0.replicas=1.5", "'pool.0.replicas'", "is 1.5", "expected a valid integer"),
    case("pool.0.chip=5", "'pool.0.chip'", "is 5", "expected a valid string"),
    case("pool.0.cost_sources='roofline'", "'pool.0.cost_sources'", "is 'roofline'", "expected a"),
    case("slo.ttft_ms='fast'", "'slo.ttft_ms'", "is 'fast'", "expected a valid number"),
    case("workload.spread='no'", "'workload.spread'", "is 'no'", "expected a valid boolean"),
    case("pool=3", "'pool'", "is 3", "expected a"),
    case("pool=[1]", "'pool.0'", "is 1", "expected a table"),
    case("cost.chip_hour=5", "'cost.chip_hour'", "is 5", "expected a"),
]

NUMBERS_OUT_OF_RANGE = [
    case("seed=-1", "'seed'", "is -1", "greater than or equal to 0"),
    case("pool.0.replicas=0", "'pool.0.replicas'", "is 0", "greater than 0"),
    case("pool.0.replicas=-2", "'pool.0.replicas'", "is -2", "greater than 0"),
    case("pool.0.replicas=1000000", "'pool.0.replicas'", "is 1000000", "less than or equal to 100000"),
    case("slo.ttft_ms=nan", "'slo.ttft_ms'", "is nan", "finite number"),
    case("slo.tpot_ms=inf", "'slo.tpot_ms'", "is inf", "finite number"),
    case("slo.e2e_ms=-inf", "'slo.e2e_ms'", "is -inf", "finite number"),
    case("slo.attainment=1.5", "'slo.attainment'", "is 1.5", "less than or equal to 1"),
    case("workload.rate_scale=0", "'workload.rate_scale'", "is 0", "greater than 0"),
    case("workload.limit=0", "'workload.limit'", "is 0", "greater than 0"),
    case("workload.warmup_s=-1", "'workload.warmup_s'", "is -1", "greater than or equal to 0"),
    case("workload.warmup_s=1e300", "'workload.warmup_s'", "is 1e+300", "less than or equal to 1000000000"),
    case("workload.warmup_s=99", "workload.warmup_s", "is 99", "the last of the 30 requests arrives at"),
    case("workload.synthetic.requests=0", "'workload.synthetic.requests'", "is 0", "greater than 0"),
    case("workload.synthetic.requests=100000000000000", "workload", "synthetic.requests is 1000", "at most"),
    case("workload.synthetic.arrivals.rate_per_s=0", "'workload.synthetic.arrivals", "is 0", "greater than 0"),
    case("workload.synthetic.arrivals.rate_per_s=1e-12", "workload arrivals", "over 146 years", "a higher rate"),
    case("workload.synthetic.output_tokens.low=0", "'workload.synthetic.output_tokens", "is 0", "equal to 1"),
    case("workload.synthetic.output_tokens.low=99", "output_tokens", "low 99 is above high 40", "low <= high"),
    case("cost.chip_hour.h100_sxm=-2", "'cost.chip_hour.h100_sxm'", "is -2", "greater than or equal to 0"),
    case("cost.chip_hour.h100_sxm=nan", "'cost.chip_hour.h100_sxm'", "is nan", "finite number"),
    case("pool.0.engine_options.gpu_memory_utilization=1.5", "gpu_memory_utilization'", "is 1.5", "equal to 1"),
    case("pool.0.engine_options.max_num_seqs=0", "'pool.0.engine_options.max_num_seqs'", "is 0", "greater than 0"),
    case("pool.0.limits.kv_blocks=1", "'pool.0.limits.kv_blocks'", "is 1", "greater than 1"),
]

IMPOSSIBLE = [
    case("pool.0.tensor_parallel=3", "pool.left.tensor_parallel", "is 3", "use one of 1, 2, 4, 8, 16, 32"),
    case("pool.0.data_parallel=1000000", "'pool.0.data_parallel'", "is 1000000", "less than or equal to 1024"),
    case("pool.0.expert_exchange='all_to_all'", "'pool.0'", "data_parallel 1", "expected data_parallel above 1"),
    case("pool.0.expert_parallel=2", "pool.left.expert_parallel", "has no experts", "leave it out"),
    case("pool.0.redundant_experts=8", "'pool.0'", "redundant_experts is 8", "or set expert_parallel"),
    case(
        "pool=[{engine='sglang', pipeline_parallel=2, chip='h100_sxm'}]",
        "'pool.0'",
        "pipeline_parallel is 2",
        "use tensor_parallel",
    ),
    case(
        "pool=[{data_parallel=2, pipeline_parallel=2, chip='h100_sxm'}]",
        "'pool.0'",
        "pipeline_parallel is 2",
        "leave one out",
    ),
    case("model.name='Llama-3.1-70B'", "Llama-3.1-70B", "needs 141", "or narrower weights"),
    case("pool.0.engine_options.max_model_len=99999", "pool.left.engine_options.max_model_len", "is 99999", "at most"),
    case("pool.0.engine_options.max_model_len=0", "pool.0.engine_options", "max_model_len is 0", "positive integer or"),
    case("pool.0.limits.kv_blocks=10", "pool.left", "does not fit the KV cache of 144 tokens", "to at most 144"),
    case(
        "pool.0.engine_options={max_num_batched_tokens=16, max_num_seqs=32}",
        "'pool.0.engine_options'",
        "max_num_batched_tokens 16 is below max_num_seqs 32",
        "must hold a token of every sequence",
    ),
    case(
        "pool.0.engine_options={enable_chunked_prefill=false, max_num_batched_tokens=1024, max_num_seqs=64}",
        "pool.left",
        "max_num_batched_tokens 1024",
        "at least max_model_len 40960",
    ),
    case(
        "pool.1.engine_options={enable_chunked_prefill=false, max_num_batched_tokens=1024, max_num_seqs=64,"
        " max_model_len='auto'}",
        "pool.right",
        "max_num_batched_tokens 1024",
        "at least max_model_len 40960",
    ),
    case("pool.0.engine_options.enable_prefix_caching=1", "enable_prefix_caching", "is 1", "boolean"),
    case("workload.synthetic.shared_prefix_tokens=-1", "shared_prefix_tokens", "is -1", "greater than or equal to 0"),
    case("workload.synthetic.shared_prefix_tokens=2.5", "shared_prefix_tokens", "is 2.5", "integer"),
    case("workload.synthetic.sessions={turns=0, think_time_s={kind='fixed', value=1}}", "sessions.turns", "is 0", "1"),
    case(
        "workload.synthetic.sessions={turns=true, think_time_s={kind='fixed', value=1}}",
        "sessions.turns",
        "is True",
        "a table",
    ),
    case("workload.synthetic.sessions={turns=4}", "sessions.think_time_s", "is missing", ""),
    case(
        "pool=[{chip='h200_sxm',stages=['prefill']}]",
        "s.toml",
        "a pool serves 'prefill' alone",
        "with stages = ['decode']",
    ),
    case("pool.0.stages=['decode']", "s.toml", "a pool serves 'decode' alone", "with stages = ['prefill']"),
    case("pool.0.stages=['decode', 'prefill']", "'pool.0.stages'", "found ['decode', 'prefill']", "in this order"),
    case("pool.0.stages=[]", "'pool.0.stages'", "found []", "expected some of ['encode', 'prefill', 'decode']"),
    case(
        "pool.0.cost_sources=[]",
        "'pool.0.cost_sources'",
        "an empty list",
        "at least one of silicon, borrowed, roofline",
    ),
    case("pool=[]", "'pool'", "an empty list", "at least one [[pool]]"),
    case(
        "pool=[{chip='h200_sxm',stages=['prefill'],helps_above=2},{chip='h200_sxm',stages=['decode'],name='d'}]",
        "s.toml",
        "helps_above is 2 in a pool of stages = ['prefill']",
        "stages = ['prefill', 'decode']",
    ),
    case("pool.0.router='random'", "s.toml", "found power_of_two and random", "need one router"),
    case(
        "operations.incident=[{kind='link', at_s=1, link='*', capacity=2}]",
        "'operations.incident.0.capacity'",
        "is 2",
        "less than or equal to 1",
    ),
    case(
        "operations.incident=[{kind='link', at_s=1, link=2, capacity=1}]",
        "'operations.incident.0.link'",
        "is 2",
        "a valid string",
    ),
    case(
        "operations.incident=[{kind='link', at_s=1, link='*', capacity=1e-12}]",
        "'operations.incident.0.capacity'",
        "is 1e-12",
        "expected 0, or at least 1e-06",
    ),
    case("operations.switching={between=['left']}", "'operations.switching.between.1'", "is missing", ""),
    case(
        "operations.switching={between=['left', 'right'], every_s=1e-9}",
        "'operations.switching.every_s'",
        "is 1e-09",
        "greater than or equal to 0.001",
    ),
    case("network.nodes=1000000000000", "'network.nodes'", "is 1000000000000", "less than or equal to 10000"),
    case("network.oversubscription=true", "'network.oversubscription'", "is True", "a valid number"),
    case("network.kv_transfer.on_timeout='fail'", "network.kv_transfer", "on_timeout has no meaning", "timeout_s"),
    case("network.kv_transfer.efficiency=1e-30", "kv_transfer.efficiency'", "is 1e-30", "than or equal to 0.000001"),
    case("network.kv_transfer.efficiency=true", "'network.kv_transfer.efficiency'", "is True", "a valid number"),
    case("network.kv_transfer.handshake_us='1'", "kv_transfer.handshake_us'", "is '1'", "a valid number"),
    case("network.kv_transfer.messages_per_s=true", "kv_transfer.messages_per_s'", "is True", "a valid number"),
    case("pool.0.name='right'", "s.toml", "two pools are named 'right'", "must differ"),
    case("pool.0.name='a.b'", "'pool.0.name'", "is 'a.b'", "a name without dots"),
    case("pool.0.name='1'", "'pool.0.name'", "is '1'", "that is no number"),
    case("name='../up'", "'name'", "is '../up'", "without slashes"),
    case("name='..'", "'name'", "is '..'", "no dot first"),
    case("name=''", "'name'", "is ''", "a name for the result folder"),
    case("model.name=''", "'model.name'", "is ''", "expected a name or a path"),
    case("workload={}", "'workload'", "found none", "exactly one of trace, synthetic and closed_loop"),
    case(
        f"workload={{trace='t.csv', closed_loop={LOOP}}}",
        "'workload'",
        "found trace and closed_loop",
        "exactly one of trace, synthetic and closed_loop",
    ),
    case(f"workload={{rate_scale=2, closed_loop={LOOP}}}", "'workload'", "rate_scale", "its concurrency"),
    case(f"workload.closed_loop={LOOP.replace('=2', '=0')}", "'workload.closed_loop.concurrency'", "is 0", "than 0"),
    case("workload.trace='t.csv'", "t.csv", "no such file", "expected a trace"),
    case("workload.trace='.'", ".", "not a file", "expected a trace"),
    case("workload.trace=''", "'workload.trace'", "is ''", "expected a name or a path"),
]

CHANGES_THAT_LEAD_NOWHERE = [
    case("seed", "--set seed", "seed:", "expected KEY=VALUE"),
    case("=3", "--set =3", "=3", "expected KEY=VALUE"),
    case("pool.nobody.replicas=1", "--set pool.nobody.replicas", "no pool 'nobody'", "expected one of left, right"),
    case("pool.rigt.replicas=1", "--set pool.rigt.replicas", "no pool 'rigt'", "did you mean 'right'?"),
    case("pool.2.replicas=1", "--set pool.2.replicas", "no pool '2'", "expected one of left, right"),
    case("pool.0=1", "--set pool.0", "pool is a list of tables", "pool.0.KEY"),
    case("seed.deep=1", "--set seed.deep", "seed is 7, which has no keys", "--set seed=VALUE"),
    case("seed.very.deep=1", "--set seed.very.deep", "seed is 7, which has no keys", "--set seed=VALUE"),
    case("pool.0.stages.0='decode'", "--set pool.0.stages.0", "which has no keys", "--set pool.0.stages=VALUE"),
    case("pool.0.stages.0.x='decode'", "--set pool.0.stages.0.x", "has no keys", "--set pool.0.stages=VALUE"),
    case("pool..replicas=1", "--set pool..replicas", "an empty part", "names joined by dots"),
]

BAD_CHANGES = [
    *UNKNOWN_KEYS,
    *MISSPELT_NAMES,
    *WRONG_TYPES,
    *NUMBERS_OUT_OF_RANGE,
    *IMPOSSIBLE,
    *CHANGES_THAT_LEAD_NOWHERE,
]
