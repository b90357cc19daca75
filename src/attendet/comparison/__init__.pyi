from .comparison import Study as Study
from .comparison import compare as compare
from .progress import StudyReporter as StudyReporter
from .statistics import holm as holm
from .statistics import paired_difference as paired_difference
from .statistics import sign_flip_test as sign_flip_test
