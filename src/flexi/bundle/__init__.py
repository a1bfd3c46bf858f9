"""A folder from which a site deploys with no internet at all: made by `flexi bundle`, checked before every deploy."""
