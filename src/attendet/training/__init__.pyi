from .events import Reporter as Reporter
from .recipe import Recipe as Recipe
from .recipe import load_recipe as load_recipe
from .recipe import recipe_names as recipe_names
from .run import TrainingResult as TrainingResult
from .run import train as train
