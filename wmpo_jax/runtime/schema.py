"""The table of a config's fields: type, range, choices, and the relations between them.

A section is a class and a field is a line; `runtime.validation` checks a config against it and
words what is wrong. A field with a default may be absent from a config file, the others may not.
Relations are the validators at the end of a section, or of `Config` where they join two.
"""

import re
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

MOST_STARTS = 1_000_000  # initial states that a role of a run owns (assembly.seeds.BLOCK)
MOST_ROUNDS = 20  # of the lifelong loop
RUN_SEEDS = 200  # assembly.seeds.MAX_RUN_SEED
# What the presets of networks look back on; imported networks bring their own.
PRESET_HISTORY = 4  # frames
PRESET_WINDOW = 8  # frames
STORED_STARTS = 50  # initial states that LIBERO stores for a task, and evaluates on
REMOTE = "remote"  # the task whose policy is served elsewhere
# How the names of tasks begin whose simulators have a section of options.
SIMULATORS = {"libero_": "libero", "mimicgen_": "mimicgen", "robosuite_": "mimicgen"}


def _not_zero(size: int) -> int:
    if size == 0:
        raise ValueError("is 0, but must be at least 1, or -1 for what is left")
    return size


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"is {value}, but must be a number")
    return value


def _writers(names: str) -> str:
    for name in filter(None, map(str.strip, names.split(","))):
        if name != "csv" and not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name):
            raise ValueError(f"has {name[:60]!r}, but a metric writer is csv or module:Class")
    return names


def _distinct(tasks: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(tasks)) < len(tasks):
        raise ValueError("names a task twice: name each once")
    return tasks


Number = Annotated[float, BeforeValidator(_no_bool)]
Steps = Annotated[int, Field(ge=0, le=1_000_000_000)]  # 0: as imported
Interval = Annotated[int, Field(ge=1, le=1_000_000_000)]  # steps
Starts = Annotated[int, Field(ge=1, le=MOST_STARTS)]
Batch = Annotated[int, Field(ge=1, le=1_000_000)]
Small = Annotated[int, Field(ge=1, le=1024)]
Share = Annotated[Number, Field(ge=0, le=1)]
Rate = Annotated[Number, Field(gt=0, le=1)]  # learning rates: all optimizers here are Adam's size
Decay = Annotated[Number, Field(ge=0, le=10)]
Axis = Annotated[int, Field(ge=-1, le=1_000_000), AfterValidator(_not_zero)]
Horizon = Annotated[int, Field(ge=0, le=100_000)]  # actions; 0: the benchmark's own
Optimizer = Literal["adamw", "muon"]
PATH = "names a file or folder that exists, or is empty"
Place = Annotated[str, PATH]
LISTS = pydantic.Strict(False)  # too, which is how a tuple comes back from config.json
Tasks = Annotated[
    tuple[Annotated[int, Field(ge=0, le=89)], ...],
    LISTS,
    AfterValidator(_distinct),
]
Attempt = Annotated[tuple[Annotated[int, Field(ge=1, le=10_000)], Rate], LISTS]


class Section(pydantic.BaseModel):
    """Types are exact (no bool for an int, no text for a number); NaN and infinity are refused."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _not_none(cls, value: Any) -> Any:
        """None stands for an absent field below, and only there."""
        if value is None:
            raise ValueError("is None: give a value, or delete the field where it is optional")
        return value


class Mesh(Section):
    data: Axis
    fsdp: Axis
    tensor: Axis


class Data(Section):
    source: Place
    on_bad: Literal["refuse", "skip"]
    verify: Literal["all", "ends", "none"]
    chunk: Annotated[int, Field(ge=1, le=1000)]
    camera: str = ""
    instruction: str = ""
    rotation: Literal[0, 180] = 0  # degrees; 0: as the file says


class Libero(Section):
    tasks: Tasks
    physics: Literal["c", "mjx"]
    horizon: Horizon
    workers: Small
    wave: Batch


class Mimicgen(Section):
    states: Place
    horizon: Horizon
    workers: Small
    wave: Batch


class Playground(Section):
    """Fields of `envs.playground.rules.Rule`; "" and 0 keep what the environment's rule has."""

    instruction: str
    metric: str
    at_least: Number
    camera: str
    horizon: Horizon
    chunk: Annotated[int, Field(ge=0, le=1000)]
    seconds: Annotated[Number, Field(ge=0, le=10)] = 0.0


