"""How each machine is sent to its disk."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    with op.batch_alter_table("machine") as batch_op:
        batch_op.add_column(sa.Column("hand_off", sa.String(), nullable=True))
