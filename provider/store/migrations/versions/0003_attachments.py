"""Where DHCP saw each MAC address."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    with op.batch_alter_table("machine_mac") as batch_op:
        for name in ("interface", "relay", "circuit_id", "remote_id"):
            batch_op.add_column(sa.Column(name, sa.String(), nullable=False, server_default=""))