class Demos(Section):
    episodes: Starts
    bias: Annotated[Number, Field(ge=-1, le=1)] = 0.0  # meters; the sign is a direction
    noise: Share


class Play(Section):
    episodes: Annotated[int, Field(ge=0, le=MOST_STARTS)]  # 0: the world model learns without
    noise: Share


class Weights(Section):
    policy: Place
    world_model: Place
    autoencoder: Place
    reward: Place


class Networks(Section):
    policy: Literal["openvla_7b", "mid", "small"]
    world_model: Literal["xl_2", "mid", "small"]
    autoencoder: Literal["sdxl", "small"]
    reward: Literal["base", "small"]
    weights: Weights
    statistics: str
    dtype: Literal["float32", "bfloat16"]


class Policy(Section):
    bins: Annotated[int, Field(ge=2, le=32_000)]
    temperature: Annotated[Number, Field(gt=0, le=100)]
    lora_rank: Annotated[int, Field(ge=0, le=1024)] = 0  # 0: all of the policy is trained
    lora_alpha: Annotated[Number, Field(gt=0, le=10_000)] = 16.0


class Sft(Section):
    steps: Steps
    optimizer: Optimizer
    batch_size: Batch
    accumulate: Batch = 1
    learning_rate: Rate
    weight_decay: Decay
    soft_label_sigma: Annotated[Number, Field(ge=0, le=1000)]  # bins
    augment: bool
    checkpoint_every: Interval


class Collect(Section):
    starts: Starts
    group_size: Batch


class Autoencoder(Section):
    steps: Steps
    batch_size: Batch
    learning_rate: Rate
    kl_weight: Share
    checkpoint_every: Interval
    latents: Literal["tiny", "pixels"] = "tiny"

    @model_validator(mode="after")
    def _related(self) -> Self:
        if self.latents == "pixels" and self.steps:
            raise ValueError(
                f"autoencoder.latents are pixels, which need no training, and autoencoder.steps is "
                f"{self.steps}: set it to 0"
            )
        return self


class WorldModel(Section):
    hidden: Annotated[int, Field(ge=4, le=65_536, multiple_of=4)]
    depth: Small
    heads: Small
    demo_fraction: Share
    history: Annotated[int, Field(ge=1, le=1000)]  # frames
    pretrain_steps: Steps
    align_steps: Steps
    align_rollout_fraction: Share
    batch_size: Batch
    accumulate: Batch = 1
    optimizer: Optimizer
    learning_rate: Rate
    weight_decay: Decay | None = None
    prediction: Literal["residual", "velocity"]
    history_noise: Share
    timestep_shift: Annotated[Number, Field(gt=0, le=1000)]
    start_spread: Annotated[Number, Field(ge=0, le=100)] = 0.5
    train_times: Literal["spread", "sampled"] = "spread"
    patch: Small = 2
    fine: Annotated[int, Field(ge=0, le=65_536)] = 0
    copies: Annotated[int, Field(ge=0, le=1024)] = 0
    self_forcing: Share
    forcing_from: Steps = 0
    ema_decay: Annotated[Number, Field(ge=0, lt=1)]
    sampling_steps: Annotated[int, Field(ge=1, le=1000)]
    checkpoint_every: Interval

    @model_validator(mode="after")
    def _related(self) -> Self:
        if self.hidden % (2 * self.heads):
            raise ValueError(
                f"world_model.hidden = {self.hidden} does not divide into world_model.heads = "
                f"{self.heads} of an even width: change one of them"
            )
        if self.copies and not self.fine:
            raise ValueError(
                f"world_model.copies = {self.copies} needs world_model.fine: set it to 32 or more"
            )
        if self.start_spread == 0 and (self.train_times == "spread" or self.sampling_steps > 1):
            raise ValueError(
                "world_model.start_spread is 0, so that a noisy frame would show its target: set "
                "world_model.train_times to sampled and world_model.sampling_steps to 1"
            )
        if self.optimizer == "adamw" and self.weight_decay is None:
            raise ValueError(
                "world_model.optimizer is adamw, which needs world_model.weight_decay: add it to "
                "the file"
            )
        return self


class Reward(Section):
    window: Annotated[int, Field(ge=2, le=1000, multiple_of=2)]  # frames, two to a token
    min_step: Annotated[int, Field(ge=-1000, le=100_000)]  # first frame of the first window
    steps: Steps
    batch_size: Batch
    accumulate: Batch = 1
    learning_rate: Rate
    validation_fraction: Annotated[Number, Field(gt=0, lt=1)]
    checkpoint_every: Interval


