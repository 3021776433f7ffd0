"""`jumplora bench ...`: measurements. Only options here; everything heavy inside the commands."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast, get_args

import typer

from jumplora_adapters.cli.output import reported_errors
from jumplora_bench.choices import AdaptersPart, Dtype, FairnessScenario, ServingPart

if TYPE_CHECKING:
    from jumplora_bench.report import Report
    from jumplora_server import core

    Told = Callable[[str], None]

_Option = typer.Option
Shape = Annotated[Literal["base", "large", "tiny"], _Option(help="T5's sizes; tiny only to try.")]


Device = Annotated[Literal["cpu", "cuda"], _Option(help="Where all compute.")]
Density = Annotated[float, _Option(min=0.001, max=1.0, help="Of the adapters, 0 to 1.")]
Threads = Annotated[int, _Option(min=0, help="CPU threads of every program (0: torch's default).")]
Kernels = Annotated[str, _Option(help="Of our engine, as the server's setting names them.")]
Out = Annotated[
    Path | None, _Option("--out", help="Folder for the result as JSON, markdown and plots.")
]


def group() -> typer.Typer:
    """The group; the commands need the extra `bench` for what they compare with and for plots."""
    app = typer.Typer(
        help="Measure the engine, a server under load, and adapters (extra `bench`).",
        no_args_is_help=True,
    )
    app.command("engine")(engine)
    app.command("serving")(serving)
    app.command("adapters")(adapters)
    app.command("profile")(profile)
    app.command("fairness")(fairness)
    app.command("quotas")(quotas)
    app.command("sampling")(sampling)
    app.command("dialects")(dialects)
    app.command("choices")(choices)
    return app


def engine(
    context: typer.Context,
    shape: Shape = "base",
    rows: Annotated[int, _Option(min=1, help="Prompts computed together.")] = 8,
    source: Annotated[int, _Option(min=2, help="Tokens of each prompt.")] = 128,
    new: Annotated[int, _Option(min=1, help="Tokens to generate.")] = 16,
    rounds: Annotated[int, _Option(min=1, help="Measured rounds after the warm-up.")] = 7,
    dtype: Annotated[
        list[Dtype] | None, _Option(help="Of our engine, again for more; default float32, int8.")
    ] = None,
    device: Device = "cpu",
    threads: Threads = 0,
    case: Annotated[
        list[str] | None, _Option(help='Only these cases, by pattern: "ours*fp32". Again for more.')
    ] = None,
    adapterhub_python: Annotated[
        Path | None,
        _Option(help="Interpreter with the packages adapters and torch: its BatchSplit runs too."),
    ] = None,
    kernels: Kernels = "auto",
    out: Out = None,
) -> None:
    """Offline, in turn: transformers, PEFT, AdapterHub, CTranslate2, ours; medians and ratios."""
    with reported_errors(), _steps() as (on_start, on_lap, _):
        from jumplora_bench.engine import EnginePlan, measure_engine

        plan = EnginePlan(
            shape=shape,
            rows=rows,
            source=source,
            new=new,
            rounds=rounds,
            dtypes=tuple(map(str, dtype or (Dtype.FLOAT32, Dtype.INT8))),
            device=device,
            threads=threads,
            cases=tuple(case or ("*",)),
            hub_python=adapterhub_python,
            kernels=_known_kernels(kernels),
        )
        report = measure_engine(plan, command_line(context), on_start=on_start, on_lap=on_lap)
    _tell(report, out)


def serving(
    context: typer.Context,
    shape: Shape = "base",
    dtype: Annotated[Dtype, _Option(help="Arithmetic of server and engine.")] = Dtype.INT8,
    device: Device = "cpu",
    threads: Threads = 0,
    rows: Annotated[int, _Option(min=1, help="Sequences the server computes together.")] = 8,
    source: Annotated[int, _Option(min=8, help="Tokens of each prompt.")] = 128,
    new: Annotated[int, _Option(min=1, help="Tokens to generate.")] = 16,
    tasks: Annotated[int, _Option(min=1, help="Published tasks.")] = 16,
    density: Density = 0.051,
    zipf: Annotated[float, _Option(min=0, help="Exponent of the task mix; 0: all alike.")] = 1.0,
    load: Annotated[
        list[float] | None,
        _Option(
            min=0.001, help="Open loop: a rate as a share of saturation; default 0.3 0.6 0.8 0.95."
        ),
    ] = None,
    rate: Annotated[
        list[float] | None,
        _Option(min=0.001, help="Open loop: a rate in requests a second, instead."),
    ] = None,
    seconds: Annotated[float, _Option(min=0.5, help="Length of each window.")] = 60.0,
    rounds: Annotated[int, _Option(min=1, help="Windows of each side, in turn.")] = 5,
    slo_ttft: Annotated[
        float, _Option(min=0, help="Good answers: seconds to the first token.")
    ] = 2.0,
    slo_tpot: Annotated[
        float, _Option(min=0, help="Good answers: seconds a further token.")
    ] = 0.25,
    upload_mb: Annotated[float, _Option(min=0, help="MB of the uploaded adapter.")] = 30.0,
    seed: Annotated[int, _Option(help="Of arrivals, tasks and texts.")] = 0,
    part: Annotated[
        list[ServingPart] | None, _Option(help="Only this part. Again for more.")
    ] = None,
    out: Out = None,
) -> None:
    """A real server under load: throughput beside its engine, open-loop latencies, disturbances."""
    with reported_errors(), _steps() as (on_start, on_step, on_state):
        from jumplora_bench.answers import Slo
        from jumplora_bench.serving import ServingPlan, measure_serving

        plan = ServingPlan(
            shape=shape,
            dtype=str(dtype),
            device=device,
            threads=threads,
            rows=rows,
            source=source,
            new=new,
            tasks=tasks,
            density=density,
            zipf=zipf,
            loads=tuple(load or (0.3, 0.6, 0.8, 0.95)),
            rates=tuple(rate or ()),
            seconds=seconds,
            rounds=rounds,
            slo=Slo(slo_ttft, slo_tpot),
            upload_bytes=int(upload_mb * 1e6),
            seed=seed,
            parts=tuple(part or ServingPart),
        )
        needs_saturation = ServingPart.RATES in plan.parts and not plan.rates
        if needs_saturation and ServingPart.SATURATION not in plan.parts:
            raise typer.BadParameter("rates as shares need the part saturation; or give --rate")
        report = measure_serving(
            plan, command_line(context), on_start=on_start, on_step=on_step, on_state=on_state
        )
    _tell(report, out)


def adapters(
    context: typer.Context,
    shape: Shape = "large",
    registered_shape: Annotated[
        Literal["base", "large", "tiny"], _Option(help="Of the backbone with many tasks.")
    ] = "base",
    dtype: Annotated[Dtype, _Option(help="Arithmetic of server and engine.")] = Dtype.INT8,
    device: Device = "cpu",
    threads: Threads = 0,
    rows: Annotated[int, _Option(min=1, help="Sequences the server computes together.")] = 8,
    source: Annotated[int, _Option(min=8, help="Tokens of each prompt.")] = 128,
    new: Annotated[int, _Option(min=1, help="Tokens to generate.")] = 16,
    density: Density = 0.051,
    loads: Annotated[int, _Option(min=1, help="Measured loads of each kind.")] = 5,
    seconds: Annotated[float, _Option(min=0.5, help="Length of each window of traffic.")] = 20.0,
    registered: Annotated[
        list[int] | None,
        _Option(min=1, help="Registered tasks; again for more, default 5 50 200 1000."),
    ] = None,
    asked: Annotated[int, _Option(min=1, help="How many of them get the traffic.")] = 5,
    filler_targets: Annotated[
        int, _Option(min=0, help="Modules that the others target (0: all, 10 MB each).")
    ] = 2,
    rounds: Annotated[int, _Option(min=1, help="Windows of each server, in turn.")] = 5,
    part: Annotated[
        list[AdaptersPart] | None, _Option(help="Only this part. Again for more.")
    ] = None,
    out: Out = None,
) -> None:
    """Load to ready, alone and beside requests; bytes by form; 5 to 1000 registered tasks."""
    with reported_errors(), _steps() as (on_start, on_step, on_state):
        from jumplora_bench.adapters import AdaptersPlan, measure_adapters

        plan = AdaptersPlan(
            shape=shape,
            registered_shape=registered_shape,
            dtype=str(dtype),
            device=device,
            threads=threads,
            rows=rows,
            source=source,
            new=new,
            density=density,
            loads=loads,
            seconds=seconds,
            registered=tuple(sorted(registered or (5, 50, 200, 1000))),
            asked=asked,
            filler_targets=filler_targets,
            rounds=rounds,
            parts=tuple(part or AdaptersPart),
        )
        if min(plan.registered) < asked:
            raise typer.BadParameter(f"--registered must be at least --asked, which is {asked}")
        report = measure_adapters(
            plan, command_line(context), on_start=on_start, on_step=on_step, on_state=on_state
        )
    _tell(report, out)


def profile(
    context: typer.Context,
    shape: Shape = "base",
    dtype: Annotated[Dtype, _Option(help="float32 or int8.")] = Dtype.INT8,
    rows: Annotated[int, _Option(min=1, help="Prompts, each of a task of its own.")] = 8,
    source: Annotated[int, _Option(min=2, help="Tokens of each prompt.")] = 128,
    new: Annotated[int, _Option(min=1, help="Tokens to generate.")] = 16,
    density: Density = 0.051,
    rounds: Annotated[int, _Option(min=1, help="Rounds whose mean is shown.")] = 5,
    lora: Annotated[
        bool, _Option("--lora", help="LoRAs on all linear layers, not masked q and v.")
    ] = False,
    kernels: Kernels = "native",
    out: Out = None,
) -> None:
    """Where encode and decode spend their time on the CPU, with the floor beside it."""
    with reported_errors(), _steps() as (_, __, on_state):
        from jumplora_bench.profile import ProfilePlan, measure_profile

        known = _known_kernels(kernels)
        plan = ProfilePlan(shape, str(dtype), rows, source, new, density, rounds, lora, known)
        report = measure_profile(plan, command_line(context), on_state)
    _tell(report, out)


def fairness(
    context: typer.Context,
    shape: Shape = "base",
    backbone: Annotated[
        str | None, _Option(help="Folder or hub id, in place of a random one of that shape.")
    ] = None,
    dtype: Annotated[Dtype, _Option(help="Arithmetic of the server.")] = Dtype.FLOAT32,
    device: Device = "cpu",
    threads: Annotated[int, _Option(min=0, help="Of the server (0: torch's default).")] = 1,
    rows: Annotated[int, _Option(min=2, help="Sequences the server computes together.")] = 16,
    source: Annotated[int, _Option(min=2, help="Tokens of each prompt.")] = 24,
    new: Annotated[int, _Option(min=1, help="Tokens of each short answer.")] = 8,
    density: Density = 0.051,
    quiet_rate: Annotated[float, _Option(min=0.1, help="Quiet requests a second.")] = 4.0,
    seconds: Annotated[float, _Option(min=1, help="Length of each window.")] = 20.0,
    windows: Annotated[int, _Option(min=1, help="Windows of each scenario, in turn.")] = 3,
    scenario: Annotated[
        list[FairnessScenario] | None, _Option(help="Only this flood. Again for more.")
    ] = None,
    out: Out = None,
) -> None:
    """What a quiet task notices of other tasks' floods: its p95 beside that in a full batch."""
    with reported_errors(), _steps() as (on_start, on_step, on_state):
        from jumplora_bench.fairness import FairnessPlan, measure_fairness

        plan = FairnessPlan(
            shape=shape,
            backbone=backbone,
            dtype=str(dtype),
            device=device,
            threads=threads,
            rows=rows,
            source=source,
            new=new,
            density=density,
            quiet_rate=quiet_rate,
            seconds=seconds,
            windows=windows,
            scenarios=tuple(scenario or FairnessScenario),
        )
        report = measure_fairness(
            plan, command_line(context), on_start=on_start, on_step=on_step, on_state=on_state
        )
    _tell(report, out)


