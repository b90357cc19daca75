from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from attendet.config import field_help, settings_of
from attendet.errors import ConfigError
from attendet.training import Recipe, load_recipe, recipe_names


def test_the_package_has_its_recipes() -> None:
    assert {"default", "classic", "small-data"} <= set(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_of_the_package_loads(name: str) -> None:
    recipe = load_recipe(name)

    assert load_recipe("default", recipe.as_dict()) == recipe


def test_classic_is_the_older_way() -> None:
    recipe = load_recipe("classic")

    assert (recipe.loss.assignment, recipe.optimizer.optimizer) == ("classic", "sgd")
    assert recipe.anchors == "default"


def test_every_field_says_what_it_is() -> None:
    texts = field_help(Recipe)

    assert list(settings_of(Recipe)) == list(texts)
    assert all(text.endswith(".") for text in texts.values())


def test_a_recipe_survives_yaml() -> None:
    recipe = Recipe().replace(lr=1e-5, patience=None, hue=0.1)

    assert load_recipe("default", yaml.safe_load(yaml.safe_dump(recipe.as_dict()))) == recipe


def test_overrides_win_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("epochs: 7\nlr: 1e-3\nbatch: 2\n")

    recipe = load_recipe(str(file), {"epochs": 9})

    assert recipe == Recipe().replace(epochs=9, lr=0.001, batch=2)


def test_an_unknown_key_names_the_file_and_the_nearest_setting(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("epoch: 7\n")

    with pytest.raises(ConfigError, match=r"'epoch' \(.*mine\.yaml\)\. Did you mean 'epochs'\?"):
        load_recipe(str(file))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epochs: [", r"not YAML .*mine\.yaml"),
        ("- 1\n", r"must be a map.*mine\.yaml"),
        ("epochs: many\n", r"epochs must be a whole number; got 'many' \(.*mine\.yaml\)"),
        ("mosaic: 1.5\n", r"mosaic must be from 0 to 1; got 1\.5.*mine\.yaml"),
        ("optimizer: lion\n", r"one of muon, adamw, sgd; got 'lion'"),
    ],
)
def test_a_wrong_file_is_one_clear_error(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)

    with pytest.raises(ConfigError, match=words):
        load_recipe(str(file))


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("# nothing\n")

    assert load_recipe(str(tmp_path / "mine.yaml")) == Recipe()


def test_a_missing_file_and_an_unknown_name_have_different_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read .*gone\.yaml"):
        load_recipe(str(tmp_path / "gone.yaml"))
    with pytest.raises(ConfigError, match="Did you mean 'classic'"):
        load_recipe("clasic")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("batch", 0),
        ("size", 100),
        ("size", 32),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("width_mult", 0.0),
        ("mosaic", -0.1),
        ("translate", 1.5),
        ("scale", 1.0),
        ("hue", 0.7),
        ("degrees", 200.0),
        ("momentum", 1.0),
        ("ema_decay", 1.0),
        ("patience", 0),
        ("warmup_epochs", -1.0),
        ("weight_decay", -0.1),
        ("clip_norm", -1.0),
        ("effective_batch", -1),
        ("freeze_backbone_epochs", -1),
        ("start_size_fraction", 0.0),
        ("box_weight", -1.0),
    ],
)
def test_a_value_out_of_range_is_refused_before_anything_starts(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be "):
        load_recipe("default", {name: value})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"momentum": 0.5}, "momentum has no effect with optimizer muon"),
        ({"ignore_iou": 0.5}, "ignore_iou has no effect with assignment dynamic"),
        ({"effective_batch": 8}, r"effective_batch must be 0, or at least batch \(16\); got 8"),
    ],
)
def test_a_setting_that_would_change_nothing_is_refused_where_it_is_given(
    given: dict[str, Any], message: str
) -> None:
    recipe = Recipe().replace(**given)

    recipe.check_effective(())  # as the rest of a recipe that somebody wrote
    with pytest.raises(ConfigError, match=message):
        recipe.check_effective(given)


def test_settings_that_count_are_let_through() -> None:
    given = {"momentum": 0.5, "optimizer": "sgd", "ignore_iou": 0.4, "assignment": "classic"}
    given |= {"effective_batch": 0, "batch": 4}

    Recipe().replace(**given).check_effective(given)
    Recipe().replace(effective_batch=16).check_effective(("effective_batch",))


def test_the_recipe_with_pretrained_weights_is_fine_tune() -> None:
    assert load_recipe() == load_recipe("default") != load_recipe("fine-tune")
    assert load_recipe(pretrained=True) == load_recipe("fine-tune")
    assert load_recipe("classic", pretrained=True) == load_recipe("classic")


def test_few_images_get_more_epochs_unless_epochs_are_set() -> None:
    recipe = Recipe(epochs=30, batch=8, min_steps=400)

    assert recipe.for_images(9).epochs == 200  # two steps an epoch
    assert recipe.for_images(120).epochs == 30
    assert recipe.for_images(9).for_images(9) == recipe.for_images(9)
    assert load_recipe(recipe, {"epochs": 5}).for_images(9).epochs == 5
    assert load_recipe(recipe, {"epochs": 5, "min_steps": 20}).for_images(9).epochs == 10


def test_the_model_gives_the_width_unless_it_is_set() -> None:
    assert Recipe().resolved_width_mult == 1
    assert Recipe(model="yolov4-tiny-n").resolved_width_mult == 0.25
    assert Recipe(model="yolov4-tiny-n", width_mult=0.75).resolved_width_mult == 0.75


def test_a_setting_that_came_later_leaves_the_keys_of_earlier_runs_as_they_are() -> None:
    board = Path(__file__).parents[2] / "docs" / "leaderboard" / "sets.json"
    published = json.loads(board.read_text(encoding="utf-8"))["sets"][0]["recipe"]

    recipe = load_recipe("default", published)

    later = ("levels", "cuda_graphs", "batch_norm", "muon_lr")
    assert recipe.content() == {k: v for k, v in published.items() if k not in later}
    assert recipe.replace(levels=3).content()["levels"] == 3
