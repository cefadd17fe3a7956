"""The typed schema of every configuration: names, types, ranges, defaults.

A value names a registry key, never an import path. The YAML groups beside this file hold the same values by group; a
test composes every group and experiment and checks them against this schema.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]


class Section(BaseModel):
    """A part of the configuration; a key that it does not name is an error."""

    model_config = ConfigDict(extra="forbid", validate_default=True)


class EnvSection(Section):
    """Which environment: `env=frozen_lake env.parameters.size=5`, or any registered id, `env=MyEnv-v0`."""

    id: str = "FrozenLake-v1"
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Passed to `make`; the environment checks them."""


class FormatSection(Section):
    """How the agent writes tool calls."""

    name: Literal["hermes", "bracket", "react", "python"] = "bracket"
    system_prompt: bool = False
    """Whether the rules and the format stand in a system prompt; a model warmed up on the environment needs none."""


class WarmUpSection(Section):
    """Supervised learning on expert demonstrations before reinforcement learning."""

    episodes: Annotated[int, Field(ge=0)] = 2000
    """Demonstrations from the train split; 0 switches the warm-up off."""
    noise: Share = 0.65
    """Share of turns in which the demonstrator acts at random, so that there is room to learn."""
    epochs: Positive = 6
    batch: Positive = 16
    """Episodes per optimizer step."""
    lr: NonNegative = 3e-3


class ModelSection(Section):
    """Which language model: `model=tiny` builds one, `model=hf model.path=NAME` loads one."""

    path: str | None = None
    """Hugging Face name or folder; None builds the tiny model."""
    size: Literal["xs", "s", "m"] = "s"
    """Of the tiny model: about 0.13, 0.23 and 1.9 million parameters."""
    warm_up: WarmUpSection = Field(default_factory=WarmUpSection)
    """Of the tiny model; cached on disk by content."""
    max_context: Annotated[int, Field(ge=16)] = 1024
    """Tokens of an episode, at most; a longer episode is truncated."""
    max_new_tokens: Positive = 16
    """Tokens of one turn, at most."""
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    """While training; the log-probs in the loss are of the same distribution."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further variables of the chat template, `model.template_kwargs.enable_thinking=false` for Qwen3."""
    eval_temperature: NonNegative = 1.0
    """While evaluating: 1 measures the policy that is trained, 0 is greedy."""
    lora_rank: Annotated[int, Field(ge=0)] = 0
    """0 trains every weight."""
    lora_alpha: Positive = 32


class LossSection(Section):
    """The policy loss; algorithms in `trainers/losses.py`."""

    ratio: Literal["token", "turn", "sequence"] = "token"
    """What one importance ratio covers."""
    clip_low: NonNegative = 0.2
    clip_high: NonNegative = 0.28
    dual_clip: Annotated[float, Field(gt=1.0)] | None = None
    """Bound on the loss of tokens with negative advantage; None for none."""
    aggregation: Literal[
        "token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm", "turn-mean"
    ] = "token-mean"
    kl: Literal["k1", "k2", "k3"] = "k2"
    """Estimator of the KL term. As a loss k2 has the right gradient, k3 that of the other direction, and k1 none in
    expectation: it adds noise and teaches nothing."""
    kl_coefficient: NonNegative = 0.05
    """Weight of the KL to the reference policy (the model before training); 0 keeps no reference. Without it the tiny
    model settles on what it did best at first."""
    entropy_coefficient: float = 0.0


class CreditSection(BaseModel):
    """The credit scheme and its parameters: `credit=gigpo credit.gamma=0.9`; the scheme checks its parameters."""

    model_config = ConfigDict(extra="allow")

    name: str = "gigpo"

    @property
    def parameters(self) -> dict[str, Any]:
        """What is passed to the scheme."""
        return dict(self.__pydantic_extra__ or {})