def quotas(
    context: typer.Context,
    shape: Shape = "base",
    backbone: Annotated[
        str | None, _Option(help="Folder or hub id, in place of a random one of that shape.")
    ] = None,
    dtype: Annotated[Dtype, _Option(help="Arithmetic of the server.")] = Dtype.FLOAT32,
    threads: Annotated[int, _Option(min=0, help="Of the server (0: torch's default).")] = 1,
    rows: Annotated[int, _Option(min=2, help="Sequences the server computes together.")] = 16,
    source: Annotated[int, _Option(min=2, help="Tokens of each prompt.")] = 24,
    new: Annotated[int, _Option(min=1, help="Tokens of each answer.")] = 8,
    density: Density = 0.051,
    requests: Annotated[
        int, _Option(min=1, help="A minute, of one loud key; the other has as many tokens.")
    ] = 600,
    load: Annotated[float, _Option(min=1.5, help="Of the loud keys, times their quota.")] = 10.0,
    quiet_rate: Annotated[float, _Option(min=0.1, help="Quiet requests a second.")] = 4.0,
    seconds: Annotated[float, _Option(min=1, help="Length of each window.")] = 60.0,
    out: Out = None,
) -> None:
    """How closely a key's quota holds under ten times its load, and what another key notices."""
    with reported_errors(), _steps() as (on_start, on_step, on_state):
        from jumplora_bench.quotas import QuotasPlan, measure_quotas

        plan = QuotasPlan(
            shape=shape,
            backbone=backbone,
            dtype=str(dtype),
            threads=threads,
            rows=rows,
            source=source,
            new=new,
            density=density,
            requests=requests,
            load=load,
            quiet_rate=quiet_rate,
            seconds=seconds,
        )
        report = measure_quotas(
            plan, command_line(context), on_start=on_start, on_step=on_step, on_state=on_state
        )
    _tell(report, out)


