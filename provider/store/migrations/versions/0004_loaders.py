"""What boot loader ran on each firmware."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "loader",
        sa.Column("mac", sa.String(), nullable=False),
        sa.Column("loader", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("mac"),
    )