class TrainerSection(Section):
    """The engine and the sizes of a run."""

    name: Literal["local", "verl"] = "local"
    steps: Positive = 150
    tasks_per_step: Positive = 16
    group_size: Positive = 8
    """Episodes per task; credit compares within a group."""
    self_play: Literal["none", "current", "earlier"] = "none"
    """Who sits in the other seat of a game: the environment's scripted opponent, the policy that is trained (which learns from
    both seats), or that of the last checkpoint."""
    filter: Literal["none", "informative", "top_p"] = "none"
    """Which groups are learned from: all, those whose outcomes differ (DAPO), or those with the largest spread (RAGEN)."""
    filter_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.9
    """Of `top_p`: the share of all spread that the kept groups hold."""
    max_rounds: Positive = 1
    """Rounds of rollouts until `tasks_per_step` groups pass the filter (dynamic sampling); DAPO's recipe allows 10."""
    overlong_buffer: Annotated[int, Field(ge=0)] = 0
    """Tokens before `model.max_context` from which on a longer episode is paid less (DAPO); 0 for no penalty."""
    replay_episodes: Annotated[int, Field(ge=0)] = 0
    """Good episodes of earlier steps that each step imitates as well (SPEAR); 0 switches that off."""
    replay_coefficient: NonNegative = 1.0
    """Weight of the imitation once it is warmed up."""
    replay_warm_up: Positive = 200
    """Steps over which that weight rises from 0, along a cosine."""
    replay_max_age: Annotated[int, Field(ge=0)] = 10
    """Steps after which an episode is no longer imitated."""
    epochs: Positive = 1
    """Passes over the batch of a step."""
    minibatches: Positive = 4
    """Optimizer steps per pass."""
    lr: NonNegative = 1e-3
    critic_lr: NonNegative = 1e-3
    """Of the critic, for credit schemes that compare with a value."""
    critic_epochs: Positive = 4
    """Optimizer steps of the critic per step, each over the whole batch."""
    warm_up_steps: Annotated[int, Field(ge=0)] = 5
    """Steps over which the learning rate rises from 0."""
    weight_decay: NonNegative = 0.0
    max_grad_norm: Annotated[float, Field(gt=0.0)] = 1.0
    token_budget: Positive = 4096
    """Padded tokens per micro-batch: memory against speed, never the gradient."""
    concurrency: Positive = 128
    """Episodes at a time."""
    episode_timeout: Annotated[float, Field(gt=0.0)] | None = None
    """Seconds of wall time after which an episode has failed."""
    mask_truncated: bool = False
    """Keep truncated episodes in the statistics of their group but out of the loss."""
    eval_every: Annotated[int, Field(ge=0)] = 25
    """Steps between evaluations on the validation split; 0 evaluates only before and after, on the test split."""
    eval_episodes: Positive = 256
    checkpoint_every: Annotated[int, Field(ge=0)] = 25
    """Steps between checkpoints; 0 writes only the last."""
    keep_checkpoints: Positive = 2
    save_trajectories_every: Annotated[int, Field(ge=0)] = 10
    """Steps between saved batches of trajectories; 0 saves none."""
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 on a GPU, float32 elsewhere."""
    threads: Annotated[int, Field(ge=0)] = 1
    """torch threads on a CPU; 1 is the fastest for small models and the only one that a busy machine does not slow
    down tenfold; 0 leaves torch its own choice."""
    loggers: list[Literal["console", "tensorboard", "wandb", "mlflow"]] = ["console", "tensorboard"]
    """Beside metrics.jsonl, which is always written."""
    nodes: Positive = 1
    """trainer=verl: machines that train."""
    ranks_per_node: Positive = 1
    """trainer=verl: training processes on each of them, one per GPU."""
    turn_timeout: Annotated[float, Field(gt=0.0)] | None = None
    """trainer=verl: seconds after which a turn that is not sampled has failed, and its episode with it."""
    stall_timeout: Annotated[float, Field(gt=0.0)] = 1800.0
    """trainer=verl: seconds without any progress after which the run is ended."""

    @model_validator(mode="after")
    def _one_process(self) -> Self:
        if self.name == "local":
            for key in ("nodes", "ranks_per_node", "turn_timeout", "stall_timeout"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"trainer.{key} is for trainer=verl; trainer=local is one process")
        return self


class TrainConfig(Section):
    """Everything `turnwise train` takes."""

    env: EnvSection = Field(default_factory=EnvSection)
    format: FormatSection = Field(default_factory=FormatSection)
    model: ModelSection = Field(default_factory=ModelSection)
    reward: list[str | dict[str, Any]] = ["env"]
    """Reward sources: names, or mappings with a name, weight, norm, schedule and the source's own parameters."""
    credit: CreditSection = Field(default_factory=CreditSection)
    loss: LossSection = Field(default_factory=LossSection)
    trainer: TrainerSection = Field(default_factory=TrainerSection)
    verl: dict[str, Any] = Field(default_factory=dict)
    """trainer=verl: anything of verl's own configuration, `verl.actor_rollout_ref.rollout.name=sglang`; checked against it
    before anything starts."""
    seed: Annotated[int, Field(ge=0)] = 0
    run: str | None = None
    """Folder of the run; None makes `runs/<time>-<env>-<credit>-s<seed>`."""
    resume: str | None = None
    """Folder of an interrupted run to go on with."""


