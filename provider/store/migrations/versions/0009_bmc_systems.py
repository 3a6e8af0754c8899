"""Which of the systems behind a BMC a machine is."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    with op.batch_alter_table("bmc") as batch_op:
        batch_op.add_column(sa.Column("system", sa.String(), nullable=False, server_default=""))
    op.execute("UPDATE bmc SET kind = 'either' WHERE kind = 'ipmi' AND origin != 'settings'")
