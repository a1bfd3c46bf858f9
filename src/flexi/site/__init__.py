"""What an admin says: the site file, read and checked. `load_site(find_site("lab"))`."""

from .findings import Finding, SiteError
from .load import find_site, load_site, site_argument
from .site import Site

__all__ = ["Finding", "Site", "SiteError", "find_site", "load_site", "site_argument"]