class RandomAgentSection(Section):
    """`agent=random`: well-formed actions, drawn at random."""

    name: Literal["random"] = "random"


class ExpertAgentSection(Section):
    """`agent=expert agent.noise=0.2`: what the environment's expert does."""

    name: Literal["expert"] = "expert"
    noise: Share = 0.0
    """Share of turns in which it acts at random."""


class LocalAgentSection(Section):
    """`agent=local agent.path=RUN`: a language model in this process."""

    name: Literal["local"] = "local"
    path: str
    """Hugging Face name, folder, or run folder."""
    temperature: NonNegative | None = None
    """None is 0 where it plays alone, and 1 inside an agent that compares several of its answers."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    max_new_tokens: Positive = 64
    template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further variables of the chat template, `agent.template_kwargs.enable_thinking=false` for Qwen3."""


class OpenAIAgentSection(Section):
    """`agent=openai agent.url=http://localhost:8000/v1 agent.model=NAME`: a model behind a server."""

    name: Literal["openai"] = "openai"
    url: str
    """Base address; `/chat/completions` is added."""
    model: str
    api_key_env: str | None = None
    """Environment variable that holds the key; None sends none."""
    native_tools: bool = False
    """Use the server's tool calling; else the model writes calls in the environment's format."""
    temperature: NonNegative | None = None
    """None leaves it to the server, as do the two below."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    max_tokens: Positive | None = None
    send_seed: bool = True
    log_probs: bool = False
    top_log_probs: Annotated[int, Field(ge=0, le=20)] = 0
    token_ids: bool = False
    """Ask for token ids, as vLLM gives them."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Further fields of every request, `agent.extra_body.chat_template_kwargs.enable_thinking=false`."""
    timeout: Annotated[float, Field(gt=0.0)] = 600.0
    """Seconds for one attempt."""
    connect_timeout: Annotated[float, Field(gt=0.0)] = 10.0
    read_timeout: Annotated[float, Field(gt=0.0)] = 300.0
    retries: Annotated[int, Field(ge=0)] = 5
    backoff: NonNegative = 0.5
    """Seconds before the first retry, doubled for each."""


class ScorerSection(Section):
    """A reward source that rates what an agent says."""

    source: str
    """A registered reward source: `implicit_prm`, `judge`, or any other."""
    run: str | None = None
    """Run folder that the source was trained in, and whose last checkpoint holds what it has learned."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Of the source, where it is of no run: `agent.scorer.parameters.url=http://localhost:8000/v1`."""


class BestOfNAgentSection(Section):
    """`agent=best_of_n agent.n=4 agent.inner.name=local agent.inner.path=RUN`: an oracle over whole episodes."""

    name: Literal["best_of_n"] = "best_of_n"
    inner: AgentSection
    """The agent that it is around; any of them."""
    n: Positive = 4


class MajorityAgentSection(Section):
    """`agent=majority`: in every turn the call that most candidates make."""

    name: Literal["majority"] = "majority"
    inner: AgentSection
    n: Positive = 4