class Gates(Section):
    episodes: Starts
    max_rate_gap: Share
    min_agreement: Share
    min_precision: Share
    enforce: bool


class Improve(Section):
    iterations: Steps
    groups: Starts
    group_size: Annotated[int, Field(ge=2, le=1_000_000)]
    attempts: Annotated[int, Field(ge=1, le=10_000)]
    epochs: Annotated[int, Field(ge=1, le=10_000)]
    minibatch: Batch
    micro_chunks: Annotated[int, Field(ge=0, le=10_000)] = 0  # 0: all of an episode's
    learning_rate: Rate
    clip_low: Share
    clip_high: Annotated[Number, Field(ge=0, le=100)]
    grad_clip: Annotated[Number, Field(gt=0, le=1e9)]
    weight_decay: Decay
    require_mixed: bool
    imagine_twice: bool = False  # and mask episodes whose two outcomes differ
    keyframe_share: Share = 0.0  # of groups that begin along a real rollout
    checkpoint_every: Interval

    @model_validator(mode="after")
    def _related(self) -> Self:
        if self.minibatch % self.group_size:
            raise ValueError(
                f"improve.minibatch = {self.minibatch} splits groups of {self.group_size}: make it "
                "a multiple of improve.group_size"
            )
        episodes = self.groups * self.group_size
        if episodes % min(self.minibatch, episodes):  # fewer episodes are one minibatch
            raise ValueError(
                f"improve.minibatch = {self.minibatch} does not divide the {episodes} episodes of "
                f"{self.groups} groups of {self.group_size}, so that every epoch would drop some: "
                "change improve.groups or improve.minibatch"
            )
        if self.iterations * self.attempts * self.groups > MOST_STARTS:
            raise ValueError(
                "improve.iterations x attempts x groups asks for more than the "
                f"{MOST_STARTS} initial states of a run: lower one of them"
            )
        return self


class Monitor(Section):
    every: Interval  # iterations of GRPO
    episodes: Starts  # real ones, of each check
    # Real episodes in all; 0: no checks, -1: as many as it takes in MJX, none elsewhere.
    budget: Annotated[int, Field(ge=-1, le=1_000_000_000)]

    def checks(self, iterations: int) -> int:
        """How many, those of the first and of the last policy included."""
        return len({*range(0, iterations + 1, self.every), iterations})


class Lifelong(Section):
    starts: Annotated[tuple[Starts, ...], LISTS, Field(max_length=MOST_ROUNDS - 1)]
    align_steps: Steps
    reward_steps: Steps


class Oracle(Section):
    iterations: Steps
    groups: Starts
    min_gain: Annotated[Number, Field(ge=-1, le=1)]


class GrpoOnRollouts(Section):
    settings: Annotated[tuple[Attempt, ...], LISTS, Field(min_length=1)]


class FilteredBc(Section):
    settings: Annotated[tuple[Attempt, ...], LISTS, Field(min_length=1)]


class Dpo(Section):
    settings: Annotated[tuple[Attempt, ...], LISTS, Field(min_length=1)]
    beta: Annotated[Number, Field(gt=0, le=100)]
    minibatch: Batch  # pairs


class GrpoOnline(Section):
    episodes: Annotated[int, Field(ge=0, le=1_000_000_000)]  # 0: as many as WMPO used in all
    groups: Starts


class Evaluate(Section):
    primary: Literal["greedy", "sampled"]
    episodes: Starts
    batch_size: Batch
    videos: Batch

    @model_validator(mode="after")
    def _related(self) -> Self:
        if self.episodes % self.batch_size:
            raise ValueError(
                f"evaluate.episodes = {self.episodes} is not a multiple of evaluate.batch_size = "
                f"{self.batch_size}: change one of them"
            )
        if self.videos > self.batch_size:
            raise ValueError(
                f"evaluate.videos = {self.videos} is more than evaluate.batch_size = "
                f"{self.batch_size}: lower it"
            )
        return self


class EvaluateImported(Section):
    folder: Place
    statistics: str
    lanczos_resize: bool
    jpeg: bool


class Remote(Section):
    address: str
    environment: Annotated[str, Field(min_length=1)]


