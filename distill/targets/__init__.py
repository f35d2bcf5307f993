"""Teachers and their features: computed during training, computed before it, or given."""

from distill.targets.from_recipe import teacher_from_recipe as teacher_from_recipe
from distill.targets.given import (
    GivenTargets as GivenTargets,
    GivenTeacher as GivenTeacher,
    given_embeddings as given_embeddings,
    in_batches as in_batches,
)
from distill.targets.joint import (
    BALANCE as BALANCE,
    JointTeacher as JointTeacher,
)
from distill.targets.network import NetworkTeacher as NetworkTeacher
from distill.targets.store import (
    FeatureStore as FeatureStore,
    RowSource as RowSource,
    StoreRecord as StoreRecord,
    filled_store as filled_store,
)
from distill.targets.targets import (
    OnlineTargets as OnlineTargets,
    StoredTargets as StoredTargets,
    Targets as Targets,
)
from distill.targets.teacher import (
    Embedder as Embedder,
    Teacher as Teacher,
    Uncomputed as Uncomputed,
)
