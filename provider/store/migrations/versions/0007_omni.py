"""What a manager like Omni tells and wants back, and which agent a machine runs."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    for table in ("machine", "record", "operation"):
        with op.batch_alter_table(table) as batch_op:
            batch_op.add_column(sa.Column("install_event", sa.BigInteger(), nullable=False, server_default="0"))
            batch_op.add_column(sa.Column("manager_token", sa.String(), nullable=False, server_default=""))
    with op.batch_alter_table("machine") as batch_op:
        batch_op.add_column(sa.Column("agent_kind", sa.String(), nullable=False, server_default="bootwright"))
        batch_op.add_column(sa.Column("agent_arguments", sa.JSON(), nullable=True))
    with op.batch_alter_table("record") as batch_op:
        batch_op.add_column(sa.Column("wipe_id", sa.String(), nullable=False, server_default=""))