class SelfCertaintyAgentSection(Section):
    """`agent=self_certainty`: the candidate that the model is surest of."""

    name: Literal["self_certainty"] = "self_certainty"
    inner: AgentSection
    n: Positive = 4
    level: Literal["turn", "episode"] = "turn"


class RewardModelAgentSection(Section):
    """`agent=reward_model agent.scorer.source=implicit_prm agent.scorer.run=RUN`: the candidate that it rates highest."""

    name: Literal["reward_model"] = "reward_model"
    inner: AgentSection
    scorer: ScorerSection
    n: Positive = 4
    level: Literal["turn", "episode"] = "episode"


class ReflectAgentSection(Section):
    """`agent=reflect`: another attempt after each failure, with a note."""

    name: Literal["reflect"] = "reflect"
    inner: AgentSection
    reflector: AgentSection | None = None
    """Who writes the notes; None for the inner agent."""
    n: Positive = 3
    """Attempts, at most."""
    note: Literal["reflection", "attempt", "none"] = "reflection"
    memory: Positive = 3


class TreeAgentSection(Section):
    """`agent=tree`: search in copies of the environment."""

    name: Literal["tree"] = "tree"
    inner: AgentSection
    method: Literal["beam", "best_first", "mcts"] = "best_first"
    guide: Literal["score", "reward", "scorer"] = "score"
    scorer: ScorerSection | None = None
    """Of `guide=scorer`."""
    branch: Positive = 4
    """Actions proposed per state."""
    beam: Positive = 4
    """States kept per depth."""
    exploration: NonNegative = 1.0
    """Of MCTS, in units of the value."""
    max_calls: Positive | None = 64
    """Calls of the inner agent per turn."""
    max_turns: Positive | None = None
    """Turns in copies of the environment per turn."""
    max_tokens: Positive | None = None
    """Tokens read and written per turn."""

    @model_validator(mode="after")
    def _guided(self) -> Self:
        if (self.guide == "scorer") != (self.scorer is not None):
            raise ValueError(
                "guide=scorer and a scorer go together: agent.guide=scorer agent.scorer.source=NAME"
            )
        return self


AgentSection: TypeAlias = Annotated[
    RandomAgentSection
    | ExpertAgentSection
    | LocalAgentSection
    | OpenAIAgentSection
    | BestOfNAgentSection
    | MajorityAgentSection
    | SelfCertaintyAgentSection
    | RewardModelAgentSection
    | ReflectAgentSection
    | TreeAgentSection,
    Field(discriminator="name"),
]
"""Who plays."""

for _section in (
    BestOfNAgentSection,
    MajorityAgentSection,
    SelfCertaintyAgentSection,
    RewardModelAgentSection,
    ReflectAgentSection,
    TreeAgentSection,
):
    _section.model_rebuild()  # they name AgentSection, which names them