def sampling(
    context: typer.Context,
    shape: Shape = "base",
    rows: Annotated[int, _Option(min=1, help="Sequences of a step.")] = 16,
    source: Annotated[int, _Option(min=2, help="Tokens of each prompt.")] = 128,
    new: Annotated[int, _Option(min=1, help="Tokens to generate.")] = 16,
    rounds: Annotated[int, _Option(min=1, help="Measured rounds after the warm-up.")] = 7,
    dtype: Annotated[
        list[Dtype] | None, _Option(help="Again for more; default float32, int8.")
    ] = None,
    device: Device = "cpu",
    threads: Threads = 0,
    out: Out = None,
) -> None:
    """A decode step whose rows sample, all or half of them, beside one of greedy rows."""
    with reported_errors(), _steps() as (on_start, on_lap, _):
        from jumplora_bench.sampling import SamplingPlan, measure_sampling

        dtypes = tuple(map(str, dtype or (Dtype.FLOAT32, Dtype.INT8)))
        plan = SamplingPlan(shape, rows, source, new, rounds, dtypes, device, threads)
        report = measure_sampling(plan, command_line(context), on_start=on_start, on_lap=on_lap)
    _tell(report, out)


def dialects(
    context: typer.Context,
    shape: Annotated[
        Literal["base", "large", "tiny"], _Option(help="T5's sizes; tiny leaves HTTP to be seen.")
    ] = "tiny",
    dtype: Annotated[Dtype, _Option(help="Arithmetic of the server.")] = Dtype.INT8,
    threads: Annotated[int, _Option(min=0, help="Of the server (0: torch's default).")] = 0,
    source: Annotated[int, _Option(min=2, help="Tokens of the prompt.")] = 64,
    new: Annotated[int, _Option(min=1, help="Tokens to generate.")] = 16,
    rounds: Annotated[int, _Option(min=1, help="Requests in each way, in turn.")] = 200,
    out: Out = None,
) -> None:
    """What a request in another dialect takes longer than a native one, whole and streamed."""
    with reported_errors(), _steps() as (on_start, on_lap, _):
        from jumplora_bench.dialects import DialectsPlan, measure_dialects

        plan = DialectsPlan(shape, str(dtype), threads, source, new, rounds)
        report = measure_dialects(plan, command_line(context), on_start=on_start, on_lap=on_lap)
    _tell(report, out)


