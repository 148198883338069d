"""The Parquet shard set: recipe, plan, shards, snapshots. The format is described in docs/format.md."""

from segtasks.shards.records import ShardRecord
from segtasks.shards.snapshot import Snapshot, open_snapshot
from segtasks.shards.verify import VerifyReport, require_intact, verify

__all__ = ["ShardRecord", "Snapshot", "VerifyReport", "open_snapshot", "require_intact", "verify"]
