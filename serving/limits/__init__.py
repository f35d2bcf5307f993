"""What every request is checked for before it costs anything: key, origin, upload."""

from serving.limits.body_limits import UploadLimits as UploadLimits
from serving.limits.keys import KeyRing as KeyRing, Rates as Rates, RequireKey as RequireKey
from serving.limits.origins import CrossOrigin as CrossOrigin