def choices(
    context: typer.Context,
    shape: Shape = "base",
    dtype: Annotated[
        list[Dtype] | None, _Option(help="Of the server, again for more; default float32, int8.")
    ] = None,
    threads: Annotated[int, _Option(min=0, help="Of the server (0: torch's default).")] = 0,
    source: Annotated[int, _Option(min=2, help="Tokens of each prompt.")] = 128,
    rounds: Annotated[int, _Option(min=1, help="Measured rounds after the warm-up.")] = 7,
    out: Out = None,
) -> None:
    """A request that ranks 4 to 256 options beside the same one that generates; lists of eight."""
    with reported_errors(), _steps() as (on_start, on_lap, _):
        from jumplora_bench.options import OptionsPlan, measure_options

        dtypes = tuple(map(str, dtype or (Dtype.FLOAT32, Dtype.INT8)))
        plan = OptionsPlan(shape, dtypes, threads, source, rounds)
        report = measure_options(plan, command_line(context), on_start=on_start, on_lap=on_lap)
    _tell(report, out)


def _known_kernels(given: str) -> core.Kernels:
    """What the engine takes, as its own type says it. Raises BadParameter."""
    from jumplora_server.core import Kernels as Known

    if given not in get_args(Known):
        allowed = ", ".join(get_args(Known))
        raise typer.BadParameter(f"--kernels {given} given; allowed are {allowed}")
    return cast("core.Kernels", given)


