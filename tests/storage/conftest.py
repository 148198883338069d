from tests.s3 import s3_bucket, s3_endpoint
from tests.servers.stores import azure_site, azurite, fake_gcs, gcs_site, moto, moto_site, seaweed, seaweed_site

__all__ = [
    "azure_site",
    "azurite",
    "fake_gcs",
    "gcs_site",
    "moto",
    "moto_site",
    "s3_bucket",
    "s3_endpoint",
    "seaweed",
    "seaweed_site",
]
