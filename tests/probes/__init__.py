"""Test-only plugins: three kinds of defense that ship nowhere yet, and defenses that mean harm."""

from harness import hookimpl


@hookimpl
def bench_register(register):
    """Register everything here."""
    register.defense("retrain", "bench_probes.retrain:Retrain")
    register.defense("scan", "bench_probes.scan:Scan")
    register.defense("widen", "bench_probes.widen:Widen")
    register.defense("hostile", "bench_probes.hostile:Hostile")
    register.defense("cheat", "bench_probes.cheat:Cheat")
    register.defense("forger", "bench_probes.forger:Forger")
    register.metric("blind", "bench_probes.norm:Blind")
    register.defense("greedy", "bench_probes.greedy:Greedy")
    register.metric("weight-norm", "bench_probes.norm:WeightNorm")
    register.metric("crooked", "bench_probes.norm:Crooked")
