#include "services/serial/api_internal.h"

#include "common/rpc/message.h"

static struct api *api_of(Kds__V1__Backup_Service *service)
{
	return (struct api *)((char *)service - offsetof(struct api, backups));
}

static enum status_code read_position(struct state *s, const ProtobufCMessage *in, unsigned sealed, struct status *st,
				      struct buffer *out)
{
	(void)in;
	(void)sealed;
	Kds__V1__BackupPosition answer = KDS__V1__BACKUP_POSITION__INIT;
	answer.index = state_applied(s);
	return message_pack(&answer.base, out, st);
}

static void backups_position(Kds__V1__Backup_Service *service, const Kds__V1__BackupPositionRequest *in,
			     Kds__V1__BackupPosition_Closure closure, void *call)
{
	(void)closure;
	api_read(api_of(service), call, false, &in->base, read_position);
}

static void backups_read(Kds__V1__Backup_Service *service, const Kds__V1__BackupReadRequest *in,
			 Kds__V1__BackupReadResponse_Closure closure, void *call)
{
	(void)closure;
	backup_read(api_of(service)->backup, call, in);
}

enum status_code api_add_backup(struct api *a, struct rpc_server *server, struct status *st)
{
	static const struct rpc_access table[] = {
		{ .method = "Position", .allow = PEER_ADMIN, .flags = RPC_READ },
		{ .method = "Read", .allow = PEER_ADMIN, .flags = RPC_READ },
	};
	a->backups = (Kds__V1__Backup_Service)KDS__V1__BACKUP__INIT(backups_);
	return rpc_server_add(server, &a->backups.base, table, sizeof table / sizeof *table, st);
}
