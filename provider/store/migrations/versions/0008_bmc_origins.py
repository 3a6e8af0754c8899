"""Who told us of a BMC, and secrets that we keep for a manager."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    with op.batch_alter_table("bmc") as batch_op:
        batch_op.add_column(sa.Column("origin", sa.String(), nullable=False, server_default="settings"))
    op.create_table(
        "keepsake",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
