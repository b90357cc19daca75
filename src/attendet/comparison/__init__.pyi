from .callback import StudyCallback as StudyCallback
from .statistics import holm as holm
from .statistics import paired_difference as paired_difference
from .statistics import sign_flip_test as sign_flip_test
from .study import Study as Study
from .study import compare as compare