def command_line(context: typer.Context) -> str:
    """The command as it was given, without the path of the program."""
    words = context.command_path.rpartition("/")[2].split()
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is None or source.name != "COMMANDLINE":
            continue
        value = context.params[parameter.name or ""]
        if isinstance(value, bool):  # a flag; none of them is on by default
            words.append(parameter.opts[0])
            continue
        for each in value if isinstance(value, list | tuple) else [value]:
            words += [parameter.opts[0], str(each)]
    return shlex.join(words)


@contextmanager
def _steps() -> Iterator[tuple[Callable[[int], None], Told, Told]]:
    """Yields what to tell how many steps there are, each one's name before it, and what it does."""
    from jumplora_adapters.cli.progress import progress_bar

    bar = progress_bar()
    line = bar.add_task("building", total=None, state="")
    passed = 0

    def on_start(total: int) -> None:
        bar.update(line, description="measuring", total=total)

    def on_step(name: str) -> None:
        nonlocal passed
        bar.update(line, completed=passed, state=name)
        passed += 1

    with bar:
        yield on_start, on_step, lambda state: bar.update(line, state=state)
        bar.update(line, completed=passed, state="")


def _tell(report: Report, out: Path | None) -> None:
    from jumplora_bench.report import console

    report.show(console())
    if out is not None:
        with reported_errors():
            report.write(out)
        typer.echo(f"written to {out}")
