"""The YAML groups agree with the schema, and every mistake on the command line is told in words."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from turnwise.configs.compose import FOLDER, ConfigError, compose, suite
from turnwise.configs.schema import EvalConfig, TrainConfig
from turnwise.envs import FORMATS, env_ids, make

REGISTERED = {"env": lambda: ["FrozenLake-v1", "Maze-v0"], "credit": lambda: ["gigpo", "grpo", "rloo"]}
FILES = sorted(
    path.relative_to(FOLDER).with_suffix("").as_posix()
    for path in FOLDER.glob("*/*.yaml")
    if path.parent.name != "suite"  # which is no group
)
GIVEN = {
    "env/generic": ["env=Maze-v0"],
    "credit/generic": ["credit=rloo"],
    "model/hf": ["model.path=x"],
    "agent/local": ["agent.path=x"],
    "agent/openai": ["agent.url=http://x/v1", "agent.model=y"],
    "agent/reward_model": ["agent.inner.name=random", "agent.scorer.source=judge"],
    **{
        f"agent/{name}": ["agent.inner.name=random"]
        for name in ("best_of_n", "majority", "self_certainty", "reflect", "tree")
    },
}


def train(*overrides):
    return compose(TrainConfig, overrides, registered=REGISTERED)


def evaluate(*overrides):
    return compose(EvalConfig, overrides, registered=REGISTERED)


def leaves(data, prefix=""):
    for name, value in data.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{name}.")
        elif name != "defaults":
            yield prefix + name, value


def test_the_files_hold_the_defaults_of_the_schema():
    assert train() == TrainConfig()
    assert evaluate() == EvalConfig()


@pytest.mark.parametrize("name", FILES)
def test_every_value_of_a_group_file_survives_into_the_configuration(name):
    group, member = name.split("/")
    chosen = [f"{group}={member}"] if member != "generic" else []
    config = (evaluate if group == "agent" else train)(*chosen, *GIVEN.get(name, []))
    everything = dict(leaves(config.model_dump()))
    whole = "# @package _global_" in (FOLDER / f"{name}.yaml").read_text()
    written = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{name}.yaml"))
    found = {
        key: everything[key] for key, value in leaves(written, "" if whole else f"{group}.") if value != "???"
    }
    assert found == {
        key: value for key, value in leaves(written, "" if whole else f"{group}.") if value != "???"
    }


def test_the_files_name_what_is_registered():
    from turnwise.trainers.credit import credit_schemes

    def names(group, key):
        values = [
            OmegaConf.load(path)[key] for path in (FOLDER / group).glob("*.yaml") if path.stem != "generic"
        ]
        return set(values)

    assert names("env", "id") <= set(env_ids())
    assert names("credit", "name") <= set(credit_schemes())
    assert names("format", "name") == set(FORMATS)


def test_no_file_can_import():
    # A configuration names registry keys; `_target_` would let it name code.
    assert [path for path in FOLDER.rglob("*.yaml") if "_target_" in path.read_text()] == []


def test_an_agent_around_an_agent_has_the_keys_of_both():
    config = evaluate(
        "agent=best_of_n",
        "agent.n=8",
        "agent.inner.name=majority",
        "agent.inner.inner.name=local",
        "agent.inner.inner.path=r",
    )
    assert (config.agent.n, config.agent.inner.n, config.agent.inner.inner.path) == (8, 4, "r")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["agent=best_of_n"], ["agent.inner.name must be given"]),
        (["agent=best_of_n", "agent.inner.name=lokal"], ["agent.inner.name='lokal'", "'local'"]),
        (["agent=best_of_n", "agent.inner.name=local"], ["agent.inner.path must be given"]),
        (
            ["agent=majority", "agent.inner.name=random", "agent.inner.noise=0.5"],
            ["unknown key 'agent.inner.noise': it is a key of agent.inner=expert"],
        ),
        (
            ["agent=majority", "agent.inner.name=random", "agent.level=turn"],
            ["'agent.level'", "agent=self_certainty"],
        ),
        (
            ["agent=tree", "agent.inner.name=random", "agent.guide=scorer"],
            ["guide=scorer and a scorer go together"],
        ),
        (["agent=tree", "agent.inner.name=random", "agent.branch=0"], ["agent.branch=0"]),
    ],
)
def test_mistakes_inside_an_agent_are_told_by_their_key(overrides, words):
    with pytest.raises(ConfigError) as error:
        evaluate(*overrides)
    assert [word for word in words if word not in str(error.value)] == []


def test_a_registered_name_without_a_file_is_a_member_of_its_group():
    config = train("credit=rloo", "credit.gamma=0.9", "env=Maze-v0", "env.parameters.size=5")
    assert (config.credit.name, config.credit.parameters) == ("rloo", {"gamma": 0.9})
    assert (config.env.id, config.env.parameters) == ("Maze-v0", {"size": 5})


def test_the_name_of_a_file_and_the_registered_id_give_the_same():
    assert train("env=frozen_lake") == train("env=FrozenLake-v1") == train("env.id=FrozenLake-v1")


def test_registered_names_are_not_looked_up_where_a_file_answers():
    def never():
        raise AssertionError("importing the credit schemes costs seconds")

    compose(TrainConfig, ["credit=gigpo", "env=sokoban"], registered={"env": never, "credit": never})


def test_a_value_beats_an_experiment_and_a_group_beats_its_choice():
    assert train("experiment=smoke").trainer.steps == 2
    assert train("trainer.steps=7", "experiment=smoke").trainer.steps == 7
    assert train("experiment=frozen_lake_grpo").credit.name == "grpo"
    assert train("experiment=frozen_lake_grpo", "credit=gigpo").credit.name == "gigpo"
    assert train("experiment=null") == TrainConfig()


def test_a_pretrained_model_is_told_the_rules_and_learns_slowly_unless_asked_otherwise():
    config = train("model=hf", "model.path=org/name")
    assert (config.format.name, config.format.system_prompt, config.trainer.lr) == ("hermes", True, 1e-6)
    config = train("model=hf", "model.path=org/name", "format=react", "trainer.lr=1e-5")
    assert (config.format.name, config.trainer.lr) == ("react", 1e-5)


def test_the_later_of_two_overrides_wins():
    assert train("seed=1", "seed=2").seed == 2
    assert train("credit=rloo", "credit=grpo").credit.name == "grpo"


def test_a_plus_before_a_key_changes_nothing():
    assert train("+credit.gamma=0.9", "++seed=3") == train("credit.gamma=0.9", "seed=3")


def test_texts_with_special_characters_go_in_quotes():
    assert train('model.path="/a b/c=d(e)"', 'run="2024"').model.path == "/a b/c=d(e)"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainer.stps=3", ["'trainer.stps'", "'trainer.steps'", "tasks_per_step"]),
        ("steps=3", ["'steps'", "Did you mean 'trainer.steps'?"]),
        ("env.size=5", ["Did you mean 'env.parameters.size'?"]),
        ("model.warm_up.episode=3", ["Did you mean 'model.warm_up.episodes'?"]),
        ("credti=rloo", ["Did you mean 'credit'?"]),
        ("hydra.run.dir=x", ["unknown key 'hydra'"]),
        ("trainer.steps=abc", ["trainer.steps='abc'", "integer"]),
        ("trainer.steps=true", ["trainer.steps=True", "integer"]),
        ("trainer.steps=0", ["trainer.steps=0", "greater than or equal to 1"]),
        ("trainer.steps=null", ["trainer.steps=None", "integer"]),
        ("seed=1.5", ["seed=1.5", "integer"]),
        ("model.warm_up=3", ["model.warm_up=3", "dictionary"]),
        ("loss.ratio=tokn", ["loss.ratio='tokn'", "'token', 'turn' or 'sequence'"]),
        ("run=2024", ["run=2024", """'run="2024"'"""]),
        ("reward=env", ["reward='env'", "'reward=[env]'"]),
        ("trainer.loggers=[wand]", ["trainer.loggers.0='wand'", "'wandb'"]),
        ("env=frozenlake", ["no env 'frozenlake'", "Did you mean 'frozen_lake'?", "Maze-v0"]),
        ("credit=gipo", ["no credit 'gipo'", "Did you mean 'gigpo'?", "rloo"]),
        ("loss=clop", ["no loss 'clop'", "Did you mean 'clip'?", "gspo"]),
        ("experiment=smok", ["no experiment 'smok'", "Did you mean 'smoke'?"]),
        ("env=null", ["takes one name"]),
        ("env=[frozen_lake,sokoban]", ["takes one name"]),
        ("trainer=5", ["takes one name", "trainer.KEY"]),
        ("model=hf", ["model.path must be given"]),
        ("seed=1,2", ["'seed=1,2'", "one value"]),
        ("~model", ["'~model'", "key=value"]),
        ("=3", ["'=3'", "key=value"]),
        ("seed", ["'seed'", "write key=value"]),
        ("model.path=a b(c", ["'model.path=a b(c'", "quotes"]),
        ("seed=${nowhere}", ["nowhere"]),
    ],
)
def test_a_wrong_override_says_what_is_wrong_and_what_is_allowed(override, words):
    with pytest.raises(ConfigError) as error:
        train(override)
    message = str(error.value)
    assert [word for word in words if word not in message] == []
    assert "\n" not in message


def test_every_mistake_gets_a_line():
    with pytest.raises(ConfigError) as error:
        train("trainer.stps=3", "seed=-1", "loss.kl=k4")
    assert len(str(error.value).splitlines()) == 3


def save(config, folder):
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config.model_dump())))
    return f"resume={folder}"


def test_a_resumed_run_has_the_configuration_of_its_folder(tmp_path):
    before = train(
        "env=Maze-v0",
        "env.parameters.size=5",
        "credit=rloo",
        "credit.gamma=0.5",
        "trainer.lr=1e-5",
        "loss=gspo",
    )
    resume = save(before, tmp_path)
    assert train(resume) == before.model_copy(update={"resume": str(tmp_path)})
    # Saying again what the run has is no change; more steps are the one thing that may be asked for.
    again = train(
        "env=Maze-v0",
        "credit=rloo",
        "credit.gamma=0.5",
        "loss=gspo",
        resume,
        "trainer.steps=300",
        "env.parameters.size=5",
    )
    assert again.trainer.steps == 300


@pytest.mark.parametrize(
    "change", ["credit=grpo", "trainer.lr=1e-4", "env.parameters.size=5", "credit.gamma=0.5", "seed=1"]
)
def test_a_resumed_run_cannot_become_another(change, tmp_path):
    resume = save(train(), tmp_path)
    with pytest.raises(ConfigError, match="goes on as it began"):
        train(resume, change)


def test_every_key_that_differs_is_named_and_those_of_speed_may(tmp_path):
    resume = save(evaluate("episodes=8", "prices.input=1", "prices.output=2"), tmp_path)
    with pytest.raises(ConfigError) as error:
        evaluate(resume, "episodes=9", "agent=expert", "agent.noise=0.5", "concurrency=3")
    told = [line.partition("=")[0] for line in str(error.value).splitlines()[:-1]]
    assert told == ["agent.name", "agent.noise", "episodes"]
    faster = evaluate(resume, "concurrency=3", "timeout=2.0", "prices.input=3", "max_failure_share=0.2")
    assert (faster.concurrency, faster.prices.input, faster.episodes) == (3, 3.0, 8)


SUITES = sorted(path.stem for path in (FOLDER / "suite").glob("*.yaml"))


@pytest.mark.parametrize("name", SUITES)
def test_a_shipped_suite_holds_tasks_of_what_is_registered(name):
    assert suite(name)
    for panel in suite(name):
        env = make(panel.env, format=panel.format, **panel.parameters)
        assert panel.number is not None
        assert panel.number <= env.tasks.size(panel.split)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("panels: []", "panels: List should have at least 1 item"),
        ("panels: [{env: A-v1}]", "either `number`"),
        ("panels: [{env: A-v1, number: 2, tasks: [x]}]", "either `number`"),
        ("panels: [{env: A-v1, number: 2}, {env: A-v1, number: 3}]", "two panels are called 'A-v1'"),
        ("panels: [{env: A-v1, nmber: 2}]", "panels.0.nmber: Extra inputs"),
        ("panels: [", "cannot be read"),
        ("5", "cannot be read"),
        ("- 5", "the file: "),
    ],
)
def test_a_suite_that_is_wrong_says_where(text, words, tmp_path):
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        suite(str(path))
    with pytest.raises(ConfigError, match=r"no suite 'cor'\. Did you mean 'core'\?"):
        suite("cor")


def test_the_sections_of_a_run_stand_in_for_groups_that_are_not_chosen():
    given = {
        "env": {"id": "Maze-v0", "parameters": {"size": 9}},
        "format": {"name": "react", "system_prompt": True},
    }

    def ask(*overrides):
        return compose(EvalConfig, overrides, registered=REGISTERED, sections=given)

    assert ask().env.model_dump() == given["env"]
    assert ask("env.parameters.size=5").env.parameters == {"size": 5}
    assert ask("env=sokoban").env.id == "Sokoban-v1"
    assert ask("env=sokoban").format.model_dump() == given["format"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "not a run folder"),
        ("a: [", "cannot be read"),
        ("stps: 3", "unknown key 'stps'"),
        ("- 1", "cannot be read"),
    ],
)
def test_resume_needs_a_readable_run(text, words, tmp_path):
    if text is not None:
        Path(tmp_path, "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        train(f"resume={tmp_path}")
