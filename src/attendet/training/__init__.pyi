from .callback import TrainingCallback as TrainingCallback
from .recipe import Recipe as Recipe
from .recipe import load_recipe as load_recipe
from .recipe import recipe_names as recipe_names
from .trainer import TrainingResult as TrainingResult
from .trainer import train as train
