"""Leases by address alone, with what names their clients; reservations."""

import sqlalchemy as sa
from alembic import op

import provider.store.tables

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "reservation",
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sa.Column("remote_id", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("address"),
    )
    op.rename_table("lease", "old_lease")
    op.drop_index("ix_lease_mac", "old_lease")
    op.create_table(
        "lease",
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("mac", sa.String(), nullable=False),
        sa.Column("uuid", sa.String(), nullable=False),
        sa.Column("circuit_id", sa.String(), nullable=False),
        sa.Column("remote_id", sa.String(), nullable=False),
        sa.Column("expires_at", provider.store.tables.UtcDateTime(), nullable=False),
        sa.Column("declined", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("address"),
    )
    op.create_index("ix_lease_mac", "lease", ["mac"])
    # An address that was leased on two interfaces goes to whoever holds it longest.
    op.execute(
        "INSERT INTO lease (address, mac, uuid, circuit_id, remote_id, expires_at, declined)"
        " SELECT address, mac, '', '', '', expires_at, declined FROM old_lease AS chosen"
        " WHERE NOT EXISTS (SELECT 1 FROM old_lease AS other WHERE other.address = chosen.address"
        " AND (other.expires_at, other.interface) > (chosen.expires_at, chosen.interface))"
    )
    op.drop_table("old_lease")
