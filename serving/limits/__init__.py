"""What every request must pass before it costs anything: key, origin, upload."""

from serving.limits.keyring import KeyRing as KeyRing
from serving.limits.keys import RequireKey as RequireKey
from serving.limits.origins import CrossOrigin as CrossOrigin
from serving.limits.rates import Rates as Rates
from serving.limits.uploads import UploadLimits as UploadLimits
