"""What an admin says: the site file, read and checked. `load_site(find_site("lab"))`."""

from flexi.configfile.findings import Finding, SiteError
from flexi.site.model import Site

from .load import find_site, load_site, site_argument

__all__ = ["Finding", "Site", "SiteError", "find_site", "load_site", "site_argument"]