class Config(Section):
    seed: Annotated[int, Field(ge=0, lt=RUN_SEEDS)]
    task: str
    image_size: Annotated[int, Field(ge=8, le=4096, multiple_of=8)]  # pixels
    cpu_devices: Small
    products: Literal["auto", "float32", "bfloat16"] = "auto"
    mesh: Mesh
    tensorboard: bool
    writers: Annotated[str, AfterValidator(_writers)] = ""
    data: Data | None = None
    libero: Libero | None = None
    mimicgen: Mimicgen | None = None
    playground: Playground | None = None
    demos: Demos
    play: Play
    networks: Networks | None = None
    policy: Policy
    sft: Sft
    collect: Collect
    autoencoder: Autoencoder
    world_model: WorldModel
    reward: Reward
    gates: Gates
    improve: Improve
    monitor: Monitor | None = None
    lifelong: Lifelong | None = None
    oracle: Oracle
    grpo_on_rollouts: GrpoOnRollouts
    filtered_bc: FilteredBc | None = None
    dpo: Dpo | None = None
    grpo_online: GrpoOnline | None = None
    evaluate: Evaluate
    evaluate_imported: EvaluateImported | None = None
    remote: Remote | None = None

    @property
    def environment(self) -> str:
        """The task that is acted in."""
        return self.remote.environment if self.task == REMOTE and self.remote else self.task

    @model_validator(mode="after")
    def _task_has_its_section(self) -> Self:
        if self.task == REMOTE and self.remote is None:
            raise ValueError("task = remote needs a section remote: use configs/remote.py")
        for prefix, section in SIMULATORS.items():
            if self.environment.startswith(prefix) and getattr(self, section) is None:
                raise ValueError(
                    f"task = {self.environment[:60]} needs a section {section}: use a config with "
                    f"one, as configs/{'libero' if section == 'libero' else 'mimicgen_coffee'}.py"
                )
        if not self.task and not (self.data and self.data.source):
            raise ValueError("task is empty: name one, or give a dataset as data.source")
        return self

    @model_validator(mode="after")
    def _tasks_exist_and_have_enough_starts(self) -> Self:
        if not (self.libero and self.environment.startswith("libero_")):
            return self
        count, tasks = 90 if self.environment == "libero_90" else 10, self.libero.tasks
        if max(tasks, default=0) >= count:
            raise ValueError(
                f"libero.tasks names task {max(tasks)} and {self.environment[:60]} has those from "
                f"0 to {count - 1}: name other ones"
            )
        starts = STORED_STARTS * (len(tasks) or count)
        if self.evaluate.episodes > starts:
            raise ValueError(
                f"evaluate.episodes = {self.evaluate.episodes} is more than the {starts} initial "
                "states that LIBERO stores for libero.tasks: lower it or add tasks"
            )
        return self

    @model_validator(mode="after")
    def _rounds_are_paid_for(self) -> Self:
        rounds = 1 + (len(self.lifelong.starts) if self.lifelong else 0)
        asked = self.improve.iterations * self.improve.attempts * self.improve.groups * rounds
        if asked > MOST_STARTS:
            raise ValueError(
                f"improve.iterations x attempts x groups in {rounds} rounds asks for more than the "
                f"{MOST_STARTS} initial states of a run: lower one of them"
            )
        if self.monitor and self.monitor.budget > 0:
            checks = rounds * self.monitor.checks(self.improve.iterations)
            if checks * self.monitor.episodes > self.monitor.budget:
                raise ValueError(
                    f"monitor.budget = {self.monitor.budget} does not pay for {checks} checks of "
                    f"{self.monitor.episodes} real episodes: raise it or monitor.every, lower "
                    "monitor.episodes, or set it to 0 for no checks"
                )
        return self

    @model_validator(mode="after")
    def _history_fits(self) -> Self:
        history, window = self.world_model.history, self.reward.window
        if not self.task and self.data and self.world_model.self_forcing > 0:
            _at_most("world_model.history", history, "data.chunk", self.data.chunk)
        if self.networks and not self.networks.weights.world_model:
            _equal("world_model.history", history, PRESET_HISTORY)
        if self.networks and not self.networks.weights.reward:
            _equal("reward.window", window, PRESET_WINDOW)
        return self


def _at_most(name: str, value: int, other: str, bound: int) -> None:
    if value > bound:
        raise ValueError(f"{name} = {value} is more than {other} = {bound}: lower it")


def _equal(name: str, value: int, wanted: int) -> None:
    if value != wanted:
        raise ValueError(
            f"{name} = {value} does not fit the networks of this config, which see {wanted} "
            f"frames: set it to {wanted}"
        )
