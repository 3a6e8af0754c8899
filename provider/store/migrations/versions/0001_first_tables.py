"""First tables."""

import sqlalchemy as sa
from alembic import op

import provider.store.tables

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "counter",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("value", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "lease",
        sa.Column("interface", sa.String(), nullable=False),
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("mac", sa.String(), nullable=False),
        sa.Column("expires_at", provider.store.tables.UtcDateTime(), nullable=False),
        sa.Column("declined", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("interface", "address"),
    )
    with op.batch_alter_table("lease", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_lease_mac"), ["mac"], unique=False)

    op.create_table(
        "machine",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("uuid", sa.String(), nullable=False),
        sa.Column("serial", sa.String(), nullable=False),
        sa.Column("board_serial", sa.String(), nullable=False),
        sa.Column("chassis_serial", sa.String(), nullable=False),
        sa.Column("first_seen", provider.store.tables.UtcDateTime(), nullable=False),
        sa.Column("acceptance", sa.String(), nullable=False),
        sa.Column("cordoned", sa.Boolean(), nullable=False),
        sa.Column("allocation", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("preferred_power", sa.String(), nullable=False),
        sa.Column("wipe_id", sa.String(), nullable=False),
        sa.Column("reboot_id", sa.String(), nullable=False),
        sa.Column("power_off_id", sa.String(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("firmware", sa.String(), nullable=True),
        sa.Column("power_state", sa.String(), nullable=False),
        sa.Column("power_at", provider.store.tables.UtcDateTime(), nullable=True),
        sa.Column("power_source", sa.String(), nullable=False),
        sa.Column("agent_connected", sa.Boolean(), nullable=False),
        sa.Column("agent_token_sha256", sa.String(), nullable=True),
        sa.Column("enrolled_at", provider.store.tables.UtcDateTime(), nullable=True),
        sa.Column("inventory", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("inventory_at", provider.store.tables.UtcDateTime(), nullable=True),
        sa.Column("last_reboot_at", provider.store.tables.UtcDateTime(), nullable=True),
        sa.Column("last_power_on_at", provider.store.tables.UtcDateTime(), nullable=True),
        sa.Column("last_power_off_at", provider.store.tables.UtcDateTime(), nullable=True),
        sa.Column("last_script_at", provider.store.tables.UtcDateTime(), nullable=True),
        sa.Column("last_script_mode", sa.String(), nullable=True),
        sa.Column("warnings", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("announced_phase", sa.String(), nullable=False),
        sa.Column("published_sha256", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("machine", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_machine_agent_token_sha256"), ["agent_token_sha256"], unique=True)
        batch_op.create_index(batch_op.f("ix_machine_serial"), ["serial"], unique=False)
        batch_op.create_index(batch_op.f("ix_machine_uuid"), ["uuid"], unique=False)

    op.create_table(
        "outbox",
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("machine_id", sa.String(), nullable=False),
        sa.Column("document", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("at", provider.store.tables.UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("sequence"),
    )
    op.create_table(
        "bmc",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("port", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("user", sa.String(), nullable=False),
        sa.Column("sealed_password", sa.LargeBinary(), nullable=False),
        sa.Column("selects", sa.String(), nullable=False),
        sa.Column("selector", sa.String(), nullable=False),
        sa.Column("machine_id", sa.String(), nullable=True),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("last_error", sa.String(), nullable=False),
        sa.Column("retry_at", provider.store.tables.UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["machine_id"], ["machine.id"], ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("name"),
        sa.UniqueConstraint("machine_id"),
    )
    op.create_table(
        "event",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("machine_id", sa.String(), nullable=False),
        sa.Column("at", provider.store.tables.UtcDateTime(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("data", sa.JSON(none_as_null=True), nullable=False),
        sa.ForeignKeyConstraint(["machine_id"], ["machine.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("event", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_event_machine_id"), ["machine_id"], unique=False)

    op.create_table(
        "machine_mac",
        sa.Column("mac", sa.String(), nullable=False),
        sa.Column("machine_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["machine_id"], ["machine.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("mac"),
    )
    with op.batch_alter_table("machine_mac", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_machine_mac_machine_id"), ["machine_id"], unique=False)

    op.create_table(
        "operation",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("machine_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("percent", sa.Integer(), nullable=False),
        sa.Column("wipe_plan", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("wipe_report", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("error", sa.String(), nullable=False),
        sa.Column("created_at", provider.store.tables.UtcDateTime(), nullable=False),
        sa.Column("started_at", provider.store.tables.UtcDateTime(), nullable=True),
        sa.Column("finished_at", provider.store.tables.UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["machine_id"], ["machine.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("operation", schema=None) as batch_op:
        batch_op.create_index("ix_operation_machine_created", ["machine_id", "created_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_operation_machine_id"), ["machine_id"], unique=False)

    op.create_table(
        "record",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("machine_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("at", provider.store.tables.UtcDateTime(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("detail", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["machine_id"], ["machine.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("record", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_record_machine_id"), ["machine_id"], unique=False)

    op.create_table(
        "ticket",
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("machine_id", sa.String(), nullable=False),
        sa.Column("expires_at", provider.store.tables.UtcDateTime(), nullable=False),
        sa.Column("nonce", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["machine_id"], ["machine.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("sha256"),
    )
    with op.batch_alter_table("ticket", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_ticket_expires_at"), ["expires_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_ticket_machine_id"), ["machine_id"], unique=False)