class PanelSection(Section):
    """Tasks of one environment in a suite."""

    env: str
    """Registered id."""
    name: str | None = None
    """What its figures are called; None for the id. Unique in the suite."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    format: Literal["hermes", "bracket", "react", "python"] = "bracket"
    system_prompt: bool = True
    """Whether the rules and the format stand in a system prompt."""
    split: str = "test"
    number: Positive | None = None
    """How many tasks, from where `seed` says on."""
    tasks: list[str] | None = None
    """Ids of the tasks, instead of a number of them."""
    seed: Annotated[int, Field(ge=0)] = 0
    """The same seed, the same tasks, as in `turnwise eval seed=`."""
    max_turns: Positive | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.number is None) == (not self.tasks):
            raise ValueError("a panel has either `number`, how many tasks, or `tasks`, a list of their ids")
        return self


class SuiteFile(Section):
    """A suite: `turnwise eval suite=core`, or `suite=PATH.yaml` for one of your own."""

    panels: Annotated[list[PanelSection], Field(min_length=1)]

    @model_validator(mode="after")
    def _named(self) -> Self:
        names = [panel.name or panel.env for panel in self.panels]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two panels are called {twice[0]!r}; give each a `name` of its own")
        return self


class PricesSection(Section):
    """What a million tokens cost; `prices.input=2.5 prices.output=10`."""

    input: NonNegative | None = None
    """None: no prices are known, and no cost is given."""
    output: NonNegative | None = None
    cached: NonNegative | None = None
    """Of those that a cache serves; None for the price of `input`."""
    currency: str = "USD"

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.input is None) != (self.output is None) or (self.cached is not None and self.input is None):
            raise ValueError("prices.input and prices.output go together: the cost needs both")
        return self


class EvalConfig(Section):
    """Everything `turnwise eval` takes."""

    env: EnvSection = Field(default_factory=EnvSection)
    format: FormatSection = Field(default_factory=FormatSection)
    agent: AgentSection = Field(default_factory=RandomAgentSection)
    suite: str | None = None
    """Panels of several environments instead of `env`, `format`, `episodes`, `split`, `seed` and `max_turns`: a name in
    configs/suite, or the path of a YAML file."""
    panels: list[PanelSection] = []
    """What the suite held; config.yaml keeps it, so that a suite that has changed since is noticed."""
    episodes: Positive = 256
    """In all; with several attempts at each task, a multiple of them."""
    attempts: Positive = 1
    """Episodes of each task."""
    split: str = "test"
    seed: Annotated[int, Field(ge=0)] = 0
    max_turns: Positive | None = None
    concurrency: Positive = 64
    timeout: Annotated[float, Field(gt=0.0)] | None = None
    max_failure_share: Share = 0.05
    """Of the episodes of a panel; above it the score is marked as not to be trusted and the exit code is 1."""
    prices: PricesSection = Field(default_factory=PricesSection)
    retry_failed: bool = False
    """Play the failed episodes of an earlier call again."""
    out: str | None = None
    """Folder for trajectories.jsonl, summary.json and report.md; None saves nothing. What is in it already goes on."""
    resume: str | None = None
    """Folder of an evaluation to go on with, as it was asked for."""


class AuditConfig(Section):
    """Everything `turnwise audit` takes."""

    model: str
    """The policy: a run folder, or a Hugging Face name or folder."""
    env: EnvSection | None = None
    """None takes the environment and format of the run folder."""
    format: FormatSection | None = None
    reward: list[str | dict[str, Any]] | None = None
    """Reward sources as in training; None takes those of the run, with what they have learned."""
    credit: Annotated[list[str], BeforeValidator(lambda v: [v] if isinstance(v, str) else v)] = ["all"]
    """Names of schemes, at their defaults; `all` for every registered one."""
    turns: Positive = 256
    rerolls: Annotated[int, Field(ge=2)] = 64
    """Episodes from the state before and from the state after each turn."""
    tasks: Positive = 32
    group_size: Positive = 8
    target: Literal["success", "score", "return"] = "success"
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    max_new_tokens: Positive = 16
    critic_steps: Annotated[int, Field(ge=0)] = 60
    """Optimizer steps of a critic on rollouts of other tasks, for the schemes that read one; 0 skips them."""
    concurrency: Positive = 128
    seed: Annotated[int, Field(ge=0)] = 0
    out: str | None = None
    """Folder for audit.json and audit.png; None saves nothing."""


class EvalRewardsConfig(Section):
    """Everything `turnwise eval-rewards` takes."""

    reward: list[str | dict[str, Any]] | None = None
    """Reward sources as in training; None takes those of the run of `model`, with what they have learned, or `env`."""
    model: str | None = None
    """The policy, for sources that read one: a run folder, or a Hugging Face name or folder."""
    env: EnvSection | None = None
    """None takes that of the run or of `trajectories`."""
    format: FormatSection | None = None
    trajectories: str | None = None
    """Folder of `turnwise eval` or file with episodes to plant errors in; None plays the expert."""
    tasks: Positive = 64
    """Episodes of the expert."""
    split: str = "test"
    aggregate: Literal["mean", "sum", "min", "last"] = "mean"
    """What makes one number of those of a trajectory's turns."""
    max_new_tokens: Positive = 16
    concurrency: Positive = 64
    seed: Annotated[int, Field(ge=0)] = 0
    out: str | None = None
    """Folder for rewards.json; None saves nothing."""
