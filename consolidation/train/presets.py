"""Four sizes of a training run.

| preset | length | width x layers | steps x batch | meant for |
|---|---|---|---|---|
| tiny | 64 | 32 x 1 | 500 x 16 | under a minute on two cores: does it run |
| small | 256 | 64 x 1 | 4,000 x 8 | minutes a seed on one core: the shipped reference runs |
| base | 1,024 | 256 x 4 | 10,000 x 32 | one GPU; not run yet |
| paper | 2,048 | 512 x 8 | 10,000 x 32 | GPUs: every published hyperparameter; not run yet |

Besides size, steps, batch and learning rate four fields of the first three are not the paper's. Three for
what was seen in pilots on this benchmark (one seed each): routing pressure from the start ends attention
before retrieval is learnt; a Gumbel temperature annealed to .1 freezes the router, or lets it lose novel
queries; and at lambda_E = .1 the router had left only half of the recurring queries after 3,000 steps. The
fourth, r = 16, 32 and 32 instead of d / 16 = 2, 4 and 16, so that the semantic memory is not made small by
the small width (the paper's r is 32, at d = 512).
"""

from consolidation.config import CRAMConfig, Objective, SRCDConfig
from consolidation.train.config import TrainConfig
from labbook.command import Start
from labbook.console import UserError

PRESETS = {
    "tiny": TrainConfig(
        benchmark=SRCDConfig(
            length=64, patterns=20, novel_keys=20, values=8, bindings=0.0625, queries=0.0625
        ),
        cram=CRAMConfig(width=32, layers=1, heads=2, buffer=32, semantic_rank=16),
        objective=Objective(attention_penalty=0.5),
        steps=500,
        batch=16,
        learning_rate=6e-3,
        temperature=(1.0, 1.0),
        temperature_steps=0,
        pressure_start=150,
        pressure_ramp=150,
        evaluation=128,
        evaluations=20,
    ),
    "small": TrainConfig(
        benchmark=SRCDConfig(length=256),
        cram=CRAMConfig(width=64, layers=1, heads=2, buffer=64, semantic_rank=32),
        objective=Objective(attention_penalty=0.5),
        steps=4000,
        batch=8,
        learning_rate=3e-3,
        temperature=(1.0, 1.0),
        temperature_steps=0,
        pressure_start=400,
        pressure_ramp=800,
        evaluations=50,
    ),
    "base": TrainConfig(
        benchmark=SRCDConfig(length=1024),
        cram=CRAMConfig(width=256, layers=4, heads=4, buffer=256, semantic_rank=32),
        objective=Objective(attention_penalty=0.5),
        learning_rate=1e-3,
        temperature=(1.0, 1.0),
        temperature_steps=0,
        pressure_start=1000,
        pressure_ramp=2000,
    ),
    "paper": TrainConfig(),
}


def preset(name: str) -> TrainConfig:
    """The preset of that name. Raises UserError naming those there are."""
    if name not in PRESETS:
        raise UserError(
            f"there is no preset {name!r}; there are {', '.join(PRESETS)}. The preset is the first argument."
        )
    return PRESETS[name]


def begin(args: list[str]) -> Start:
    """Arguments `[PRESET] [flags]`: the preset (default: tiny) and the flags."""
    name, rest = (args[0], args[1:]) if args and not args[0].startswith("-") else ("tiny", args)
    return Start(preset(name), rest, f" [{' | '.join(PRESETS)}]")
